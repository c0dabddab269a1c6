"""Files and folders that exist only if they are whole: temporary name, flush + fsync, os.replace, fsync of the folder.

Every effect on the disk goes through the few functions of Disk, the seam at which tests make the k-th effect fail.
Does not know what is written (registry.py, checkpoint.py and the data rooms do) and reads nothing but hashes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
from safetensors import SafetensorError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

WINDOWS = os.name == "nt"
TEMPORARY = ".tmp-"
_BUSY_TRIES = 12  # Windows refuses to replace a file that somebody reads at this moment; 12 tries wait 2.4 s in all
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ERROR_DISK_FULL = 112  # Windows' own number
_NUMBER = re.compile(r"os error (\d+)\)|Os \{ code: (\d+)")  # how safetensors names the system's error: 0.5 and later, 0.4
_RACY_NS = 2_000_000_000  # a file changed less than this ago may change again within the clock's grain (as in git's index)
_HASHES_KEPT = 4096

_mine: set[str] = set()  # temporary names that this process is filling
_hashes: dict[tuple[str, int, int, int], str] = {}


class OutOfSpace(OSError):
    """The disk (or quota) can't take what is to be written. needed: bytes, None when unknown; free: bytes; where: folder."""

    def __init__(self, where: Path, *, needed: int | None, free: int) -> None:
        self.where, self.needed, self.free = where, needed, free
        wanted = "more" if needed is None else f"{needed:,} bytes"
        super().__init__(errno.ENOSPC, f"no space in {where}: {wanted} needed, {free:,} bytes free; nothing was lost, what stood there still stands. "
                                       "Free some space, lower registry.keep or train.checkpoints_keep, or choose another run.dir")


class NotWritable(PermissionError):
    """The folder takes no writes: read-only, or not this user's."""

    def __init__(self, where: Path, *, reason: str) -> None:
        self.where = where
        super().__init__(errno.EACCES, f"can't write in {where}: {reason}; nothing was changed. Make the folder writable, close the program that "
                                       "holds it, or choose another run.dir")


class Disk:
    """The effects themselves, each either done or raising OSError. One instance, `disk`, serves the whole process."""

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def write_file(self, path: Path, data: bytes) -> None:
        """Make a new file and bring it to the disk."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def fill(self, path: Path, write: Callable[[Path], None]) -> None:
        """Let a library write at path."""
        write(path)

    def sync_file(self, path: Path) -> None:
        with path.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        if WINDOWS:
            return  # a folder can't be opened there; NTFS journals the names itself
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems can't
                raise
        finally:
            os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)  # noqa: PTH105  (the name that the design speaks of)

    def remove_file(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        shutil.rmtree(path)


disk = Disk()


def write_bytes(path: Path, data: bytes) -> None:
    """Write path whole or not at all. Raises OutOfSpace, NotWritable, or the OSError as it came."""
    temporary = path.with_name(_temporary_name(path))
    with explained(path.parent, needed=len(data)), _removed_unless_moved(temporary):
        disk.write_file(temporary, data)
        _replace(temporary, path)
        disk.sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, line ends as they are, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any, *, allow_nan: bool = False) -> None:
    """Write data as indented JSON, whole or not at all. Raises ValueError when data isn't JSON (NaN included, unless allowed)."""
    write_bytes(path, to_json(data, allow_nan=allow_nan))


def to_json(data: Any, *, allow_nan: bool = False) -> bytes:
    """data as the bytes that write_json writes."""
    try:
        return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=allow_nan) + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ValueError(f"can't be written as JSON: {error}; allowed are None, bool, int, float, str, lists and mappings with string keys") from error


@contextlib.contextmanager
def new_folder(final: Path, *, expected_bytes: int = 0, last: str | None = None) -> Iterator[Path]:
    """Give a temporary folder beside final; on success bring its files to the disk (`last` after all others) and name it final.

    On any failure the temporary is removed and final is absent. Raises FileExistsError when final exists,
    OutOfSpace when less than twice expected_bytes is free.
    """
    if os.path.lexists(final):
        raise _occupied(final)
    with temporary_folder(final, expected_bytes=expected_bytes) as temporary:
        yield temporary
        with explained(final.parent):
            sync_tree(temporary, last=last)
            replace_folder(temporary, final)


@contextlib.contextmanager
def temporary_folder(final: Path, *, expected_bytes: int = 0) -> Iterator[Path]:
    """A new folder beside final that is gone at the end, unless replace_folder took it elsewhere."""
    check_space(final.parent, expected_bytes=expected_bytes)
    ensure_folder(final.parent)
    temporary = final.with_name(_temporary_name(final))
    with explained(final.parent, needed=expected_bytes or None), _removed_unless_moved(temporary):
        disk.make_folder(temporary)
        yield temporary


def ensure_folder(path: Path) -> None:
    """Make path and the folders above it where they are absent, their names brought to the disk."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    with explained(path):
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                disk.make_folder(folder)
            disk.sync_folder(folder.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Name a finished folder final and bring the name to the disk; raises FileExistsError when final exists."""
    if os.path.lexists(final):  # os.replace would take the place of an empty folder without a word
        raise _occupied(final)
    _replace(temporary, final)
    disk.sync_folder(final.parent)


def move_file(source: Path, target: Path) -> None:
    """Give a file another name in place of what had it, patiently where Windows refuses for a moment; raises OSError when it goes on refusing."""
    _replace(source, target)
    disk.sync_folder(target.parent)


