"""What the gateway serves at one moment: one generation of the pointer, a version for every node, a router.

A snapshot is built whole beside the one in use and never changes. Does not poll and does not answer (gateway.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from experts.registry import ROUTER, Registry, RegistryError
from experts.tree import Tree
from routing.router import Router
from serving.engines.interface import LoadFailed, Model
from serving.pool import Pool, Resident

_TRIES = 20
ELSEWHERE = "upstream"  # in place of a version, for a node that another server answers for


@dataclass(frozen=True, slots=True)
class Stand:
    """Who answers for a node. model: the node whose weights are used; note: why it isn't the node itself, or empty."""

    model: str
    note: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Immutable. stands: for every node of the tree; residents: by the name of the model; router_version: None without a router.

    fault: what of this generation is not in force and what stands in its place, None when all of it is; missing: the names of that.
    """

    generation: int
    stands: Mapping[str, Stand]
    residents: Mapping[str, Resident]
    router: Router | None
    router_version: str | None
    fault: str | None = None
    missing: frozenset[str] = frozenset()

    def is_like(self, other: Snapshot) -> bool:
        """Whether both serve the same versions of the same generation and lack the same."""
        return ((self.generation, self.versions, self.router_version, self.missing)
                == (other.generation, other.versions, other.router_version, other.missing))

    @property
    def versions(self) -> dict[str, str]:
        """Version of every node that has a model of its own in force."""
        return {name: resident.version for name, resident in self.residents.items()}


def stands_of(tree: Tree, served: Collection[str], *, missing: Collection[str] = ()) -> dict[str, Stand]:
    """Who answers for every node when only some have a version that is served; the root must be among them. missing: nodes with
    a promoted version that can't be loaded now. Pure. Raises KeyError without the root."""
    return {name: _stand(tree, name, served, missing=missing) for name in tree.nodes}


def _stand(tree: Tree, name: str, served: Collection[str], *, missing: Collection[str]) -> Stand:
    shared = tree.model_of(name)
    if shared in served:
        return Stand(shared, "" if shared == name else f"{name} shares the model of {shared}")
    why = f"the promoted version of {shared} can't be loaded now" if shared in missing else f"{name} has no promoted version yet"
    for ancestor in reversed(tree.path(name)[:-1]):
        if tree.model_of(ancestor) in served:
            return Stand(tree.model_of(ancestor), f"{why}, so its ancestor {ancestor} answers")
    raise KeyError(f"neither {name} nor an ancestor of it has a promoted version; the root must be promoted first")


@dataclass(frozen=True, slots=True)
class Found:
    """Whole versions in force, read at one generation. circles: nodes whose version says so in its card; named: what the pointer names
    of nodes and router, which another version stands for, or none, while it can't be read."""

    generation: int
    folders: Mapping[str, Path]
    circles: frozenset[str]
    router: Path | None
    named: Mapping[str, str]


def find(registry: Registry, tree: Tree) -> Found:
    """Folders of the versions in force, all of one generation. Raises RegistryError when the pointer never stands still."""
    for _ in range(_TRIES):
        pointer = registry.pointer()
        named = {name: version for name in pointer.names if (name in tree.nodes or name == ROUTER) and (version := pointer.version(name))}
        served = {name: registry.served(name) for name in named}
        if registry.pointer().generation == pointer.generation:
            router = served.pop(ROUTER, None)
            whole = {name: folder for name, folder in served.items() if folder is not None}
            circles = frozenset(name for name, folder in whole.items() if registry.card(name, folder.name).get("circles"))
            return Found(pointer.generation, whole, circles, router, named)
    raise RegistryError(f"the pointer changed in each of {_TRIES} looks; promotions come faster than they can be read")


def build(found: Found, *, tree: Tree, pool: Pool, before: Snapshot | None, elsewhere: Mapping[str, Callable[[], Model]] | None = None) -> Snapshot | None:
    """A snapshot of what was found, its models loaded and warmed up; None while the root has no version.

    Raises LoadFailed when a version of the root, or one in place of another that is served, can't be. A version that serves
    already goes on, whether or not its files can be read now. Any other node that
    fails is left out, because an ancestor's answer is better than none, and is named in the fault. A router that can't be
    used keeps no node out: the one before it goes on, or the root answers. elsewhere: nodes that another server answers for.
    """
    elsewhere = elsewhere or {}
    served = before.residents if before is not None else {}
    residents = {name: resident for name, resident in served.items() if name not in elsewhere and found.named.get(name) == resident.version}
    faults = _unread(found, {*elsewhere, *residents})  # what serves already needs no file
    if tree.root in faults and tree.root not in found.folders:
        raise LoadFailed(faults[tree.root])
    for name, folder in found.folders.items():
        if name in elsewhere or name in residents:
            continue
        resident = pool.resident(name, folder.name, folder, pinned=name == tree.root, circles=name in found.circles)
        try:
            resident.acquire()
        except LoadFailed as error:
            if name == tree.root or name in served:
                raise
            faults[name] = f"{name} {folder.name} is left out: {error}"
            continue
        resident.release()
        residents[name] = resident
    for name, load in elsewhere.items():
        residents[name] = pool.resident(name, ELSEWHERE, Path(), pinned=True, load=load)
    if tree.root not in residents:
        return None
    router, version, fault = _router(found, tree=tree, before=before)
    if fault is not None:
        faults[ROUTER] = fault
    missing = frozenset(faults)
    return Snapshot(found.generation, stands_of(tree, residents, missing=missing), residents, router, version, "; ".join(faults.values()) or None, missing)


def _unread(found: Found, elsewhere: Collection[str]) -> dict[str, str]:
    """What is to be said of nodes whose named version isn't the one found."""
    faults = {}
    for name, version in found.named.items():
        folder = found.folders.get(name)
        if name != ROUTER and name not in elsewhere and (folder is None or folder.name != version):
            instead = f", {folder.name} is served in its place" if folder is not None else " and is left out"
            faults[name] = f"{name} {version} can't be read now{instead}"
    return faults


def _router(found: Found, *, tree: Tree, before: Snapshot | None) -> tuple[Router | None, str | None, str | None]:
    """The router in force, its version, and why it is not the one that the pointer names."""
    wanted = found.named.get(ROUTER)
    if wanted is None:
        return None, None, None
    router, version = (before.router, before.router_version) if before is not None else (None, None)
    if version == wanted:
        return router, version, None
    why = "it can't be read now"
    if found.router is not None:
        try:
            router, version = Router.load(found.router, tree), found.router.name
        except (OSError, ValueError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
    if version == wanted:
        return router, version, None
    return router, version, (f"router {wanted} can't be used, {f'router {version} goes on' if version else f'so {tree.root} answers'}; "
                             f"the nodes of generation {found.generation} are served: {why}")
