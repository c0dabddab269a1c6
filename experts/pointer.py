"""The one pointer of a run: which version of every node (and of the router) is in force, and how it came to be so.

Pure: reads and writes no file (registry.py does). The history is bounded, yet long enough for every name to go back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

FORMAT = 1
ROUTER = "router"
HISTORY_KEPT = 100
HISTORY_KEPT_A_NAME = 5
Kind = Literal["promote", "rollback", "mend"]
_VERSION = re.compile(r"v\d{6,}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NOTHING: Mapping[str, str] = MappingProxyType({})


class BadPointer(ValueError):
    """The text is not a pointer of ours: torn, no JSON, or another program's."""


class NewerPointer(ValueError):
    """The pointer was written by a later version of this program."""


@dataclass(frozen=True, slots=True)
class Change:
    """One generation. changes: name -> (version before, version after), None where there was or is none. at: UTC, ISO 8601."""

    generation: int
    at: str
    kind: Kind
    changes: Mapping[str, tuple[str | None, str | None]]
    reason: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """What is in force. generation grows by one with every change; 0: nothing was promoted yet. history: oldest first."""

    generation: int = 0
    nodes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    router: str | None = None
    history: tuple[Change, ...] = ()

    def version(self, name: str) -> str | None:
        """The version in force of a node or of "router"; None when there is none."""
        return self.router if name == ROUTER else self.nodes.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every node with a version in force, and "router" when it has one."""
        return (*self.nodes, *((ROUTER,) if self.router is not None else ()))


@dataclass(frozen=True, slots=True)
class Served:
    """One step of a name's way: the version and the generation that brought it (0: older than the history)."""

    version: str | None
    generation: int


def is_name(name: str) -> bool:
    """Whether name can name a node (or is "router")."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises ValueError unless is_name."""
    if not is_name(name):
        raise ValueError(f"{name!r} can't name a node; use a-z, 0-9 and _, a letter first, at most 32 characters")


def check_version(version: str) -> None:
    """Raises ValueError unless version looks like v000001."""
    if not _VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is no version; versions look like v000001")


def changed(pointer: Pointer, versions: Mapping[str, str | None], *, kind: Kind, reason: str, at: str) -> Pointer:
    """The next generation, with these versions in force; None takes a name out. The same pointer when nothing would change."""
    changes = {name: (pointer.version(name), version) for name, version in versions.items() if pointer.version(name) != version}
    if not changes:
        return pointer
    nodes = {**pointer.nodes, **{name: new for name, (_, new) in changes.items() if name != ROUTER}}
    router = changes[ROUTER][1] if ROUTER in changes else pointer.router
    change = Change(pointer.generation + 1, at, kind, MappingProxyType(changes), reason)
    return Pointer(generation=change.generation, nodes=MappingProxyType({name: version for name, version in nodes.items() if version is not None}),
                   router=router, history=_bounded((*pointer.history, change)))


def way(pointer: Pointer, name: str) -> tuple[Served, ...]:
    """What served name, oldest first, the last one in force: promotions add to it, rollbacks and repairs take back from it.

    So going back twice goes two versions back, not back and forth.
    """
    steps: list[Served] = []
    for change in pointer.history:
        if name not in change.changes:
            continue
        before, after = change.changes[name]
        if not steps:
            steps = [Served(before, 0)]
        if change.kind == "promote":
            steps.append(Served(after, change.generation))
        else:
            while steps and steps[-1].version != after:
                steps.pop()
            steps = steps or [Served(after, 0)]
    if not steps and pointer.version(name) is not None:
        steps = [Served(pointer.version(name), 0)]
    return tuple(steps)


def earlier_versions(pointer: Pointer, name: str) -> tuple[str, ...]:
    """Versions that served name before the one in force, the newest of them first, each once."""
    in_force = pointer.version(name)
    earlier = [step.version for step in reversed(way(pointer, name)[:-1]) if step.version is not None and step.version != in_force]
    return tuple(dict.fromkeys(earlier))


def last_promoted_names(pointer: Pointer) -> tuple[str, ...]:
    """Names whose version in force came with the newest promotion that is not yet undone; empty when there is none."""
    tops = {name: way(pointer, name)[-1].generation for name in pointer.names}
    newest = max(tops.values(), default=0)
    return tuple(name for name, generation in tops.items() if generation == newest and newest > 0)


def encode(pointer: Pointer) -> dict[str, Any]:
    """The pointer as JSON."""
    history = [{"generation": change.generation, "at": change.at, "kind": change.kind,
                "changes": {name: list(pair) for name, pair in change.changes.items()}, "reason": change.reason} for change in pointer.history]
    return {"format": FORMAT, "generation": pointer.generation, "nodes": dict(pointer.nodes), "router": pointer.router, "history": history}


def decode(text: bytes) -> Pointer:
    """The pointer of a file's bytes. Raises BadPointer, or NewerPointer when a later version of this program wrote it."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPointer(f"not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise BadPointer("not a pointer: no object with a number under \"format\"")
    if document["format"] > FORMAT:
        raise NewerPointer(f"format {document['format']}, and this program knows formats up to {FORMAT}; update the program")
    try:
        return _decode(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPointer(f"not a whole pointer: {type(error).__name__}: {error}") from None


def _decode(document: Mapping[str, Any]) -> Pointer:
    nodes = dict(document["nodes"])
    router = document["router"]
    for name, version in [*nodes.items(), *([(ROUTER, router)] if router is not None else [])]:
        check_name(name)
        check_version(version)
    history = tuple(Change(int(change["generation"]), str(change["at"]), change["kind"],
                           MappingProxyType({name: (before, after) for name, (before, after) in change["changes"].items()}), str(change["reason"]))
                    for change in document["history"])
    generation = document["generation"]
    if not isinstance(generation, int) or generation < 0:
        raise ValueError(f"generation {generation!r}; a count from 0 is allowed")
    return Pointer(generation=generation, nodes=MappingProxyType(nodes), router=router, history=history)


def _bounded(history: tuple[Change, ...]) -> tuple[Change, ...]:
    """The newest HISTORY_KEPT changes, and for every name its newest HISTORY_KEPT_A_NAME however old they are."""
    kept: list[Change] = []
    seen: dict[str, int] = {}
    for position, change in enumerate(reversed(history)):
        if position < HISTORY_KEPT or any(seen.get(name, 0) < HISTORY_KEPT_A_NAME for name in change.changes):
            kept.append(change)
        for name in change.changes:
            seen[name] = seen.get(name, 0) + 1
    return tuple(reversed(kept))
