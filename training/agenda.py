"""What a cycle trains: the founding cycle over the whole tree, and afterwards the node with the most to gain.

Pure decisions over facts; the loop carries them out and keeps the agenda on disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from experts.tree import Tree
from settings import LoopSettings
from training.plan import Mix

Status = Literal["pending", "promoted", "refused", "set_aside"]
REWARMING = 4.0  # peak of an expert in units of where the line stands at its root's end: after 0.03, 0.1 beat 0.05 and 0.2 (RESULTS.md, as for root_share)
ON_TIME = 0.02  # share of a job's seconds that it may be over them: it ends with a step
UNSEEN_ROOM = 0.015  # of a node: what an exam of 200 tasks without a mistake leaves open (rule of three: 3 / 200 at 95 %)


@dataclass(frozen=True, slots=True)
class Job:
    """Train one node and offer the result. Either steps or seconds of training is given; seconds get the steps that they hold at the speed
    measured when the job begins, and what it comes to follows the clock (Plan.at_speed). lr_share: its peak rates as a share of the settings'.
    final_lr_share: where they end, as a share of the peak; None: as set. least_steps, most_seconds: how far a job of seconds goes on (Plan)."""

    node: str
    lr_share: float
    steps: int | None = None
    seconds: float | None = None
    status: Status = "pending"
    outcome: str = ""
    final_lr_share: float | None = None
    least_steps: int | None = None
    most_seconds: float | None = None

    def with_speed(self, step_s: float) -> Job:
        """The job with the steps that it is expected to make, at least one; step_s: seconds a step."""
        if self.steps is not None or self.seconds is None:
            return self
        return replace(self, steps=max(1, round(self.seconds / step_s)))

    def scaled(self, factor: float) -> Job:
        """The job with so many times the training, at least one step."""
        if self.steps is not None:
            return replace(self, steps=max(1, round(self.steps * factor)))
        return replace(self, seconds=(self.seconds or 0.0) * factor)

    @property
    def amount(self) -> float:
        """How much training, in the agenda's unit: steps, or seconds."""
        return float(self.steps if self.steps is not None else self.seconds or 0.0)

    @property
    def size(self) -> str:
        """How much training, in words."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class RootPart:
    """The root's part of a first cycle. share: of the training, at the speed measured before it. steps: what it needs. most: share of the training
    that it gets at most for them when it turns out slower, as a processor that grows hot does."""

    share: float
    steps: int
    most: float


@dataclass(frozen=True, slots=True)
class Agenda:
    """The jobs of one cycle, in order, whether its router was looked at, and whether the root's part was (with_root_part)."""

    cycle: int
    jobs: tuple[Job, ...]
    router_done: bool = False
    shared_out: bool = False

    @property
    def pending(self) -> Job | None:
        """The next job, None when all are done."""
        return next((job for job in self.jobs if job.status == "pending"), None)

    @property
    def sizes(self) -> str:
        """How much each job trains, in words."""
        return ", ".join(f"{job.node} {job.size}" for job in self.jobs)

    def with_next(self, job: Job) -> Agenda:
        """This agenda with the first pending job replaced by its new self."""
        index = next(i for i, other in enumerate(self.jobs) if other.status == "pending")
        return replace(self, jobs=(*self.jobs[:index], job, *self.jobs[index + 1:]))

    def with_done(self, job: Job, *, took_s: float | None) -> Agenda:
        """This agenda with the first pending job ended after took_s seconds of training; None: they don't count. What a job of least_steps took
        over its own seconds, if more than ON_TIME of them, the pending ones, all of seconds, lose alike."""
        agenda = self.with_next(job)
        over = took_s - job.seconds if took_s is not None and job.least_steps is not None and job.seconds is not None else 0.0
        left = sum(other.amount for other in agenda.jobs if other.status == "pending")
        if over <= ON_TIME * (job.seconds or 0.0) or not left:
            return agenda
        factor = max(0.0, 1 - over / left)
        return replace(agenda, jobs=tuple(other.scaled(factor) if other.status == "pending" else other for other in agenda.jobs))

    def with_root_part(self, part: RootPart | None, *, tree: Tree, settings: LoopSettings) -> Agenda:
        """This agenda with that part of the training for its first job, the root's; what the others lose, they lose alike. None: as it is.

        Where the root gets more than loop.root_share_most, too little is left below it for a decay of its own: its rate then ends, at most at
        loop.root_final_lr_share, where a straight line to zero at the end of the longest way down the tree would stand, and branches and experts
        begin at REWARMING times that point of the line, at most at loop.leaf_lr_share and at least at a quarter of it.
        For an agenda of which nothing has begun: its jobs are all in steps or all in seconds.
        """
        if part is None:
            return replace(self, shared_out=True)
        assert len({job.steps is None for job in self.jobs}) == 1, "an agenda that has begun isn't shared out again"
        root, *others = self.jobs
        whole = sum(job.amount for job in self.jobs)
        if part.share > settings.root_share:
            others = [job.scaled((1 - part.share) * whole / (whole - root.amount)) for job in others]
            root = root.scaled((whole - sum(job.amount for job in others)) / root.amount)
        if root.seconds is not None:
            root = replace(root, least_steps=part.steps, most_seconds=max(root.seconds, part.most * whole))
        if part.share <= max(settings.root_share, settings.root_share_most):
            return replace(self, shared_out=True, jobs=(root, *others))
        amounts = {job.node: job.amount for job in others}
        below = max(sum(amounts.get(name, 0.0) for name in tree.path(domain)) for domain in tree.domains)
        line = below / (root.amount + below)
        peak = settings.leaf_lr_share * min(1.0, max(0.25, REWARMING * line / settings.leaf_lr_share))
        root = replace(root, final_lr_share=min(settings.root_final_lr_share, line))
        return replace(self, shared_out=True, jobs=(root, *(replace(job, lr_share=peak) for job in others)))

    def to_json(self) -> dict[str, Any]:
        """Plain data for work/agenda.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Agenda:
        """The inverse of to_json."""
        return cls(cycle=data["cycle"], jobs=tuple(Job(**job) for job in data["jobs"]), router_done=data["router_done"],
                   shared_out=data.get("shared_out", True))  # one of an earlier version goes on as it began


@dataclass(frozen=True, slots=True)
class Standing:
    """How a served node does in its own domains, and how its last offers went. inner: the root or a branch, which answers where the router is unsure."""

    node: str
    accuracy: float | None
    bits_ratio: float
    refusals: int
    cycles_since: int
    inner: bool = False


def mix_of(tree: Tree, node: str, *, settings: LoopSettings, with_prompts: Collection[str] = ()) -> Mix:
    """What a node's training reads: its own domains alike, loop.replay_share from the others (the root has no others, and a share of 0 leaves them out).

    with_prompts: domains whose prompts the root learns from, too.
    """
    own = tree.node(node).domains
    others = [domain for domain in tree.domains if domain not in own]
    replay = settings.replay_share if others else 0.0
    shares = {domain: (1 - replay) / len(own) for domain in own}
    if replay:
        shares |= {domain: replay / len(others) for domain in others}
    return Mix(shares, frozenset(with_prompts if node == tree.root else ()))


def founding(tree: Tree, *, settings: LoopSettings) -> tuple[Job, ...]:
    """Root, then branches, then experts. Shares of the budget: loop.root_share, loop.branch_share over the branches
    that have a model of their own (none: theirs goes to the experts), the rest over the experts; where nothing is left they are newcomers()."""
    branches = [name for name in tree.branches if tree.model_of(name) == name]
    branch_share = settings.branch_share if branches else 0.0
    shares = {tree.root: settings.root_share}
    shares |= {name: branch_share / len(branches) for name in branches}
    rest = round(1 - settings.root_share - branch_share, 9)  # 1 - 0.18 - 0.82 is 1e-16: no share, and no job of one step
    shares |= {name: rest / len(tree.domains) for name in tree.domains}
    return tuple(_job(name, 1.0 if name == tree.root else settings.leaf_lr_share, share=share, steps=settings.steps, minutes=settings.minutes)
                 for name, share in shares.items() if share > 0)


def root_part(settings: LoopSettings, *, needed: float, steps: float, of_records: float) -> RootPart:
    """The root's part of a first cycle of so many steps, when it needs `needed` of them to read loop.root_reads tokens a weight.

    Its share is at least loop.root_share. of_records: share of the domains that read people's records, not the curriculum. An expert starts from
    what its root knows, and steps that all domains share teach more as long as the root still learns fast: a short cycle belongs to the root, up
    to loop.root_share_most of it on the curriculum and loop.root_share_records on records, whose language is the domains' common ground; a long
    one to the experts (RESULTS.md, "How much of a short cycle the root should get"; 3.5 tokens a weight are the 2,300 steps with which a tree of
    6,000 was ahead of one model).
    """
    most = settings.root_share_most + (settings.root_share_records - settings.root_share_most) * of_records
    most = max(settings.root_share, most)
    return RootPart(share=max(settings.root_share, min(most, needed / steps)), steps=round(needed), most=most)


def newcomers(tree: Tree, served: Collection[str], *, settings: LoopSettings) -> tuple[Job, ...]:
    """Jobs for nodes that have no version yet (refused so far, or a domain added to the tree): one cycle's budget shared among them."""
    absent = [name for name in tree.trainable if name not in served]
    return tuple(_cycle_job(name, settings.leaf_lr_share, share=1 / len(absent), settings=settings) for name in absent)


