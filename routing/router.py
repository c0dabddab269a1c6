"""The route of a prompt: which node answers, how sure that is, and why. The one path for serving, batches and judging.

Walks down the tree as far as it is sure: the expert, else its branch, else the root. Fitting is in fit.py, files in store.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.records import Message
from experts.tree import Tree
from routing.features import Floats, Sparse
from routing.parts import Parts, Rules
from routing.store import load_parts, save_parts
from routing.text import is_follow_up, shorten, user_turns

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Ranked:
    """One expert and the probability that the prompt is its own."""

    node: str
    probability: float


@dataclass(frozen=True, slots=True)
class Route:
    """A decision. node answers. branch, expert: how far down it was sure, None above that. confidence: probability that the
    chosen node's domains hold the prompt, for the root that of the most probable expert. ranked: all experts, most probable first."""

    node: str
    branch: str | None
    expert: str | None
    confidence: float
    ranked: tuple[Ranked, ...]
    abstained: bool
    reason: str


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What is known beside the prompt. node: where the conversation's last turn went; it pulls an unsure follow-up its way."""

    node: str | None = None


@dataclass(frozen=True, eq=False)
class Router(Parts):
    """A fitted router: its parts, and how they decide."""

    _stack: Floats = field(init=False, repr=False)
    _bias: Floats = field(init=False, repr=False)
    _branches: Floats = field(init=False, repr=False)  # (labels of the root, branches): 1 where a label counts for a branch

    def __post_init__(self) -> None:
        # In the tree's order, in which _joint takes them apart: a file may have been written for the same branches in another one.
        parts = [self.gate, self.root, *(self.children[branch] for branch in self.tree.branches if branch in self.children)]
        object.__setattr__(self, "_stack", np.ascontiguousarray(np.vstack([part.weights for part in parts]).T))
        object.__setattr__(self, "_bias", np.concatenate([part.bias for part in parts]))
        object.__setattr__(self, "_branches", np.array([[float(self.branch_of(label) == branch) for branch in self.tree.branches]
                                                        for label in self.root.labels]))

    @classmethod
    def load(cls, folder: Path, tree: Tree) -> Router:
        """A router from the folder that save() wrote. Raises DamagedRouter with the reason."""
        parts = load_parts(folder, tree=tree)
        return cls(**{each.name: getattr(parts, each.name) for each in fields(parts)})

    def save(self, folder: Path) -> None:
        """Write router.json and router.safetensors into an existing folder."""
        save_parts(self, folder)

    def route(self, prompt: str | Sequence[Message], *, context: RouteContext | None = None) -> Route:
        """The route of a text or of a conversation, whose last user turn decides unless it is an unsure follow-up."""
        turns = user_turns(prompt)
        if not turns:
            return decide(self._unknown(), tree=self.tree, rules=self.rules, empty=True)
        newest = self._read(turns[0])
        shares = self._shares(newest)
        before = context.node if context is not None else None
        if (len(turns) == 1 and before is None) or self._is_clear(shares, turns[0]):
            return decide(shares, tree=self.tree, rules=self.rules, empty=newest.empty)
        history = [self._shares(part) for part in map(self._read, turns[1:1 + self.rules.history_turns]) if not part.empty]
        if history or before is not None:
            shares = self._with_history(shares, history=history, before=before, empty=newest.empty)
        return decide(shares, tree=self.tree, rules=self.rules, empty=newest.empty and not history)

    def route_batch(self, prompts: Sequence[str | Sequence[Message]]) -> list[Route]:
        """Routes of many prompts, the same as route() gives each."""
        turns = [user_turns(prompt) for prompt in prompts]
        single = [number for number, said in enumerate(turns) if len(said) == 1]
        routes: dict[int, Route] = {}
        if single:
            matrix = self.features.many([self._cut(turns[number][0]) for number in single])
            empty = np.diff(matrix[:, :self.features.form_start].indptr) == 0
            for number, shares, nothing in zip(single, self.shares_of(matrix), empty.tolist(), strict=True):
                routes[number] = decide(self._unknown() if nothing else shares, tree=self.tree, rules=self.rules, empty=nothing)
        return [routes[number] if number in routes else self.route(prompt) for number, prompt in enumerate(prompts)]

    def shares_of(self, matrix: Any) -> Floats:
        """Probability of "ood" (first column) and of each expert in the tree's order, one row a text of a feature matrix."""
        scores = np.asarray(matrix @ self._stack) + self._bias
        return self._joint(scores)

    def _read(self, text: str) -> Sparse:
        return self.features.one(self._cut(text))

    def _cut(self, text: str) -> str:
        return shorten(text, limit=self.rules.max_prompt_chars)

    def _shares(self, part: Sparse) -> Floats:
        if part.empty:
            return self._unknown()
        shares: Floats = self._joint((part.values @ self._stack[part.ids] + self._bias)[None, :])[0]
        return shares

    def _unknown(self) -> Floats:
        """A text without a known word: certainly out of domain, all experts alike."""
        return np.array([1.0] + [0.0] * len(self.tree.domains))

    def _joint(self, scores: Floats) -> Floats:
        width = 1 + len(self.root.bias)
        inside = self.gate.from_scores(scores[:, :1])
        branches = inside[:, :1] * (self.root.from_scores(scores[:, 1:width]) @ self._branches)
        shares = np.empty((len(scores), 1 + len(self.tree.domains)))
        shares[:, 0] = inside[:, 1]
        place = 1
        for number, branch in enumerate(self.tree.branches):
            share = branches[:, number]
            children = self.tree.nodes[branch].children
            if branch in self.children:
                child = self.children[branch]
                shares[:, place:place + len(children)] = share[:, None] * child.from_scores(scores[:, width:width + len(child.bias)])
                width += len(child.bias)
            else:
                shares[:, place] = share
            place += len(children)
        return shares

    def _is_clear(self, shares: Floats, text: str) -> bool:
        """Whether the newest turn decides by itself: sure of an expert, and no follow-up."""
        return bool(shares[1:].max() >= self.rules.expert) and not is_follow_up(text, few_words=self.rules.follow_up_words)

    def _with_history(self, shares: Floats, *, history: Sequence[Floats], before: str | None, empty: bool) -> Floats:
        """Shares after earlier turns (newest first) have had their say, fading with age, and the node that answered last has pulled."""
        logs = np.zeros_like(shares) if empty else np.log(shares + _TINY)
        for age, earlier in enumerate(history, start=1):
            logs = logs + self.rules.history_decay ** (age - 1) * np.log(earlier + _TINY)
        if before is not None and before in self.tree.nodes:
            below = [domain in self.tree.nodes[before].domains for domain in self.tree.domains]
            if not all(below):
                logs = logs + self.rules.sticky * np.array([0.0, *below])
        mixed = np.exp(logs - logs.max())
        result: Floats = mixed / mixed.sum()
        return result


