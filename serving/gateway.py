"""The gateway: keeps a snapshot in step with the registry, routes a prompt, lets a node answer, drains at the end.

Knows nothing of HTTP (api.py) nor of decoding (engines/). answer.py holds one running answer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experts.chat_frames import ChatTemplateError
from experts.device import Device
from experts.registry import ROUTER, Registry, RegistryError
from experts.repetition import rule_for
from experts.tokenizer import Message
from experts.tree import Tree
from routing.router import Ranked, Route
from serving.answer import Answer, Timing
from serving.engines.interface import Engine, EngineClosed, EngineFull, Failed, LoadFailed, Model, Sampling, Stream, Work
from serving.errors import ApiError
from serving.faults import Faults
from serving.limits import answers_at_once
from serving.memory import give_back
from serving.pool import Pool, Resident, Retired
from serving.snapshot import Snapshot, build, find
from settings import DecodingSettings, Settings

log = logging.getLogger(__name__)
_RETRY_FAILED_S = 30.0
_LOOK, _GENERATION = "look", "generation"  # causes of faults, beside the nodes


@dataclass(frozen=True, slots=True)
class Ask:
    """One checked request. node: asked for by name, or None for the router. dry_multiplier: 0 for plain answers, None for the way in which
    the version was examined. client_gone: whether anybody still waits."""

    messages: Sequence[Message]
    node: str | None = None
    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    dry_multiplier: float | None = None
    loop_guard: bool = True
    ignore_end: bool = False
    client_gone: Callable[[], bool] = bool

    @property
    def options(self) -> tuple[str, ...]:
        """Which options in use are no model's but some models'."""
        sampling = self.sampling or Sampling()
        used = {"logprobs": self.logprobs is not None, "top_k": sampling.top_k is not None, "min_p": sampling.min_p > 0,
                "repetition_penalty": sampling.repetition_penalty != 1.0, "dry_multiplier": self.dry_multiplier is not None,
                "ignore_end": self.ignore_end}
        return tuple(name for name, is_used in used.items() if is_used)


@dataclass(frozen=True, slots=True)
class Decision:
    """A route and who answers for it in this snapshot."""

    route: Route
    resident: Resident
    seconds: float


class _Refusal(ApiError):
    """This node can't take the request as it stands; another one may. What a client is told when none can."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(400, message, param=param, code=code)


@dataclass(slots=True, eq=False)
class _Admitted:
    """A request from the moment it was let in. cut: the drain is over, so whatever answers it ends with an error."""

    answer: Answer | None = None
    cut: bool = False


