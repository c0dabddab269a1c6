"""Random histories of promotions, rollbacks, damage and pruning against a model of what must be served."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from experts import durable
from experts.registry import Registry, RegistryError

NAMES = ("math", "router")


class QuickDisk(durable.Disk):
    """Syncs nothing."""

    def sync_file(self, path):
        pass

    def sync_folder(self, path):
        pass


class Histories(RuleBasedStateMachine):
    """way: for every name the (version, turn of its promotion) that served it, the last one in force."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.run = Registry(self.folder / "run")
        self.way: dict[str, list[tuple[str, int]]] = {name: [] for name in NAMES}
        self.damaged: set[tuple[str, str]] = set()
        self.turn = 0
        self.disk, durable.disk = durable.disk, QuickDisk()

    def teardown(self):
        durable.disk = self.disk
        shutil.rmtree(self.folder)

    def whole(self, name: str, version: str) -> bool:
        return (name, version) not in self.damaged and self.run.path(name, version).is_dir()

    def earlier(self, name: str) -> list[str]:
        """Whole versions that served before, the newest first."""
        return [version for version, _ in reversed(self.way[name][:-1]) if version != self.way[name][-1][0] and self.whole(name, version)]

    def go_back(self, name: str, version: str | None) -> None:
        while self.way[name] and self.way[name][-1][0] != version:
            self.way[name].pop()

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def promote(self, names):
        self.turn += 1
        versions = {name: self.run.add(name, lambda folder, name=name: (folder / "w").write_text(f"{name} {self.turn}"), card={}) for name in sorted(names)}
        self.run.promote(versions, reason="r")
        for name, version in versions.items():
            self.way[name].append((version, self.turn))

    @rule(name=st.sampled_from(NAMES))
    def add_only(self, name):
        self.run.add(name, lambda folder: (folder / "w").write_text("refused"), card={})

    @rule(name=st.sampled_from(NAMES))
    def roll_back_one(self, name):
        earlier = self.earlier(name) if self.way[name] else []
        try:
            self.run.rollback(name, reason="r")
        except RegistryError:
            assert earlier == []
        else:
            self.go_back(name, earlier[0])

    @rule()
    def roll_back_last(self):
        last = max((way[-1][1] for way in self.way.values() if way), default=0)
        names = [name for name in NAMES if self.way[name] and self.way[name][-1][1] == last]
        targets = {name: self.earlier(name)[:1] for name in names}
        first = {name: all(version == self.way[name][-1][0] for version, _ in self.way[name]) for name in names}
        try:
            self.run.rollback(reason="r")
        except RegistryError:
            assert not names or any(not targets[name] and not first[name] for name in names)
        else:
            for name in names:
                self.go_back(name, targets[name][0] if targets[name] else None)

    @precondition(lambda self: any(self.way.values()))
    @rule(data=st.data())
    def damage(self, data):
        name = data.draw(st.sampled_from([name for name in NAMES if self.way[name]]))
        version = data.draw(st.sampled_from([version for version, _ in self.way[name]]))
        if not self.whole(name, version):
            return
        (self.run.path(name, version) / "w").write_text("!")
        self.damaged.add((name, version))
        if version == self.way[name][-1][0]:
            earlier = self.earlier(name)
            self.go_back(name, earlier[0] if earlier else None)

    @rule(keep=st.integers(1, 3))
    def prune(self, keep):
        due = {name: ({self.way[name][-1][0], *self.earlier(name)[:1]} if self.way[name] else set()) for name in NAMES}
        self.run.prune(keep)
        for name in NAMES:
            left = self.run.versions(name)
            assert due[name] <= set(left)
            assert len(left) <= max(keep, len(due[name]) + 1) + sum(1 for other, version in self.damaged if other == name and version in left)

    @invariant()
    def what_is_due_is_served(self):
        for name in NAMES:
            folder = Registry(self.run.run_dir).served(name)
            assert (folder.name if folder else None) == (self.way[name][-1][0] if self.way[name] else None)


Histories.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestRegistryHistories = Histories.TestCase
