"""What a cycle trains: the founding cycle over the whole tree, and afterwards the node with the most to gain.

Pure decisions over facts; the loop carries them out and keeps the agenda on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from experts.tree import Tree
from settings import LoopSettings

Status = Literal["pending", "promoted", "refused", "set_aside"]


@dataclass(frozen=True, slots=True)
class Job:
    """Train one node for some steps and offer the result. seed_offset keeps two jobs of one node apart."""

    node: str
    steps: int
    seed_offset: int
    lr_share: float
    status: Status = "pending"
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Agenda:
    """The jobs of one cycle, in order, and whether its router was looked at."""

    cycle: int
    jobs: tuple[Job, ...]
    step_s: float
    router_done: bool = False

    @property
    def pending(self) -> Job | None:
        """The next job, None when all are done."""
        return next((job for job in self.jobs if job.status == "pending"), None)

    def with_done(self, job: Job) -> Agenda:
        """This agenda with the first pending job replaced by its finished self."""
        index = next(i for i, other in enumerate(self.jobs) if other.status == "pending")
        return replace(self, jobs=(*self.jobs[:index], job, *self.jobs[index + 1:]))

    def to_json(self) -> dict[str, Any]:
        """Plain data for work/agenda.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Agenda:
        """The inverse of to_json."""
        return cls(cycle=data["cycle"], jobs=tuple(Job(**job) for job in data["jobs"]), step_s=data["step_s"], router_done=data["router_done"])


@dataclass(frozen=True, slots=True)
class Standing:
    """How a served node does in its own domains, and how its last offers went."""

    node: str
    accuracy: float | None
    bits_ratio: float
    refusals: int
    cycles_since: int


def founding(tree: Tree, *, settings: LoopSettings, step_s: float) -> tuple[Job, ...]:
    """Root, then branches, then experts. Shares of the budget: loop.root_share, loop.branch_share over the branches
    that have a model of their own (none: theirs goes to the experts), the rest over the experts. step_s: seconds a step."""
    total = settings.steps if settings.steps is not None else settings.minutes * 60 / step_s
    branches = [name for name in tree.branches if tree.model_of(name) == name]
    branch_share = settings.branch_share if branches else 0.0
    shares = {tree.root: settings.root_share}
    shares |= {name: branch_share / len(branches) for name in branches}
    shares |= {name: (1 - settings.root_share - branch_share) / len(tree.domains) for name in tree.domains}
    return tuple(Job(name, steps=max(1, round(total * share)), seed_offset=0, lr_share=1.0 if name == tree.root else settings.leaf_lr_share)
                 for name, share in shares.items() if share > 0)


def newcomers(tree: Tree, served: Sequence[str], *, settings: LoopSettings, step_s: float) -> tuple[Job, ...]:
    """Jobs for nodes that have no version yet (a domain added to the tree): one cycle's budget shared among them."""
    absent = [name for name in tree.trainable if name not in served]
    steps = _cycle_steps(settings, step_s=step_s)
    return tuple(Job(name, steps=max(1, round(steps / len(absent))), seed_offset=0, lr_share=settings.leaf_lr_share) for name in absent)


def most_to_gain(standings: Sequence[Standing], *, settings: LoopSettings, step_s: float, cycle: int) -> Job:
    """The job of a later cycle: the node with the largest gain().

    A refusal halves a node's claim and its learning rate; waiting raises the claim, so that no node is left for good.
    Ties go to the first in tree order.
    """
    best = max(standings, key=gain)
    return Job(best.node, steps=max(1, round(_cycle_steps(settings, step_s=step_s))), seed_offset=cycle,
               lr_share=settings.leaf_lr_share * 0.5 ** min(best.refusals, 4))


def gain(standing: Standing) -> float:
    """Room for improvement (1 - accuracy; bits per byte over the family's mean where nothing is graded, at most 1),
    halved a refusal in a row, raised by a tenth a cycle of waiting."""
    room = 1 - standing.accuracy if standing.accuracy is not None else min(1.0, 0.5 * standing.bits_ratio)
    return float(room * 0.5 ** standing.refusals * (1 + 0.1 * standing.cycles_since))


def _cycle_steps(settings: LoopSettings, *, step_s: float) -> float:
    return settings.cycle_steps if settings.cycle_steps is not None else settings.cycle_minutes * 60 / step_s