class Gateway:
    """Everything between HTTP and the engines. start() before use, close() after. most_answers: requests under way at once, over all nodes."""

    def __init__(self, settings: Settings, *, engine: Engine, device: Device, elsewhere: Mapping[str, Callable[[], Model]] | None = None) -> None:
        self.settings = settings
        self.tree = Tree.from_settings(settings.tree)
        self.registry = Registry(Path(settings.run.dir))
        self.engine = engine
        self._elsewhere = elsewhere or {}
        self.device = device
        self.most_answers = answers_at_once(settings.serve, models=len(self.tree.trainable))
        budget = settings.serve.memory_mib
        self.pool = Pool(engine, budget_bytes=None if budget is None else budget * 2**20)
        self.snapshot: Snapshot | None = None  # replaced by one assignment, read once a request
        self._faults = Faults()
        self.swaps = 0
        self.started_at = int(time.time())
        self._failed: tuple[int, float] | None = None
        self._looking = threading.Lock()
        self._state = threading.Condition()
        self._admitted: set[_Admitted] = set()  # this and draining under the lock of state
        self._draining = False
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None

    def start(self) -> None:
        """Take the versions in force, and look for new ones from now on."""
        self._poller = threading.Thread(target=self._poll, name="poll-registry", daemon=True)
        self._poller.start()

    def _poll(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except (RegistryError, OSError, ValueError) as error:
                self._faults.note(_LOOK, f"the registry can't be read: {error}")
            except Exception as error:  # a gateway that no longer looks would serve old versions for ever
                log.exception("looking for new versions broke; what is served stays")
                self._faults.note(_LOOK, f"looking for new versions broke: {type(error).__name__}; the log has it")
            self._stop.wait(self.settings.serve.poll_s)

    def look(self, *, again: bool = False) -> bool:
        """Serve what the pointer names now; True when another snapshot was put in place. again: try what failed at once.

        Raises RegistryError or OSError when the registry can't be read.
        """
        with self._looking:
            generation, before = self.registry.pointer().generation, self.snapshot
            known = before is not None and before.generation == generation
            if before is not None and known and before.fault is None:
                self._faults.passed(_LOOK, _GENERATION)
                return False
            if self._failed and self._failed[0] == generation and not again and time.monotonic() - self._failed[1] < _RETRY_FAILED_S:
                return False
            try:
                found = find(self.registry, self.tree)
                self._faults.passed(_LOOK)
                built = build(found, tree=self.tree, pool=self.pool, before=before, elsewhere=self._elsewhere)
            except LoadFailed as error:
                self._failed = (generation, time.monotonic())
                self._faults.note(_GENERATION, f"generation {generation} isn't served{' whole' if known else ''}, what was served before stays: {error}")
                self._drop_unused()
                return False
            if built is None:
                self._failed = (generation, time.monotonic())
                if before is not None:
                    self._faults.note(_GENERATION, f"generation {generation} has no version of {self.tree.root}; what was served before stays")
                self._drop_unused()
                return False
            self._failed = (built.generation, time.monotonic()) if built.fault is not None else None
            same = before is not None and built.is_like(before)
            self._faults.replace(_GENERATION, built.fault, others=same)
            if not same:
                self.snapshot, self.swaps = built, self.swaps + 1
                log.info("serving generation %d: %s, router %s", built.generation, built.versions, built.router_version)
            self._drop_unused()
            return not same

    def _drop_unused(self) -> None:
        self.pool.keep_only(self.snapshot.residents.values() if self.snapshot else ())
        give_back()

    @property
    def last_failure(self) -> str | None:
        """What is wrong at present, in words."""
        return self._faults.text

    @property
    def not_ready(self) -> str | None:
        """Why no request is taken, or None."""
        if self._draining:
            return "draining: the gateway is shutting down"
        if self.snapshot is None:
            return f"no promoted version of {self.tree.root} is loaded yet" + (f"; {self.last_failure}" if self.last_failure else "")
        return None

    def decide(self, messages: Sequence[Message], *, node: str | None) -> Decision:
        """Which node is to answer, and which version stands for it. Raises ApiError."""
        snapshot = self._ready_snapshot()
        began = time.monotonic()
        route = self._route(snapshot, messages, node=node)
        return self._stand_in(snapshot, route, seconds=time.monotonic() - began)

    def _ready_snapshot(self) -> Snapshot:
        snapshot = self.snapshot
        if self._draining:
            raise _shutting_down()
        if snapshot is None:
            raise ApiError(503, "no model is served yet; GET /readyz says why", code="not_ready", retry_after_s=5)
        return snapshot

    def _route(self, snapshot: Snapshot, messages: Sequence[Message], *, node: str | None) -> Route:
        if node is not None:
            if node not in self.tree.nodes:
                raise ApiError(404, f"no node named {node!r}; there are: auto, {', '.join(self.tree.nodes)}", param="node", code="model_not_found")
            kind, path = self.tree.node(node).kind, self.tree.path(node)
            return Route(node=node, branch=path[1] if kind != "root" else None, expert=node if kind == "expert" else None,
                         confidence=1.0, ranked=(), abstained=False, reason="asked for by name")
        if snapshot.router is None:
            why = "the promoted router can't be used now" if ROUTER in snapshot.missing else "no router has been promoted yet"
            return Route(node=self.tree.root, branch=None, expert=None, confidence=0.0, ranked=(), abstained=True,
                         reason=f"{why}, so {self.tree.root} answers")
        return snapshot.router.route(list(messages))

    def _stand_in(self, snapshot: Snapshot, route: Route, *, seconds: float) -> Decision:
        stand = snapshot.stands[route.node]
        if stand.note:
            route = replace(route, reason=f"{route.reason}; {stand.note}")
        return Decision(route, snapshot.residents[stand.model], seconds)

    def answer(self, ask: Ask) -> Answer:
        """Start an answer; returns when its first text (or its end) is there. Raises ApiError.

        A node that breaks before its first text, or can't take the request, is passed over for the next-ranked one, unless it was asked
        for by name.
        """
        arrived = time.monotonic()
        admitted = self._admit()
        try:
            answer = self._started(ask, admitted, arrived=arrived)
        except BaseException:
            self._leave(admitted)
            raise
        answer.on_close = functools.partial(self._leave, admitted)
        return answer

    def _admit(self) -> _Admitted:
        """Count a request in, so that a drain waits for it from here on. Raises ApiError."""
        with self._state:
            if self._draining:
                raise _shutting_down()
            if len(self._admitted) >= self.most_answers:
                raise ApiError(429, f"{len(self._admitted)} requests are under way, as many as the gateway takes; try again", code="gateway_full",
                               retry_after_s=1.0)
            admitted = _Admitted()
            self._admitted.add(admitted)
            return admitted

    def _leave(self, admitted: _Admitted) -> None:
        with self._state:
            self._admitted.discard(admitted)
            self._state.notify_all()

    def _started(self, ask: Ask, admitted: _Admitted, *, arrived: float) -> Answer:
        while True:
            decision = self.decide(ask.messages, node=ask.node)
            try:
                return self._first_that_works(ask, decision, admitted, arrived=arrived)
            except Retired:
                continue  # a swap came between reading the snapshot and taking hold of the version

    def _first_that_works(self, ask: Ask, decision: Decision, admitted: _Admitted, *, arrived: float) -> Answer:
        passed: dict[str, str] = {}  # name of a node -> why it doesn't answer
        refusals: list[_Refusal] = []
        for candidate in self._candidates(ask, decision):
            name = candidate.resident.name
            if name in passed:
                continue
            try:
                answer = self._try(ask, candidate, admitted, arrived=arrived, passed=passed)
            except _Refusal as error:
                passed[name] = "can't take the request"
                refusals.append(error)
                continue
            if answer is not None:
                return answer
            passed[name] = "failed"
        if len(refusals) == len(passed):  # else one that broke may take it later
            raise refusals[0]
        raise ApiError(503, "no node could answer; the log says why", code="node_failed", retry_after_s=5)

    def _candidates(self, ask: Ask, decision: Decision) -> list[Decision]:
        snapshot = self.snapshot
        if ask.node is not None or snapshot is None:
            return [decision]
        names = [ranked.node for ranked in decision.route.ranked if ranked.node != decision.route.node]
        stands = [snapshot.stands[name] for name in (*names, self.tree.root)]
        return [decision, *(Decision(decision.route, snapshot.residents[stand.model], decision.seconds) for stand in stands)]

    def _try(self, ask: Ask, candidate: Decision, admitted: _Admitted, *, arrived: float, passed: Mapping[str, str]) -> Answer | None:
        """A started answer, or None when this node broke before its first text. Raises ApiError, of it _Refusal when another node may do."""
        resident, route = candidate.resident, candidate.route
        if passed:
            route = replace(route, reason=f"{route.reason}; {', '.join(f'{name} {why}' for name, why in passed.items())}, so {resident.name} answers")
        try:
            model = resident.acquire()
        except LoadFailed as error:
            self._faults.note(resident.name, f"{resident.name} {resident.version} can't be loaded: {error}")
            return None
        self._faults.passed(resident.name)
        with contextlib.ExitStack() as hold:
            hold.callback(resident.release)
            stream = self._submitted(ask, resident, model, arrived=arrived)
            answer = Answer(route, resident, stream, Timing(arrived, candidate.seconds), client_gone=ask.client_gone)
            hold.pop_all()
            hold.callback(answer.close)  # it gives the hold back, and the slot
            with self._state:
                admitted.answer = answer
                if admitted.cut:
                    answer.cut()
            first = answer.wait_first()
            if not isinstance(first, Failed):
                hold.pop_all()
                return answer
        if first.kind == "queue":
            raise ApiError(503, f"no slot of {resident.name} came free in time; try again", code="queue_timeout", retry_after_s=5)
        if first.kind == "refused":
            raise _Refusal(f"the server that answers for {resident.name} refused the request: {first.reason}", code="refused_upstream")
        log.error("%s %s broke before its first text: %s", resident.name, resident.version, first.reason)
        return None

    def _submitted(self, ask: Ask, resident: Resident, model: Model, *, arrived: float) -> Stream:
        """The stream of a request that a model has taken. Raises ApiError, or Retired when the model was unloaded meanwhile."""
        for name in ask.options:
            if name in model.unsupported:
                raise _Refusal(f"{resident.name} doesn't take {name}, because another server answers for it; leave it out or ask another node",
                               param=name, code="unsupported_parameter")
        try:
            self._check_room(resident, model)
            return model.submit(self._work(ask, resident, model.context_tokens, tuple(model.encode(ask.messages)), arrived=arrived))
        except ChatTemplateError as error:
            raise _Refusal(f"{resident.name} can't read these messages: {error}", param="messages", code="invalid_messages") from error
        except EngineFull as error:
            raise ApiError(429, f"{resident.name} is busy and its queue is full; try again", code="queue_full", retry_after_s=error.retry_after_s) from error
        except EngineClosed as error:
            raise Retired(str(error)) from error

    def _check_room(self, resident: Resident, model: Model) -> None:
        """Refuse before the prompt is encoded: a refusal must cost little. submit() counts again, under its lock. Raises EngineFull."""
        now = model.capacity()
        if now.busy + now.waiting >= now.slots + self.settings.serve.queue:
            raise EngineFull(f"{resident.name} has {now.busy} answers under way and {now.waiting} requests waiting", retry_after_s=1.0)

    def _work(self, ask: Ask, resident: Resident, context: int, prompt_ids: tuple[int, ...], *, arrived: float) -> Work:
        serve = self.settings.serve
        if len(prompt_ids) >= context:
            raise ApiError(400, f"the prompt has {len(prompt_ids)} tokens; {resident.name} takes {context} with the answer, so at most {context - 1}; "
                                "shorten it", param="prompt", code="context_length_exceeded")
        wanted = ask.max_new_tokens or serve.default_new_tokens
        if wanted > serve.max_new_tokens:
            raise ApiError(400, f"max_new_tokens = {wanted} is more than serve.max_new_tokens = {serve.max_new_tokens}; ask for less",
                           param="max_new_tokens", code="max_new_tokens_too_large")
        sampling = replace(ask.sampling or Sampling(seed=random_seed()), dry=self._repetition_rule(ask, resident))
        return Work(prompt_ids, min(wanted, context - len(prompt_ids)), sampling, ask.stop,
                    arrived + serve.deadline_s, ask.logprobs, ask.loop_guard, ask.ignore_end, tuple(ask.messages))

    def _repetition_rule(self, ask: Ask, resident: Resident) -> DecodingSettings | None:
        if ask.dry_multiplier is None:
            return rule_for(self.settings.decoding, circles=resident.circles)
        return self.settings.decoding.model_copy(update={"dry_multiplier": ask.dry_multiplier}) if ask.dry_multiplier else None

    @property
    def running(self) -> int:
        """Requests let in whose answer hasn't ended."""
        return len(self._admitted)

    def drain(self, timeout_s: float) -> int:
        """Take no more requests, let the running ones finish; after timeout_s the rest get an error. Returns how many did."""
        with self._state:
            self._draining = True
            self._state.wait_for(lambda: not self._admitted, timeout=timeout_s)
            survivors = list(self._admitted)
            for admitted in survivors:
                admitted.cut = True
                if admitted.answer is not None:
                    admitted.answer.cut()
            self._state.wait_for(lambda: not self._admitted, timeout=2.0)
        return len(survivors)

    def close(self) -> None:
        """Stop polling and free everything."""
        self._draining = True
        self._stop.set()
        if self._poller is not None:
            self._poller.join(timeout=10)
        self.pool.close()
        self.engine.close()


def _shutting_down() -> ApiError:
    return ApiError(503, "the gateway is shutting down; ask another one or try again later", code="draining", retry_after_s=5)


def random_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbits(63)


def ranked_json(ranked: Sequence[Ranked]) -> list[dict[str, object]]:
    """Ranked experts as JSON."""
    return [{"node": one.node, "probability": one.probability} for one in ranked]