def decide(shares: Floats, *, tree: Tree, rules: Rules, empty: bool = False) -> Route:
    """The route for the probabilities of "ood" and of each expert. empty: nothing of the prompt is known."""
    outside, *inside = shares.tolist()
    ranked = tuple(Ranked(tree.domains[place], inside[place]) for place in sorted(range(len(inside)), key=lambda place: -inside[place]))
    if empty:
        return Route(tree.root, None, None, 0.0, ranked, True, f"no known word in the prompt, so {tree.root} answers")
    best = ranked[0]
    by_domain = dict(zip(tree.domains, inside, strict=True))
    below = {branch: sum(by_domain[domain] for domain in tree.nodes[branch].children) for branch in tree.branches}
    branch = max(below, key=below.__getitem__)
    if tree.nodes[best.node].parent == branch and (best.probability >= rules.expert or (
            len(tree.nodes[branch].children) == 1 and below[branch] >= rules.branch)):
        runner_up = f", next {ranked[1].node} {ranked[1].probability:.2f}" if len(ranked) > 1 else ""
        return Route(best.node, branch, best.node, best.probability, ranked, False, f"sure of {best.node}: {best.probability:.2f}{runner_up}")
    if below[branch] >= rules.branch:
        return Route(branch, branch, None, below[branch], ranked, True,
                     f"sure of {branch} ({below[branch]:.2f}) but not of an expert: {best.node} {best.probability:.2f} is below {rules.expert:.2f}")
    if outside >= best.probability:
        return Route(tree.root, None, None, best.probability, ranked, True, f"looks like none of the domains ({outside:.2f}), so {tree.root} answers")
    return Route(tree.root, None, None, best.probability, ranked, True,
                 f"sure of neither an expert ({best.node} {best.probability:.2f}, needs {rules.expert:.2f}) nor a branch "
                 f"({branch} {below[branch]:.2f}, needs {rules.branch:.2f}), so {tree.root} answers")
