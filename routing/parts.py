"""What a fitted router consists of: features, a classifier a parent node, and the rules of deciding. Pure data.

router.py decides with it, fit.py makes it, store.py keeps it on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experts.tree import Tree
from routing.classifier import Classifier
from routing.features import Features

INSIDE = "inside"


@dataclass(frozen=True, slots=True)
class Rules:
    """How decisions are made of probabilities; found on validation rows when the router was fitted, and kept with it.

    expert, branch: lowest probability at which an expert or a branch is chosen. history_turns: so many earlier user turns have a
    say in an unsure follow-up; history_decay: weight of each against the one after it. sticky: added to the log-probability of what
    lies below the node that answered last. follow_up_words: a turn of fewer words never counts as a change of subject, nor one of up to
    three times as many that points back. max_prompt_chars: what is read of a turn, its first and its last half.
    """

    expert: float = 0.5
    branch: float = 0.6
    history_decay: float = 0.5
    history_turns: int = 3
    sticky: float = 1.0
    follow_up_words: int = 4
    max_prompt_chars: int = 2000


@dataclass(frozen=True, eq=False)
class Parts:
    """What a fitted router consists of. gate: whether a prompt is of any domain ("inside" or "ood"); root: which branch, by labels
    that are domains and count for their branch (routers of file format 2 and before: branches); children: which expert, one a branch with two or
    more; flat: all experts at once, for comparison only. facts: what was fitted, on what, with which risk-coverage curve."""

    tree: Tree
    features: Features
    gate: Classifier
    root: Classifier
    children: Mapping[str, Classifier]
    flat: Classifier
    rules: Rules
    facts: Mapping[str, Any] = field(default_factory=dict)

    def branch_of(self, label: str) -> str:
        """The branch for which a label of the root counts."""
        return label if label in self.tree.branches else str(self.tree.nodes[label].parent)