def most_to_gain(standings: Sequence[Standing], *, settings: LoopSettings) -> Job:
    """The job of a later cycle: the node with the largest gain().

    A refusal halves a node's claim and its learning rate; waiting raises the claim, so that no node is left for good.
    Ties go to the first in tree order.
    """
    best = max(standings, key=gain)
    return _cycle_job(best.node, settings.leaf_lr_share * 0.5 ** min(best.refusals, 4), share=1.0, settings=settings)


def _cycle_job(node: str, lr_share: float, *, share: float, settings: LoopSettings) -> Job:
    return _job(node, lr_share, share=share, steps=settings.cycle_steps, minutes=settings.cycle_minutes)


def _job(node: str, lr_share: float, *, share: float, steps: int | None, minutes: float) -> Job:
    if steps is not None:
        return Job(node, lr_share, steps=max(1, round(steps * share)))
    return Job(node, lr_share, seconds=minutes * 60 * share)


def gain(standing: Standing) -> float:
    """Room for improvement (1 - accuracy and UNSEEN_ROOM; bits per byte over the family's mean where nothing is graded, at most 1),
    halved a refusal in a row, raised by a tenth a cycle of waiting, and halved for root and branches, which few prompts reach."""
    room = 1 - standing.accuracy + UNSEEN_ROOM if standing.accuracy is not None else min(1.0, 0.5 * standing.bits_ratio)
    return float(room * 0.5 ** (standing.refusals + standing.inner) * (1 + 0.1 * standing.cycles_since))

