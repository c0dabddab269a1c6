"""Makes tokens less probable that would go on with a sequence which the text has held before: DRY, "don't repeat yourself".

The rule of the sampler of that name in llama.cpp (`dry_*`, no sequence breakers) and text-generation-webui (pull request 5677): a token that
would make a repeated sequence of n tokens longer loses multiplier * base ** (n - allowed) of its logit, so that a loop ends however sure the
model is of it, while names, numbers and short phrases stay as they are. Pure bookkeeping of one text; does not choose tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from settings import DecodingSettings

_MOST_DOUBLINGS = 60  # of the exponent: beyond it every penalty is out of reach of any logit


def rule_for(settings: DecodingSettings, *, circles: bool) -> DecodingSettings | None:
    """The rule under which a version writes, None for none. circles: whether its plain answers go in circles, as its card says."""
    return settings if settings.dry == "always" or (settings.dry == "auto" and circles) else None


class Repetition:
    """Follows the ids of one text, prompt and answer. A token costs as many steps as it stood in the window before."""

    def __init__(self, settings: DecodingSettings, ids: Iterable[int] = ()) -> None:
        """ids: the text so far."""
        self._settings = settings
        self._ids: list[int] = []
        self._places: dict[int, list[int]] = {}  # id -> where it stands, the newest last
        self._runs: dict[int, int] = {}  # earlier place -> how many ids up to there equal those up to the end
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Add the next id."""
        place, runs, places = len(self._ids), {}, self._places.setdefault(token, [])
        oldest = place + 1 - self._settings.dry_window_tokens
        for earlier in reversed(places):
            if earlier < oldest:
                break
            runs[earlier] = self._runs.get(earlier - 1, 0) + 1
        self._runs = runs
        self._ids.append(token)
        places.append(place)

    def penalties(self) -> dict[int, float]:
        """What the logits of some ids lose before the next one is chosen; empty where nothing is repeated."""
        settings, longest = self._settings, dict[int, int]()
        oldest = len(self._ids) - settings.dry_window_tokens
        for earlier, run in self._runs.items():
            length = min(run, earlier - oldest + 1)
            if length >= settings.dry_allowed_tokens:
                follower = self._ids[earlier + 1]
                longest[follower] = max(length, longest.get(follower, 0))
        return {token: settings.dry_multiplier * settings.dry_base ** min(length - settings.dry_allowed_tokens, _MOST_DOUBLINGS)
                for token, length in longest.items()}
