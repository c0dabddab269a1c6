"""corpus.json: which folders hold the corpus that was prepared last, and the one that each training works with.

A look at the data, or another training, replaces the first alone: one that was stopped finds the corpus that it began with. An entry
has cycle, request, fingerprint, domains, notes, overlap and the curriculum's levels. Does not prepare or open a corpus (corpus.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts.durable import remove_folder, write_json

logger = logging.getLogger(__name__)

MANIFEST = "corpus.json"


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder; empty when there is none that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read (%s); the data is prepared anew", folder / MANIFEST, error)
        return {}
    return found if isinstance(found, dict) else {}


def last_cycle(folder: Path) -> int | None:
    """The cycle whose corpus was prepared last; None when there is none."""
    cycle = read(folder).get("cycle")
    return cycle if isinstance(cycle, int) else None


def last_levels(folder: Path) -> dict[str, int]:
    """The highest curriculum level of each domain in the corpus that was prepared last; empty when there is none, or it doesn't say."""
    levels: dict[str, int] = read(folder).get("levels", {})
    return levels


def entry_of(manifest: Mapping[str, Any], *, training: str | None) -> Mapping[str, Any]:
    """The entry of a training; that of the last corpus for None and for a training without one."""
    entry: Mapping[str, Any] = manifest.get("trainings", {}).get(training, manifest)
    return entry


def write(folder: Path, entry: Mapping[str, Any], *, training: str | None) -> None:
    """Name a corpus as the last one, and as that of a training unless that is None."""
    before = read(folder)
    previous = before.get("previous", {}) if before.get("domains") == entry["domains"] else before.get("domains", {})
    trainings = before.get("trainings", {}) | ({training: dict(entry)} if training is not None else {})
    after = {**entry, "previous": previous, "trainings": trainings}
    if after != before:  # a look at what is there must work on a full disk
        write_json(folder / MANIFEST, after)


def release(folder: Path, training: str) -> None:
    """Forget the corpus of a training that has ended; its folders go with the next that are removed."""
    manifest = read(folder)
    if manifest.get("trainings", {}).pop(training, None) is not None:
        write_json(folder / MANIFEST, manifest)


def remove_unused(folder: Path) -> None:
    """Remove folders of examples and shards that neither the last corpus, nor the one before, nor a training uses."""
    manifest = read(folder)
    parts = [manifest.get("domains", {}), manifest.get("previous", {}), *(entry["domains"] for entry in manifest.get("trainings", {}).values())]
    used = {name for part in parts for names in part.values() for name in names.values()}
    for sub in ("examples", "shards"):
        for path in sorted((folder / sub).iterdir()):
            if path.name not in used and not path.name.startswith("."):
                try:
                    remove_folder(path)
                except OSError as error:  # Windows keeps a shard that some process has mapped
                    logger.info("%s is in use and stays until the next cycle: %s", path, error)
