"""Open the folder of a run: check that it fits the settings, take its lock, and hand out registry, journal and tree.

Does not train. A folder made with another tokenizer, model or root is refused with the differences listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.adapters import require_peft
from experts.durable import write_json
from experts.journal import Journal
from experts.moe.recorder import require_wandb
from experts.registry import Registry
from experts.run_lock import RunLock
from experts.tree import Tree
from model_settings import HYBRID_KEYS, ROUTED_KEYS
from settings import Settings
from training.sophia import require_library

IDENTITY = "identity.json"


class RunMismatch(ValueError):
    """The run folder was made with settings that its versions depend on, and they differ from the present ones."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run, open for writing."""

    settings: Settings
    folder: Path
    tree: Tree
    registry: Registry
    journal: Journal


@contextmanager
def open_run(settings: Settings) -> Iterator[Run]:
    """Lock and open settings.run.dir, creating it when absent. Raises RunLocked, RunMismatch, PackageMissing, OSError."""
    check_packages(settings)
    folder = Path(settings.run.dir)
    tree = Tree.from_settings(settings.tree)
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        check_identity(folder, settings)
        journal = Journal(folder / "journal.db")
        try:
            yield Run(settings, folder, tree, Registry(folder), journal)
        finally:
            journal.close()


def check_packages(settings: Settings) -> None:
    """Raise PackageMissing for what the settings ask for and isn't installed: now, not after the data is prepared."""
    if settings.train.lora_rank is not None:
        require_peft()
    if settings.train.optimizer == "muon_sophia":
        require_library()
    if settings.moe.wandb_project is not None:
        require_wandb(settings.moe.wandb_project)


def check_identity(folder: Path, settings: Settings) -> None:
    """Compare the run's identity with the settings; write it when the run is new. Raises RunMismatch with every difference."""
    wanted = identity(settings)
    file = folder / IDENTITY
    if not file.exists():
        write_json(file, wanted)
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    differences = [f"{key}: the run has {found.get(key)!r}, the settings say {wanted.get(key)!r}"
                   for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if differences:
        raise RunMismatch(f"{folder} was made with other settings, and its versions can't be mixed with these:\n  " + "\n  ".join(differences)
                          + "\nset them back, or choose another folder with --run DIR; nothing was changed")


def identity(settings: Settings) -> dict[str, Any]:
    """The settings that every version of a run must share, as section.key = value."""
    sections = {"tokenizer": settings.tokenizer, "model": settings.model}
    others = {"bamba": HYBRID_KEYS, "qwen3_moe": ROUTED_KEYS}
    unused = {f"model.{key}" for architecture, keys in others.items() if architecture != settings.model.architecture for key in keys}
    return {"tree.root": settings.tree.root} | {
        f"{name}.{key}": list(value) if isinstance(value, tuple) else value
        for name, section in sections.items() for key, value in section.model_dump().items() if f"{name}.{key}" not in unused}


def recipe_fingerprint(settings: Settings) -> str:
    """16 hex digits that tell by which settings a version came to be: those of trees, data, models, trainings, exams and promotions, and the seed.

    Where a run lies and its records, on what it runs, and the tables of router, registry and gateway have no part in it.
    """
    told = settings.model_dump(mode="json", exclude={"run": True, "serve": True, "registry": True, "router": True, "data": {"path"}})
    return hashlib.sha256(json.dumps({**told, "seed": settings.run.seed}, sort_keys=True).encode()).hexdigest()[:16]