def move_aside(path: Path, label: str) -> Path:
    """Rename path to the first free path.<label>-<n> and return that; raises OSError when the system refuses (Windows: in use)."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.{label}-{number}")):
        number += 1
    _replace(path, aside)
    disk.sync_folder(path.parent)
    return aside


def remove_folder(path: Path) -> None:
    """Remove a folder so that no half of it ever bears its name: first renamed, then emptied."""
    with explained(path.parent):
        trash = path.with_name(_temporary_name(path))
        _replace(path, trash)
        disk.sync_folder(path.parent)  # before a file goes: a power cut must not bring the old name back over half a folder
        disk.remove_folder(trash)


def sync_tree(folder: Path, *, last: str | None = None) -> None:
    """fsync every file and folder below folder, the file named `last` after all others."""
    files = files_of(folder)
    for name in [*(name for name in files if name != last), *(name for name in files if name == last)]:
        disk.sync_file(folder / name)
    for sub in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        disk.sync_folder(sub)
    disk.sync_folder(folder)


def files_of(folder: Path) -> list[str]:
    """Names (with / between) of all files below folder, sorted. Raises ValueError for links and devices: a version is plain files."""
    names = []
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            names.append(path.relative_to(folder).as_posix())
        elif not stat.S_ISDIR(mode):
            raise ValueError(f"{path} is neither a file nor a folder; only plain files can be kept, so copy what it points at")
    return sorted(names)


def check_space(folder: Path, *, expected_bytes: int) -> None:
    """Raises OutOfSpace unless twice expected_bytes is free where folder lies (folder itself may be absent yet)."""
    if expected_bytes <= 0:
        return
    free = _free_bytes(folder)
    if free < 2 * expected_bytes:
        raise OutOfSpace(folder, needed=2 * expected_bytes, free=free)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files and folders that a dead process left directly in folder; returns what was removed."""
    removed = []
    for path in sorted(folder.glob(f"{TEMPORARY}*")) if folder.is_dir() else []:
        if path.name in _mine or _owner_lives(path.name):
            continue
        try:
            if path.is_dir():
                disk.remove_folder(path)
            else:
                disk.remove_file(path)
        except OSError as error:
            logger.warning("%s, left by a process that ended, can't be removed: %s", path, error)
        else:
            logger.info("removed %s, left by a process that ended", path)
            removed.append(path)
    return removed


def sha256_of(path: Path, *, cached: bool = False) -> str:
    """sha256 (hex) of a file. cached: believe an earlier look of this process while time, size and inode are the same."""
    facts, looked_ns = path.stat(), time.time_ns()
    key = (str(path), facts.st_mtime_ns, facts.st_size, facts.st_ino)
    if cached and key in _hashes:
        return _hashes[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if abs(looked_ns - facts.st_mtime_ns) > _RACY_NS:
        while len(_hashes) >= _HASHES_KEPT:
            _hashes.pop(next(iter(_hashes)), None)
        _hashes[key] = digest
    return digest


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """document with one more key, `seal`: sha256 of the rest, so that a changed number is found as surely as a changed file."""
    plain = json.loads(to_json(document, allow_nan=True))
    return {**plain, "seal": _seal_of(plain)}


def seal_holds(document: Mapping[str, Any]) -> bool:
    """Whether a document read back is the one that seal() made."""
    return document.get("seal") == _seal_of({key: value for key, value in document.items() if key != "seal"})


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file that another process may be replacing at this moment (Windows refuses for a few ms then)."""
    return _patiently(path.read_bytes)


def _seal_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _replace(source: Path, target: Path) -> None:
    _patiently(lambda: disk.replace(source, target))


def _patiently(action: Callable[[], Result]) -> Result:
    for attempt in range(_BUSY_TRIES):
        try:
            return action()
        except PermissionError:
            if not WINDOWS or attempt == _BUSY_TRIES - 1:
                raise
            time.sleep(min(0.005 * 2**attempt, 0.3))
    raise AssertionError("the last attempt returns or raises")


def _temporary_name(path: Path) -> str:
    return f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


def _owner_lives(temporary: str) -> bool:
    pid = temporary.split("-")[-2] if temporary.count("-") >= 3 else ""
    # Our own pid outside _mine is a process before us that had the same number, as in a container.
    return pid.isdigit() and int(pid) != os.getpid() and bool(psutil.pid_exists(int(pid)))


@contextlib.contextmanager
def _removed_unless_moved(temporary: Path) -> Iterator[None]:
    _mine.add(temporary.name)
    try:
        yield
    finally:
        _mine.discard(temporary.name)
        if os.path.lexists(temporary):
            try:
                if temporary.is_dir():
                    disk.remove_folder(temporary)
                else:
                    disk.remove_file(temporary)
            except OSError as error:  # the failure that brought us here matters more and is on its way up
                logger.warning("%s is unfinished and can't be removed now: %s; it goes at the next start", temporary, error)


@contextlib.contextmanager
def explained(where: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn the system's words for a full or read-only disk into ours; let everything else pass."""
    try:
        yield
    except (OutOfSpace, NotWritable, FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise out_of_space(where, needed=needed) from error
        named = str(error.filename or where)
        ours = named.startswith(str(where)) or str(where).startswith(named)  # else the caller failed to read something elsewhere
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and ours:
            raise NotWritable(where, reason=error.strerror or str(error)) from error
        raise
    except SafetensorError as error:
        number = next((int(match[1] or match[2]) for match in _NUMBER.finditer(str(error))), None)
        if number in {*_FULL, _ERROR_DISK_FULL}:
            raise out_of_space(where, needed=needed) from error
        raise


def out_of_space(where: Path, *, needed: int | None = None) -> OutOfSpace:
    """The OutOfSpace of a folder as it is now."""
    return OutOfSpace(where, needed=needed, free=_free_bytes(where))


def _free_bytes(folder: Path) -> int:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _occupied(final: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, f"{final} exists; finished folders are never overwritten, so take a new name")
