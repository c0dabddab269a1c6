"""Versions of every node and of the router in a run folder: immutable folders, a card in each, one pointer to what is in force.

One process writes at a time (a lock), any number reads: a reader always finds a whole pointer. Damaged versions are set
aside and the one served before is taken. Does not decide what is better (training/promote.py) nor load models (expert.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experts import durable
from experts import pointer as rules
from experts.pointer import ROUTER, BadPointer, Change, Kind, NewerPointer, Pointer

__all__ = ["ROUTER", "Change", "DamagedVersion", "Pointer", "Registry", "RegistryError", "UnknownVersion"]

logger = logging.getLogger(__name__)

CARD = "card.json"
POINTER = "current.json"
BACKUP = "current.backup.json"  # the same pointer once more, written just before it and read only when current.json can't be
_RESERVED = {"files", "name", "version", "created", "seal"}
_NUMBERED = re.compile(r"v(\d{6,})(\..*)?")
_LOCK_WAIT_S = 60.0


class RegistryError(RuntimeError):
    """The registry can't do what was asked; the message says why and what to do."""


class UnknownVersion(RegistryError):
    """No such version on disk."""


class DamagedVersion(RegistryError):
    """A version whose files are not those its card names."""

    def __init__(self, name: str, version: str, reason: str) -> None:
        self.name, self.version, self.reason = name, version, reason
        super().__init__(f"{name} {version} is damaged: {reason}")


