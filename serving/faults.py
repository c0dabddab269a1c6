"""What is wrong at present, by its cause: what /readyz gives as last_failure. A cause that passed is taken out by whoever saw it pass."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


class Faults:
    """Thread-safe."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def note(self, cause: str, text: str) -> None:
        """A fault; logged where it is another one than the last of this cause."""
        with self._lock:
            known = self._texts.get(cause) == text
            self._texts[cause] = text
        if not known:
            log.error("%s", text)

    def passed(self, *causes: str) -> None:
        """These causes are gone."""
        with self._lock:
            for cause in causes:
                self._texts.pop(cause, None)

    def replace(self, cause: str, text: str | None, *, others: bool) -> None:
        """What a cause comes to now, None: nothing. others: those of other causes stay, as where the same versions serve on."""
        with self._lock:
            self._texts = {name: known for name, known in self._texts.items() if (text is not None if name == cause else others)}
        if text is not None:
            self.note(cause, text)

    @property
    def text(self) -> str | None:
        """All of them, oldest first; None without any."""
        with self._lock:
            return "; ".join(self._texts.values()) or None
