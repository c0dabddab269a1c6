"""A newly fitted router on offer: how it does beside the served one on the same held-out rows, and whether it may take its place.

The loop and the command both promote by this. Writes nothing; promoting is the caller's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experts.tree import Tree
from routing.evaluate import Evaluation, evaluate
from routing.fit import Fitted, fit
from routing.grow import grow, grows
from routing.router import Router
from routing.rows import Row
from routing.store import DamagedRouter, fits, stored_tree
from settings import RouterSettings

logger = logging.getLogger(__name__)

NEW_DOMAIN_REACHED = 0.8  # of the held-out prompts of each new domain that must be answered by its expert for a grown router to be enough


def settings_fingerprint(settings: RouterSettings, *, seed: int) -> str:
    """sha256 (hex) of what a fit depends on beside data, tree and feedback, for a router's card."""
    return hashlib.sha256(json.dumps([settings.model_dump(), seed], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a router may be promoted, and why (not), with the figures."""

    promote: bool
    reason: str


@dataclass(frozen=True, eq=False)
class Offer:
    """A fitted router. evaluation: on the held-out rows; before: accuracy of the served router on the same rows, None without one for this tree."""

    fitted: Fitted
    evaluation: Evaluation
    before: float | None

    @property
    def verdict(self) -> Verdict:
        """The decision on this offer."""
        return judge(self.evaluation.accuracy, before=self.before, prompts=self.evaluation.n - self.evaluation.n_ood)


def judge(accuracy: float, *, before: float | None, prompts: int) -> Verdict:
    """Promote a router unless it is worse than the served one on the same held-out prompts; a tie goes to the new one, which knows more rows."""
    words = f"accuracy on {prompts} held-out prompts {accuracy:.2%}"
    if before is None:
        return Verdict(promote=True, reason=words)
    return Verdict(promote=accuracy >= before, reason=f"{words}, served version {before:.2%}")


def make_offer(rows: Sequence[Row], *, held_out: Sequence[Row], tree: Tree, settings: RouterSettings, seed: int, served: Path | None, timed: int = 1) -> Offer:
    """Fit on rows, and judge the result and the router in the folder served on held_out.

    A served router of a smaller tree grows by the new domains if that is enough for them. timed: most single decisions whose latency is
    measured. Raises ValueError as routing.fit.fit and routing.evaluate.evaluate do.
    """
    old = _load(served) if served is not None else None
    before = evaluate(old, held_out, timed=1).accuracy if old is not None and served is not None and fits(served, tree) else None
    fitted = _grown(old, rows, held_out, tree=tree, settings=settings, seed=seed) if old is not None and grows(old.tree, tree) else None
    if fitted is None:
        fitted = fit(rows, tree=tree, settings=settings, seed=seed)
    return Offer(fitted, evaluate(fitted.router, held_out, timed=timed), before)


def _grown(served: Router, rows: Sequence[Row], held_out: Sequence[Row], *, tree: Tree, settings: RouterSettings, seed: int) -> Fitted | None:
    """The served router with the new domains added, or None when too few of their prompts reach them: its vocabulary, the gate and the nodes
    above are old, and a gate that has never seen a domain may turn all of it away."""
    fitted = grow(served, rows, tree=tree, settings=settings, seed=seed)
    decided = evaluate(fitted.router, held_out, timed=1).confusion
    for domain in set(tree.domains) - set(served.tree.domains):
        answers = decided.get(domain, {})
        if answers.get(domain, 0) < NEW_DOMAIN_REACHED * max(1, sum(answers.values())):
            logger.info("the served router can't grow by %s: %s of its held-out prompts went there; fitting a whole one", domain, answers.get(domain, 0))
            return None
    return fitted


def _load(folder: Path) -> Router | None:
    """The router in folder, for the tree it was fitted for; None, and said, where it can't be used."""
    try:
        return Router.load(folder, stored_tree(folder))
    except DamagedRouter as error:
        logger.warning("nothing to compare the new router with: %s", error)
        return None
