"""Loaded versions: which are in memory, who uses them, which leave when memory is short. Nothing leaves in mid-request.

Does not decide which version is in force (snapshot.py) and does not decode (engines/).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from serving.engines.interface import Engine, LoadFailed, Model

log = logging.getLogger(__name__)


class Retired(Exception):
    """The version left the snapshot and is being freed; look at the present snapshot again."""


@dataclass(frozen=True, slots=True)
class Held:
    """What eviction looks at. last_used: time.monotonic()."""

    key: tuple[str, str]
    memory_bytes: int
    uses: int
    last_used: float
    pinned: bool


def evictions(held: Iterable[Held], *, needed_bytes: int, budget_bytes: int) -> list[tuple[str, str]] | None:
    """Which versions leave so that needed_bytes more fit the budget: the least recently used idle ones. None: no choice does it."""
    present = list(held)
    excess = sum(one.memory_bytes for one in present) + needed_bytes - budget_bytes
    leaving = []
    for one in sorted(present, key=lambda one: one.last_used):
        if excess <= 0:
            break
        if one.uses == 0 and not one.pinned:
            leaving.append(one.key)
            excess -= one.memory_bytes
    return leaving if excess <= 0 else None


class Resident:
    """One version that a snapshot may use; in memory or not. Every request holds it while it runs."""

    def __init__(self, pool: Pool, name: str, version: str, folder: Path, *, pinned: bool, circles: bool, load: Callable[[], Model] | None = None) -> None:
        """circles: what the version's card says of its plain answers (experts/repetition.py)."""
        self.name = name
        self.version = version
        self.folder = folder
        self.pinned = pinned
        self.circles = circles
        self.load = load
        self.model: Model | None = None  # this and the rest under the pool's lock
        self.uses = 0
        self.last_used = 0.0
        self.retired = False
        self._pool = pool

    @property
    def key(self) -> tuple[str, str]:
        """Node and version."""
        return self.name, self.version

    def acquire(self) -> Model:
        """The loaded model, loading it if need be, held until release. Raises Retired or LoadFailed."""
        return self._pool.acquire(self)

    def release(self) -> None:
        """Give a hold back."""
        self._pool.release(self)


class Pool:
    """Residents of the present snapshot and of those that still end their last requests."""

    def __init__(self, engine: Engine, *, budget_bytes: int | None) -> None:
        self._engine = engine
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._residents: dict[tuple[str, str], Resident] = {}
        # Every thread that computes keeps a team of OpenMP threads and buffers of its own: requests must not load in theirs.
        # And one alone, so that what it makes room for is still free when it has loaded.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def resident(self, name: str, version: str, folder: Path, *, pinned: bool, circles: bool = False,
                 load: Callable[[], Model] | None = None) -> Resident:
        """The resident of a version, new if it isn't known. pinned: never leaves for memory. load: in place of the engine's."""
        with self._lock:
            known = self._residents.get((name, version))
            if known is None or known.retired:
                known = Resident(self, name, version, folder, pinned=pinned, circles=circles, load=load)
                self._residents[known.key] = known
            return known

    def acquire(self, resident: Resident) -> Model:
        """The loaded model, held. Raises Retired or LoadFailed."""
        with self._lock:
            if resident.retired:
                raise Retired(f"{resident.name} {resident.version} left the snapshot")
            resident.uses += 1
            resident.last_used = time.monotonic()
            if resident.model is not None:
                return resident.model
        try:
            return self._loaded(resident)
        except BaseException:  # a hold that nobody gives back would keep the version in memory for ever
            self.release(resident)
            raise

    def release(self, resident: Resident) -> None:
        """Give a hold back; the last hold of a retired version frees it."""
        with self._lock:
            resident.uses -= 1
            resident.last_used = time.monotonic()
            model = self._free_if_over(resident)
        if model is not None:
            model.close()

    def keep_only(self, residents: Iterable[Resident]) -> None:
        """Retire every resident that isn't named: freed now, or after its last request."""
        named = {id(resident) for resident in residents}
        with self._lock:
            models = []
            for resident in list(self._residents.values()):
                if id(resident) not in named:
                    resident.retired = True
                    models.append(self._free_if_over(resident))
        for model in models:
            if model is not None:
                model.close()

    def loaded(self) -> list[tuple[Resident, Model]]:
        """Residents in memory."""
        with self._lock:
            return [(resident, resident.model) for resident in self._residents.values() if resident.model is not None]

    def _free_if_over(self, resident: Resident) -> Model | None:
        if not resident.retired or resident.uses:
            return None
        if self._residents.get(resident.key) is resident:
            del self._residents[resident.key]
        model, resident.model = resident.model, None
        return model

    def _loaded(self, resident: Resident) -> Model:
        """The model, once the loader's thread has it. Raises LoadFailed."""
        try:
            return self._loader.submit(self._load, resident).result()
        except (CancelledError, RuntimeError) as error:  # the executor's words for "shut down"; _load itself raises LoadFailed alone
            raise LoadFailed(f"{resident.name} {resident.version}: the gateway is closing") from error

    def _load(self, resident: Resident) -> Model:
        """In the loader's thread, one version after the other. Raises LoadFailed."""
        with self._lock:
            if resident.model is not None:  # by an earlier request for it
                return resident.model
        began = time.monotonic()
        try:
            self._make_room(0 if resident.load else sum(file.stat().st_size for file in resident.folder.glob("*.safetensors")))
            model = resident.load() if resident.load else self._engine.load(resident.folder, name=f"{resident.name} {resident.version}")
        except LoadFailed:
            raise
        except Exception as error:  # whatever a damaged folder or a library raises: the version can't be served, and the others can
            log.exception("loading %s %s broke", resident.name, resident.version)
            raise LoadFailed(f"{resident.name} {resident.version} can't be loaded: {type(error).__name__}: {error}") from error
        log.info("loaded %s %s in %.2f s", resident.name, resident.version, time.monotonic() - began)
        with self._lock:
            resident.model = model
        return model

    def _make_room(self, needed_bytes: int) -> None:
        if self._budget_bytes is None:
            return
        with self._lock:
            held = [Held(one.key, one.model.capacity().memory_bytes, one.uses, one.last_used, one.pinned)
                    for one in self._residents.values() if one.model is not None]
            leaving = evictions(held, needed_bytes=needed_bytes, budget_bytes=self._budget_bytes)
            if leaving is None:
                raise LoadFailed(f"{needed_bytes:,} bytes more don't fit serve.memory_mib and every loaded node is in use; raise it or try again")
            freed = []
            for key in leaving:
                model, self._residents[key].model = self._residents[key].model, None
                freed.append(model)
        for model in freed:
            if model is not None:
                model.close()
