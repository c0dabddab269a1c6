"""Whether a candidate replaces what is served: a pure decision from two scorecards of the same exam.

Accuracy of what the models wrote comes first, the loop rate is a gate, bits per byte breaks ties. Does not run exams,
does not touch the registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from settings import PromoteSettings
from training.scorecard import Outcome, Scorecard

SMALL_BITS = 0.1  # bits per byte: near zero a ratio says little, 0.07 -> 0.10 changes no answer


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


def decide(candidate: Scorecard, served: Scorecard | None, *, settings: PromoteSettings, seed: int, chance_bits_per_byte: float | None = None,
           interim: bool = False) -> Decision:
    """Promote the candidate over the served version?

    served: results, on the same exam, of what answers until now (for a node's first version: its parent); None when
    nothing answers yet, and then the candidate must only beat chance_bits_per_byte, the cost of guessing every token
    of the vocabulary alike. interim: the served version is an early state of the candidate's own training, put up so that
    something answers; its accuracy is mostly guesses (a letter of three is right a third of the time), so bits alone decide.
    Raises ValueError when the two scorecards are not of one exam.
    """
    if any(not math.isfinite(value) for value in candidate.bits_per_byte.values()):
        return Decision(False, f"refused: bits per byte {dict(candidate.bits_per_byte)} is not finite")
    if served is None:
        return _first(candidate, chance=chance_bits_per_byte)
    if candidate.exam != served.exam:
        raise ValueError(f"scorecards of different exams, {candidate.exam} and {served.exam}; examine both on the same rows")
    words = f"accuracy {_percent(served.accuracy)} -> {_percent(candidate.accuracy)}, {_bits(candidate, served)}"
    if interim:
        return _by_bits(candidate, served, settings=settings, words=words, why="more of the same training")
    gate = _loop_gate(candidate, served, settings=settings, seed=seed) or _bits_gate(candidate, served, settings=settings)
    if gate is not None:
        return gate
    guessing = max(candidate.accuracy or 0.0, served.accuracy or 0.0) < settings.guessing_accuracy
    paired = None if guessing else paired_bootstrap(_scores(candidate, served), samples=settings.bootstrap_samples, seed=seed)
    if paired is not None and paired.above >= settings.confidence:
        return Decision(True, f"promoted: {words}; better with {paired.above:.1%} of the resamples")
    if paired is not None and paired.below >= settings.confidence:
        return Decision(False, f"refused: {words}; worse with {paired.below:.1%} of the resamples")
    return _by_bits(candidate, served, settings=settings, words=words, why="accuracy ties")


def paired_bootstrap(pairs: np.ndarray | None, *, samples: int, seed: int) -> Paired | None:
    """Resample tasks with replacement (Efron 1979; paired as in Koehn 2004, W04-3250).

    pairs_N2: score of the candidate and of the served version a task; None or empty gives None.
    A resampled difference of exactly zero counts half above and half below.
    """
    if pairs is None or not len(pairs):
        return None
    differences_N = pairs[:, 0] - pairs[:, 1]
    picks_SN = np.random.default_rng(seed).integers(0, len(differences_N), size=(samples, len(differences_N)))
    means_S = differences_N[picks_SN].mean(axis=1)
    ties = float((means_S == 0).mean()) / 2
    return Paired(float(differences_N.mean()), float((means_S > 0).mean()) + ties, float((means_S < 0).mean()) + ties)


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
    if candidate.loop_rate <= settings.loop_rate_max:
        return None
    pairs = _paired_by_key(candidate, served, of=lambda outcome: float(outcome.looped))
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


def _scores(candidate: Scorecard, served: Scorecard) -> np.ndarray | None:
    return _paired_by_key(candidate, served, of=lambda outcome: outcome.score)


def _paired_by_key(candidate: Scorecard, served: Scorecard, *, of: Callable[[Outcome], float | None]) -> np.ndarray | None:
    theirs = {(outcome.domain, outcome.key): of(outcome) for outcome in served.outcomes}
    rows = [(of(outcome), theirs[outcome.domain, outcome.key]) for outcome in candidate.outcomes]
    graded = [row for row in rows if row[0] is not None and row[1] is not None]
    return np.array(graded, dtype=np.float64) if graded else None


def _percent(value: float | None) -> str:
    return "ungraded" if value is None else f"{value:.1%}"


def _bits(candidate: Scorecard, served: Scorecard) -> str:
    return f"bits per byte {served.mean_bits_per_byte:.3f} -> {candidate.mean_bits_per_byte:.3f}"
