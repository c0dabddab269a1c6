"""Trainer state on disk: state-<sequence>/ with state.safetensors and state.json, whole or absent, newest whole one first.

Knows nothing of optimizers: it keeps named tensors (dtype and bits as they are) and JSON facts. Never pickle. Sequence
numbers grow with every save, also when training went back to an earlier step, and no clock is asked.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from experts import durable

logger = logging.getLogger(__name__)

TENSORS = "state.safetensors"
FACTS = "state.json"
FORMAT = 1
_FOLDER = re.compile(r"state-(\d{6,})(\..*)?")


class NewerState(RuntimeError):
    """The state was written by a later version of this program; it is left as it is."""


class _BadState(ValueError):
    """This state folder can't be believed."""


@dataclass(frozen=True, slots=True)
class State:
    """A saved state read back. tensors: on the CPU, of their own memory; facts: as JSON has them (tuples are lists)."""

    folder: Path
    sequence: int
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


def save_state(folder: Path, *, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a state below folder and return its own folder; on the disk when this returns, absent when it raises.

    facts: JSON; NaN and infinity are kept. Raises OutOfSpace, NotWritable, ValueError.
    """
    durable.to_json(dict(facts), allow_nan=True)  # refused before the tensors are written
    durable.remove_leftovers(folder)
    final = folder / f"state-{_next_sequence(folder):06d}"
    content = _for_the_file(tensors)
    expected = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    with durable.new_folder(final, expected_bytes=expected, last=FACTS) as temporary:
        durable.disk.fill(temporary / TENSORS, lambda path: save_file(content, path))
        size, digest = (temporary / TENSORS).stat().st_size, durable.sha256_of(temporary / TENSORS)
        document = {"format": FORMAT, "sequence": int(final.name.partition("-")[2]), "saved": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "files": {TENSORS: {"sha256": digest, "size": size}}, "facts": dict(facts)}
        durable.write_json(temporary / FACTS, durable.seal(document), allow_nan=True)
    return final


def load_newest(folder: Path) -> State | None:
    """The newest whole state below folder; None when there is none. Bad ones met on the way are set aside, with the reason logged.

    Raises NewerState, and OSError when a state can't be read now (then nothing is set aside).
    """
    for sequence, path in reversed(_states(folder)):
        try:
            facts = _verified_facts(path)
            return State(path, sequence, _read_tensors(path / TENSORS), facts)
        except _BadState as error:
            _set_aside(path, reason=str(error))
    return None


def has_state(folder: Path) -> bool:
    """Whether load_newest(folder) would find a state to go on from; bad ones are set aside as there, and as much is raised."""
    for _, path in reversed(_states(folder)):
        try:
            _verified_facts(path)
            return True
        except _BadState as error:
            _set_aside(path, reason=str(error))
    return False


def prune_states(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` whole states and return what was removed. Bad ones don't count, so a whole one always stays."""
    if keep < 1:
        raise ValueError(f"prune_states got keep = {keep}; at least 1 state is kept")
    whole = 0
    surplus = []
    for _, path in reversed(_states(folder)):
        if whole >= keep:
            surplus.append(path)
            continue
        try:
            _verified_facts(path, cached=True)
            whole += 1
        except _BadState as error:
            _set_aside(path, reason=str(error))
    surplus += _asides(folder)[:-1]  # the newest bad one is left to be looked at
    return [path for path in surplus if _removed(path)]


def clear_states(folder: Path) -> bool:
    """Remove folder with all its states at once, when their training is done with; False when the system won't let it go now."""
    return not folder.exists() or _removed(folder)


def _for_the_file(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors takes them: dense, on the CPU, no two sharing memory (tied weights come back as equal copies)."""
    content: dict[str, torch.Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise ValueError(f"tensor {name!r} is {tensor.layout}; only dense tensors can be kept, so call .to_dense() first")
        dense = tensor.detach().to("cpu").contiguous()
        storage = dense.untyped_storage()
        if storage.data_ptr() in memory or storage.nbytes() != dense.numel() * dense.element_size():
            dense = dense.clone()
        memory.add(dense.untyped_storage().data_ptr())
        content[name] = dense
    return content


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Copies: a tensor that still maps the file would keep Windows from pruning it.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    except SafetensorError as error:
        raise _BadState(f"{path.name} can't be read: {error}") from None


def _verified_facts(path: Path, *, cached: bool = False) -> dict[str, Any]:
    try:
        document = json.loads(durable.read_bytes(path / FACTS))
        if not isinstance(document, dict) or not durable.seal_holds(document):
            raise _BadState(f"{FACTS} isn't what was written: its seal is broken")
        if document["format"] != FORMAT:
            raise NewerState(f"{path / FACTS} has format {document['format']}, and this program knows format {FORMAT}; update the program")
        for name, facts in document["files"].items():
            size = (path / name).stat().st_size
            if size != facts["size"]:
                raise _BadState(f"{name} has {size} bytes, {facts['size']} were written")
            if durable.sha256_of(path / name, cached=cached) != facts["sha256"]:
                raise _BadState(f"{name} isn't what was written: its sha256 differs")
    except FileNotFoundError as error:
        raise _BadState(f"{Path(error.filename or FACTS).name} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _BadState(f"{FACTS} isn't JSON: {error}") from None
    return dict(document["facts"])


def _numbered(folder: Path) -> list[tuple[int, str, Path]]:
    """(sequence, what follows it in the name, path), in order."""
    found = [(int(match[1]), match[2] or "", path) for path in (folder.iterdir() if folder.is_dir() else ())
             if (match := _FOLDER.fullmatch(path.name)) and path.is_dir()]
    return sorted(found)


def _states(folder: Path) -> list[tuple[int, Path]]:
    return [(sequence, path) for sequence, rest, path in _numbered(folder) if not rest]


def _asides(folder: Path) -> list[Path]:
    return [path for _, rest, path in _numbered(folder) if rest]


def _next_sequence(folder: Path) -> int:
    return max((sequence for sequence, _, _ in _numbered(folder)), default=0) + 1


def _set_aside(path: Path, *, reason: str) -> None:
    try:
        aside = durable.move_aside(path, "damaged")
    except OSError as error:
        logger.error("%s is damaged (%s) and can't be renamed: %s; it is passed over", path, reason, error)
    else:
        logger.error("%s is damaged (%s); set aside as %s", path, reason, aside.name)


def _removed(path: Path) -> bool:
    try:
        durable.remove_folder(path)
    except OSError as error:
        logger.warning("%s can't be removed now: %s", path, error)
    return not path.exists()
