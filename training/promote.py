"""Whether a candidate replaces what is served: a pure decision from two scorecards of the same exam.

Accuracy of what the models wrote comes first; loop rate, bits per byte and levels already mastered are gates; bits per byte breaks ties. Does not run exams,
does not touch the registry.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from settings import PromoteSettings
from training.scorecard import Outcome, Scorecard, habitual, wilson

FEWEST_TASKS = 20  # graded tasks from which a domain or a level counts: resamples of one task know no doubt, and of seven two lost ones are 95 % of them
SMALL_BITS = 0.1  # bits per byte: near zero a ratio says little, 0.07 -> 0.10 changes no answer
ROUNDING = 1e-12  # a mean of means of scores that is nearer to zero than this is zero


@dataclass(frozen=True, slots=True)
class Decision:
    """promote, and the reason in words with the figures it rests on."""

    promote: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Paired:
    """Paired bootstrap over tasks: mean difference, and how often the resampled difference was above and below zero."""

    difference: float
    above: float
    below: float


def decide(candidate: Scorecard, served: Scorecard | None, *, settings: PromoteSettings, seed: int, level_floor: float | None = None,
           mastered: Collection[str] = (), chance_bits_per_byte: float | None = None, interim: bool = False) -> Decision:
    """Promote the candidate over the served version?

    served: results, on the same exam, of what answers until now (for a node's first version: its parent); None when
    nothing answers yet, and then the candidate must only beat chance_bits_per_byte, the cost of guessing every token
    of the vocabulary alike. Accuracy is that of the domains with FEWEST_TASKS graded tasks or more; where there are none, bits decide.
    interim: the served version is an early state of the candidate's own training, put up so that something answers; its accuracy
    is mostly guesses (a letter of three is right a third of the time), so bits alone decide.
    level_floor: loop.level_floor; no promotion clearly takes a mastered level, one that was at or above it, below it (level_gate). None: no floor.
    mastered: levels ("math/1") that earlier versions had there, which the served one may have lost within noise since.
    Raises ValueError when the two scorecards are not of one exam.
    """
    if any(not math.isfinite(value) for value in candidate.bits_per_byte.values()):
        return Decision(False, f"refused: bits per byte {dict(candidate.bits_per_byte)} is not finite")
    if served is None:
        return _first(candidate, chance=chance_bits_per_byte)
    if candidate.exam != served.exam:
        raise ValueError(f"scorecards of different exams, {candidate.exam} and {served.exam}; examine both on the same rows")
    graded = _scores(candidate, served)
    counted = {domain: pairs_N2 for domain, pairs_N2 in graded.items() if len(pairs_N2) >= FEWEST_TASKS}
    now, before = _accuracies(counted) if counted else (candidate.accuracy, served.accuracy)
    few = [domain for domain in graded if domain not in counted]
    without = f" (not counted, under {FEWEST_TASKS} graded tasks: {', '.join(few)})" if few else ""
    words = f"accuracy {_percent(before)} -> {_percent(now)}{without}, {_bits(candidate, served)}"
    if interim:
        return _by_bits(candidate, served, settings=settings, words=words, why="more of the same training")
    gate = _loop_gate(candidate, served, settings=settings, seed=seed) or _bits_gate(candidate, served, settings=settings)
    if gate is None and level_floor is not None:
        gate = level_gate(candidate, served, settings=settings, floor=level_floor, mastered=mastered, seed=seed, words=words)
    if gate is not None:
        return gate
    guessing = max(now or 0.0, before or 0.0) < settings.guessing_accuracy
    paired = None if guessing else paired_bootstrap(counted, samples=settings.bootstrap_samples, seed=seed)
    if paired is not None and paired.above >= settings.confidence:
        return Decision(True, f"promoted: {words}; better with {paired.above:.1%} of the resamples")
    if paired is not None and paired.below >= settings.confidence:
        return Decision(False, f"refused: {words}; worse with {paired.below:.1%} of the resamples")
    return _by_bits(candidate, served, settings=settings, words=words, why="accuracy ties")


def mastered_levels(card: Scorecard, *, floor: float) -> set[str]:
    """Levels ("math/1") of which enough tasks were graded, and at least that share was right."""
    return {f"{domain}/{level}" for domain in card.domains for level, scores in card.level_scores(domain).items()
            if len(scores) >= FEWEST_TASKS and sum(scores) / len(scores) >= floor}


def paired_bootstrap(pairs: Mapping[str, np.ndarray], *, samples: int, seed: int) -> Paired | None:
    """Resample tasks with replacement (Efron 1979; paired as in Koehn 2004, W04-3250), within each stratum (Efron & Tibshirani 1993, chapter 8).

    pairs: {stratum: pairs_N2}, the score of the candidate and of the served version a task; none at all gives None. The difference is the mean over
    strata of their mean differences, as accuracy is over domains. A resampled difference of zero counts half above and half below.
    """
    if not pairs:
        return None
    random = np.random.default_rng(seed)
    differences = [pairs_N2[:, 0] - pairs_N2[:, 1] for pairs_N2 in pairs.values()]
    means_S = np.mean([found_N[random.integers(0, len(found_N), size=(samples, len(found_N)))].mean(axis=1) for found_N in differences], axis=0)
    means_S[np.abs(means_S) < ROUNDING] = 0.0
    ties = float((means_S == 0).mean()) / 2
    difference = float(np.mean([found_N.mean() for found_N in differences]))
    return Paired(difference, float((means_S > 0).mean()) + ties, float((means_S < 0).mean()) + ties)


def _by_bits(candidate: Scorecard, served: Scorecard, *, settings: PromoteSettings, words: str, why: str) -> Decision:
    ratio = candidate.mean_bits_per_byte / served.mean_bits_per_byte
    if ratio < 1 - settings.bits_tolerance:
        return Decision(True, f"promoted: {words}; {why}, bits per byte {1 - ratio:.1%} lower")
    return Decision(False, f"refused: {words}; {why} and bits per byte are not lower")


def _first(candidate: Scorecard, *, chance: float | None) -> Decision:
    bits = candidate.mean_bits_per_byte
    if chance is not None and bits >= 0.9 * chance:
        return Decision(False, f"refused: {bits:.3f} bits per byte is no better than guessing ({chance:.3f}); train longer")
    return Decision(True, f"promoted: first version, accuracy {_percent(candidate.accuracy)}, {bits:.3f} bits per byte")


def _loop_gate(candidate: Scorecard, served: Scorecard, *, settings: PromoteSettings, seed: int) -> Decision | None:
    if not habitual([outcome.looped for outcome in candidate.outcomes], ceiling=settings.loop_rate_max):
        return None
    pairs = _paired_by_key(candidate, served, of=lambda outcome: float(outcome.looped), stratum=lambda _: "all")  # as loop_rate counts them
    more = paired_bootstrap(pairs, samples=settings.bootstrap_samples, seed=seed)
    if more is not None and more.above >= settings.confidence:
        return Decision(False, f"refused: loop rate {candidate.loop_rate:.1%} is above {settings.loop_rate_max:.1%} "
                               f"and the served version's {served.loop_rate:.1%}")
    return None


def _bits_gate(candidate: Scorecard, served: Scorecard, *, settings: PromoteSettings) -> Decision | None:
    if candidate.mean_bits_per_byte > settings.bits_ceiling * served.mean_bits_per_byte + SMALL_BITS:
        return Decision(False, f"refused: {_bits(candidate, served)}, more than {settings.bits_ceiling:g} times the served version's: "
                               "it no longer models its domain")
    return None


def level_gate(candidate: Scorecard, served: Scorecard, *, settings: PromoteSettings, floor: float, mastered: Collection[str], seed: int,
               words: str) -> Decision | None:
    """What is won on one level of the curriculum doesn't pay for another that is lost. A fall within noise is let through, as everywhere here, until
    the level's 95 % interval lies below the floor, unless the served version's does already: many such falls are no noise. With many levels at or
    above the floor (a root's exam has 15), chance alone fells one of them soon, so together they err as seldom as one (Bonferroni). words: what else
    the refusal says; None: no level is lost."""
    of_levels = _paired_by_key(candidate, served, of=lambda outcome: outcome.score,
                               stratum=lambda outcome: None if outcome.level is None else f"{outcome.domain}/{outcome.level}")
    kept = {*mastered, *mastered_levels(served, floor=floor)}
    at_stake = {name: pairs_N2 for name, pairs_N2 in of_levels.items() if name in kept and len(pairs_N2) >= FEWEST_TASKS}
    for name, pairs_N2 in at_stake.items():
        now, before = (float(mean) for mean in pairs_N2.mean(axis=0))
        if now >= min(floor, before):
            continue
        domain, _, level = name.rpartition("/")
        fall = f"refused: {words}; level {level} of {domain} falls {_percent(before)} -> {_percent(now)}, below loop.level_floor = {floor:.1%}"
        paired = paired_bootstrap({name: pairs_N2}, samples=settings.bootstrap_samples, seed=seed)
        if paired is not None and paired.below >= 1 - (1 - settings.confidence) / len(at_stake):
            return Decision(False, f"{fall}, worse with {paired.below:.1%} of the resamples")
        upper, upper_before = (wilson(float(right), n=len(pairs_N2))[1] for right in pairs_N2.sum(axis=0))
        if upper < floor <= upper_before:
            return Decision(False, f"{fall}, at most {upper:.1%} by its 95 % interval")
    return None


def _scores(candidate: Scorecard, served: Scorecard) -> dict[str, np.ndarray]:
    """Scores a domain, which accuracy is a mean over."""
    return _paired_by_key(candidate, served, of=lambda outcome: outcome.score, stratum=lambda outcome: outcome.domain)


def _accuracies(pairs: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Accuracy of the candidate and of the served version over these domains."""
    now, before = (float(np.mean([pairs_N2[:, column].mean() for pairs_N2 in pairs.values()])) for column in (0, 1))
    return now, before


def _paired_by_key(candidate: Scorecard, served: Scorecard, *, of: Callable[[Outcome], float | None],
                   stratum: Callable[[Outcome], str | None]) -> dict[str, np.ndarray]:
    """{stratum: pairs_N2} of the tasks for which both have a figure; those of no stratum (None) are left out, and strata without a task."""
    theirs = {(outcome.domain, outcome.key): of(outcome) for outcome in served.outcomes}
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for outcome in candidate.outcomes:
        ours, other, name = of(outcome), theirs[outcome.domain, outcome.key], stratum(outcome)
        if ours is not None and other is not None and name is not None:
            rows[name].append((ours, other))
    return {name: np.array(found, dtype=np.float64) for name, found in rows.items()}


def _percent(value: float | None) -> str:
    return "ungraded" if value is None else f"{value:.1%}"


def _bits(candidate: Scorecard, served: Scorecard) -> str:
    return f"bits per byte {served.mean_bits_per_byte:.3f} -> {candidate.mean_bits_per_byte:.3f}"
