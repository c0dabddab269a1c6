"""What the gateway serves at one moment: one generation of the pointer, a version for every node, a router.

A snapshot is built whole beside the one in use and never changes. Does not poll and does not answer (gateway.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from experts.registry import Registry, RegistryError
from experts.tree import Tree
from routing.router import Router
from serving.engines.interface import LoadFailed, Model
from serving.pool import Pool, Resident

log = logging.getLogger(__name__)
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

    fault: what of this generation is not in force and what stands in its place, None when all of it is.
    """

    generation: int
    stands: Mapping[str, Stand]
    residents: Mapping[str, Resident]
    router: Router | None
    router_version: str | None
    fault: str | None = None

    @property
    def versions(self) -> dict[str, str]:
        """Version of every node that has a model of its own in force."""
        return {name: resident.version for name, resident in self.residents.items()}


def stands_of(tree: Tree, promoted: Collection[str]) -> dict[str, Stand]:
    """Who answers for every node when only some have a promoted version; the root must be among them. Pure."""
    return {name: _stand(tree, name, promoted) for name in tree.nodes}


def _stand(tree: Tree, name: str, promoted: Collection[str]) -> Stand:
    shared = tree.model_of(name)
    if shared in promoted:
        return Stand(shared, "" if shared == name else f"{name} shares the model of {shared}")
    for ancestor in reversed(tree.path(name)[:-1]):
        if tree.model_of(ancestor) in promoted:
            return Stand(tree.model_of(ancestor), f"{name} has no promoted version yet, so its ancestor {ancestor} answers")
    raise KeyError(f"neither {name} nor an ancestor of it has a promoted version; the root must be promoted first")


@dataclass(frozen=True, slots=True)
class Found:
    """Whole versions in force, read at one generation. circles: nodes whose version says so in its card."""

    generation: int
    folders: Mapping[str, Path]
    circles: frozenset[str]
    router: Path | None


def find(registry: Registry, tree: Tree) -> Found:
    """Folders of the versions in force, all of one generation. Raises RegistryError when the pointer never stands still."""
    for _ in range(_TRIES):
        pointer = registry.pointer()
        folders = {name: registry.served(name) for name in pointer.nodes if name in tree.nodes}
        router = registry.served("router") if pointer.router else None
        if registry.pointer().generation == pointer.generation:
            whole = {name: folder for name, folder in folders.items() if folder is not None}
            circles = frozenset(name for name, folder in whole.items() if registry.card(name, folder.name).get("circles"))
            return Found(pointer.generation, whole, circles, router)
    raise RegistryError(f"the pointer changed in each of {_TRIES} looks; promotions come faster than they can be read")


def build(found: Found, *, tree: Tree, pool: Pool, before: Snapshot | None, elsewhere: Mapping[str, Callable[[], Model]] | None = None) -> Snapshot | None:
    """A snapshot of what was found, its models loaded and warmed up; None while the root has no version.

    Raises LoadFailed when a version can't be served and there is a snapshot to keep. Without one, a node that fails is
    left out, because an ancestor's answer is better than none. A router that can't be used keeps no node out: the one
    before it goes on, or the root answers. elsewhere: nodes that another server answers for.
    """
    residents: dict[str, Resident] = {}
    for name, folder in found.folders.items():
        if elsewhere and name in elsewhere:
            continue
        resident = pool.resident(name, folder.name, folder, pinned=name == tree.root, circles=name in found.circles)
        try:
            resident.acquire()
        except LoadFailed as error:
            if before is not None or name == tree.root:
                raise
            log.error("%s is left out, its ancestor answers: %s", name, error)
            continue
        resident.release()
        residents[name] = resident
    for name, load in (elsewhere or {}).items():
        residents[name] = pool.resident(name, ELSEWHERE, Path(), pinned=True, load=load)
    if tree.root not in residents:
        return None
    router, version, fault = _router(found, tree=tree, before=before)
    return Snapshot(found.generation, stands_of(tree, residents), residents, router, version, fault)


def _router(found: Found, *, tree: Tree, before: Snapshot | None) -> tuple[Router | None, str | None, str | None]:
    """The router in force, its version, and why it is not the one that the pointer names."""
    if found.router is None:
        return None, None, None
    version = found.router.name
    if before is not None and before.router_version == version:
        return before.router, version, None
    try:
        return Router.load(found.router, tree), version, None
    except (OSError, ValueError, KeyError) as error:
        kept = before.router_version if before is not None else None
        fault = (f"router {version} can't be used, {f'router {kept} goes on' if kept else f'so {tree.root} answers'}; "
                 f"the nodes of generation {found.generation} are served: {type(error).__name__}: {error}")
        return before.router if before is not None else None, kept, fault