class Registry:
    """The versions below run_dir. Making one touches nothing; the folder is made by the first write."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self._known_damaged: dict[tuple[str, str], str] = {}  # where the disk takes neither a new name nor a mark
        self._said: str | None = None
        self._cleaned = False

    def pointer(self) -> Pointer:
        """What is in force; generation 0 and no nodes in a new run. Raises RegistryError when neither the pointer nor its backup can be read."""
        return self._read_pointer()[0]

    def add(self, name: str, write: Callable[[Path], None], *, card: Mapping[str, Any], expected_bytes: int | None = None) -> str:
        """Keep what write(folder) writes as a new version of name, and return the version. It is not in force until promoted.

        card: JSON of the caller's choice, without the keys files, name, version, created and seal, which are added.
        expected_bytes: size, for the check of free space; None: that of the version before. Raises OutOfSpace, ValueError.
        """
        rules.check_name(name)
        if taken := _RESERVED & set(card):
            raise ValueError(f"card of {name} has {sorted(taken)}, which the registry writes itself; take other keys")
        home = self._home(name)
        expected = self._last_size(name) if expected_bytes is None else expected_bytes
        with durable.temporary_folder(home / "new", expected_bytes=expected) as temporary:
            write(temporary)
            files = _describe(temporary, name=name)
            durable.sync_tree(temporary)
            with self._writing():
                version = self._next_version(name)
                facts = {**card, "name": name, "version": version, "created": _now(), "files": files}
                durable.write_json(temporary / CARD, durable.seal(facts), allow_nan=True)
                durable.replace_folder(temporary, home / version)
        logger.info("kept %s %s, %d files", name, version, len(files))
        return version

    def path(self, name: str, version: str) -> Path:
        """The folder of a version, whether it is there or not."""
        rules.check_version(version)
        return self._home(name) / version

    def card(self, name: str, version: str) -> dict[str, Any]:
        """The card of a version. Raises UnknownVersion when it is absent, DamagedVersion when it can't be believed."""
        folder = self.path(name, version)
        if not folder.is_dir():
            raise UnknownVersion(f"no version {version} of {name}; there are: {', '.join(self.versions(name)) or 'none'}")
        try:
            card = json.loads(durable.read_bytes(folder / CARD))
        except FileNotFoundError:
            raise DamagedVersion(name, version, f"no {CARD}") from None
        except ValueError as error:
            raise DamagedVersion(name, version, f"{CARD} isn't JSON: {error}") from None
        if not isinstance(card, dict) or not isinstance(card.get("files"), dict) or not durable.seal_holds(card):
            raise DamagedVersion(name, version, f"{CARD} isn't what was written: its seal is broken")
        return card

    def versions(self, name: str) -> list[str]:
        """Versions of name on disk, oldest first, without those set aside. Their hashes aren't looked at."""
        home = self._home(name)
        found = [(int(match[1]), path.name) for path in _entries(home) if (match := _NUMBERED.fullmatch(path.name)) and not match[2]]
        return [version for _, version in sorted(found) if (home / version / CARD).is_file() and self._mark(name, version) is None]

    def verify(self, name: str, version: str) -> None:
        """Raises DamagedVersion unless every file has the size and sha256 of the card; UnknownVersion when absent.

        A file is hashed once in this process as long as its time, size and inode stay. OSError: it can't be read now.
        """
        if reason := self._mark(name, version):
            raise DamagedVersion(name, version, reason)
        folder = self.path(name, version)
        for file, facts in self.card(name, version)["files"].items():
            try:
                size = (folder / file).stat().st_size
                if size != facts["size"]:
                    raise DamagedVersion(name, version, f"{file} has {size} bytes, {facts['size']} were written")
                if durable.sha256_of(folder / file, cached=True) != facts["sha256"]:
                    raise DamagedVersion(name, version, f"{file} isn't what was written: its sha256 differs")
            except FileNotFoundError:
                raise DamagedVersion(name, version, f"{file} is missing") from None

    def promote(self, versions: Mapping[str, str], *, reason: str) -> Pointer:
        """Put these versions in force, all at once. Raises UnknownVersion, or DamagedVersion (and sets that one aside)."""
        if not versions:
            raise ValueError("promote got no version; name at least one, as in {\"math\": \"v000001\"}")
        for name, version in versions.items():
            self._check_whole(name, version)
        with self._writing():
            for name, version in versions.items():
                self.card(name, version)  # another process may have pruned it meanwhile
            return self._write_change({**versions}, kind="promote", reason=reason)

    def rollback(self, name: str | None = None, *, reason: str, keep: str | None = None) -> Pointer:
        """Go back: name to the whole version served before, or (None) every name that the newest promotion changed.

        Again goes further back. Undoing the promotion that first brought a name takes the name out of the pointer, but never
        the name keep. Raises RegistryError when there is nothing to go back to.
        """
        with self._writing():
            pointer = self.pointer()
            names = rules.last_promoted_names(pointer) if name is None else (name,)
            if not names:
                raise RegistryError("nothing to roll back: no promotion is in force")
            targets = {each: self._target(pointer, each, may_leave=name is None) for each in names}
            if keep in targets and targets[keep] is None:
                raise RegistryError(f"nothing to roll back: the newest promotion first brought {keep}, and without {keep} nothing can be served")
            return self._write_change(targets, kind="rollback", reason=reason)

    def served(self, name: str) -> Path | None:
        """Folder of the whole version in force (its name is the version); None when there is none.

        A damaged version is set aside, the newest whole one that was served before it takes its place, and the pointer is
        mended where the disk lets it. One that can't be read now is passed over, and the pointer
        still names it. Raises RegistryError when the pointer itself can't be read.
        """
        while True:
            pointer = self.pointer()
            version = pointer.version(name)
            if version is None:
                return None
            broken = self._fault(name, version)
            if broken is None:
                return self.path(name, version)
            if self.pointer().version(name) == version:  # else another process promoted and pruned between the two looks
                break
        whole = self._newest_whole(name, rules.earlier_versions(pointer, name))
        logger.warning("%s: %s is served in place of %s", name, whole or "no version", version)
        if not isinstance(broken, OSError):
            self._mend(name, damaged=version, whole=whole, reason=str(broken))
        return self.path(name, whole) if whole is not None else None

    def prune(self, keep: int, *, in_use: Collection[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """Remove all but `keep` versions a name, and return (name, version) of those removed.

        Kept whatever `keep` says: the version in force, the one a rollback would take, the newest (it may be under
        examination) and those in_use. A version that the system won't let go (Windows: open) stays for the next time.
        """
        if keep < 1:
            raise ValueError(f"prune got keep = {keep}; at least 1 version is kept")
        names = [name for name in self._names() if self.versions(name)]
        served = {name: path.name for name in names if (path := self.served(name)) is not None}
        removed: list[tuple[str, str]] = []
        with self._writing():
            pointer = self.pointer()
            for name in names:
                before = self._newest_whole(name, rules.earlier_versions(pointer, name))
                must = [served.get(name), pointer.version(name), before, *(version for other, version in in_use if other == name)]
                removed += [(name, version) for version in surplus(self.versions(name), keep=keep, must=must)
                            if self._remove(self.path(name, version))]
                for aside in self._asides(name)[:-1]:  # the newest one is left to be looked at
                    self._remove(aside)
        return removed

    def _home(self, name: str) -> Path:
        rules.check_name(name)
        return self.run_dir / ROUTER if name == ROUTER else self.run_dir / "nodes" / name

    def _names(self) -> list[str]:
        nodes = [path.name for path in _entries(self.run_dir / "nodes") if path.is_dir() and rules.is_name(path.name)]
        return [*sorted(nodes), ROUTER]

    def _read_pointer(self) -> tuple[Pointer, str | None]:
        """The pointer, and what is wrong with current.json when it came from the backup."""
        try:
            return rules.decode(durable.read_bytes(self.run_dir / POINTER)), None
        except NewerPointer as error:
            raise RegistryError(f"{self.run_dir / POINTER} can't be read: {error}") from None
        except FileNotFoundError:
            fault = "it is missing"
        except BadPointer as error:
            fault = str(error)
        try:
            pointer = rules.decode(durable.read_bytes(self.run_dir / BACKUP))
        except FileNotFoundError:
            if fault == "it is missing":
                return Pointer(), None
            raise RegistryError(self._hopeless(fault, "it is missing")) from None
        except (BadPointer, NewerPointer) as error:
            raise RegistryError(self._hopeless(fault, str(error))) from None
        if fault != self._said:
            logger.warning("%s can't be used (%s); generation %d from %s is in force", self.run_dir / POINTER, fault, pointer.generation, BACKUP)
            self._said = fault
        return pointer, fault

    def _hopeless(self, fault: str, backup_fault: str) -> str:
        return (f"{self.run_dir / POINTER} can't be used ({fault}), nor can {BACKUP} ({backup_fault}); no version was touched. "
                f"Put a good copy in its place, or move both files away and promote versions from {self.run_dir / 'nodes'} anew")

    def _write_change(self, versions: Mapping[str, str | None], *, kind: Kind, reason: str) -> Pointer:
        """Call it inside _writing."""
        pointer, fault = self._read_pointer()
        after = rules.changed(pointer, versions, kind=kind, reason=reason, at=_now())
        if after is pointer and fault is None:
            return pointer
        if fault is not None and (self.run_dir / POINTER).exists():
            durable.move_aside(self.run_dir / POINTER, "damaged")
        document = rules.encode(after)
        durable.write_json(self.run_dir / BACKUP, document)
        durable.write_json(self.run_dir / POINTER, document)
        self._said = None
        logger.info("generation %d (%s): %s; %s", after.generation, kind, ", ".join(f"{name} {version}" for name, version in versions.items()), reason)
        return after

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, over all processes. Not to be nested."""
        durable.ensure_folder(self.run_dir)
        lock = FileLock(self.run_dir / "registry.lock", timeout=_LOCK_WAIT_S)
        with durable.explained(self.run_dir):
            try:
                lock.acquire()
            except Timeout:
                raise RegistryError(f"another process has held {lock.lock_file} for {_LOCK_WAIT_S:g} s; see which one hangs and end it") from None
        try:
            if not self._cleaned:
                self._cleaned = True
                for folder in (self.run_dir, *(self._home(name) for name in self._names())):
                    durable.remove_leftovers(folder)
            with durable.explained(self.run_dir):
                yield
        finally:
            lock.release()

    def _next_version(self, name: str) -> str:
        pointer = self.pointer()
        numbers = [int(match[1]) for path in _entries(self._home(name)) if (match := _NUMBERED.fullmatch(path.name))]
        numbers += [int(step.version[1:]) for step in rules.way(pointer, name) if step.version is not None]
        return f"v{max(numbers, default=0) + 1:06d}"

    def _last_size(self, name: str) -> int:
        for version in reversed(self.versions(name)):
            with contextlib.suppress(RegistryError, OSError):
                return sum(int(facts["size"]) for facts in self.card(name, version)["files"].values())
        return 0

    def _check_whole(self, name: str, version: str) -> None:
        try:
            self.verify(name, version)
        except DamagedVersion as error:
            self._set_aside(error)
            raise

    def _fault(self, name: str, version: str) -> RegistryError | OSError | None:
        """None for a whole version; else what is wrong, a damaged one being set aside."""
        try:
            self._check_whole(name, version)
        except RegistryError as error:
            return error
        except OSError as error:
            logger.warning("%s %s can't be read now: %s", name, version, error)
            return error
        return None

    def _newest_whole(self, name: str, versions: Collection[str]) -> str | None:
        return next((version for version in versions if self._fault(name, version) is None), None)

    def _target(self, pointer: Pointer, name: str, *, may_leave: bool) -> str | None:
        earlier = rules.earlier_versions(pointer, name)
        target = self._newest_whole(name, earlier)
        if target is None and not (may_leave and not earlier):
            in_force = pointer.version(name)
            raise RegistryError(f"{name} can't be rolled back: no whole version served before {in_force}" if in_force else
                                f"{name} can't be rolled back: no version of it is in force; there are: {', '.join(pointer.names) or 'none'}")
        return target

    def _mend(self, name: str, *, damaged: str, whole: str | None, reason: str) -> None:
        try:
            with self._writing():
                if self.pointer().version(name) == damaged:
                    self._write_change({name: whole}, kind="mend", reason=reason)
        except (RegistryError, OSError) as error:
            logger.warning("the pointer still names %s %s: %s", name, damaged, error)

    def _mark(self, name: str, version: str) -> str | None:
        """Why a version was declared damaged while its folder could not be renamed."""
        try:
            return self._known_damaged.get((name, version)) or durable.read_bytes(self.path(name, version).with_name(f"{version}.damaged")).decode()
        except FileNotFoundError:
            return None

    def _set_aside(self, error: DamagedVersion) -> None:
        folder = self.path(error.name, error.version)
        if not folder.exists() or self._mark(error.name, error.version):
            return
        try:
            aside = durable.move_aside(folder, "damaged")
        except FileNotFoundError:
            return  # another process was faster
        except OSError as refusal:
            self._known_damaged[error.name, error.version] = error.reason
            with contextlib.suppress(OSError):  # a disk that takes no mark either: this process remembers
                durable.write_text(folder.with_name(f"{error.version}.damaged"), error.reason)
            logger.error("%s; marked, since its folder can't be renamed: %s", error, refusal)
        else:
            logger.error("%s; set aside as %s", error, aside.name)

    def _asides(self, name: str) -> list[Path]:
        found = [(int(match[1]), path.name, path) for path in _entries(self._home(name))
                 if path.is_dir() and (match := _NUMBERED.fullmatch(path.name)) and match[2]]
        return [path for _, _, path in sorted(found)]

    def _remove(self, folder: Path) -> bool:
        try:
            durable.remove_folder(folder)
        except OSError as error:
            logger.warning("%s can't be removed now: %s", folder, error)
        return not folder.exists()


def surplus(versions: list[str], *, keep: int, must: Collection[str | None]) -> list[str]:
    """Pure: which of these versions (oldest first) go, so that `keep` stay, `must` and the newest among them in any case."""
    stay = {version for version in versions if version in must} | set(versions[-1:])
    for version in reversed(versions):
        if len(stay) < keep:
            stay.add(version)
    return [version for version in versions if version not in stay]


def _describe(folder: Path, *, name: str) -> dict[str, dict[str, Any]]:
    files = durable.files_of(folder)
    if not files or CARD in files:
        raise ValueError(f"a version of {name} with {'a card.json of its own' if files else 'no file'}; write the model's files and nothing else")
    return {file: {"sha256": durable.sha256_of(folder / file), "size": (folder / file).stat().st_size} for file in files}


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
