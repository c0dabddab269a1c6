"""Who is let in: a count over all nodes, requests that a drain waits for, holds that come back whatever breaks. Engines are stand-ins."""

import threading
from types import SimpleNamespace

import pytest

import settings as configuration
from experts.chat_frames import ChatTemplateError
from experts.device import cpu_device
from serving.engines.interface import Capacity, End, LoadFailed, Piece, Stream
from serving.errors import ApiError
from serving.gateway import Ask, Gateway
from serving.limits import answers_at_once
from serving.snapshot import Snapshot, stands_of
from settings import ServeSettings

ASK = Ask([{"role": "user", "content": "What is 3 + 4?"}])


class Model:
    """Answers "7" at once; encode waits for go_on, as a long prompt would keep it busy."""

    context_tokens = 64
    unsupported = frozenset()

    def __init__(self):
        self.encoding, self.go_on, self.fault = threading.Event(), threading.Event(), None
        self.go_on.set()
        self.streams = []

    def encode(self, messages):
        self.encoding.set()
        assert self.go_on.wait(20)
        if self.fault is not None:
            raise self.fault
        return (1, 2, 3)

    def submit(self, work):
        self.streams.append(Stream())
        self.streams[-1].put(Piece("7", 1))
        return self.streams[-1]

    def capacity(self):
        return Capacity(8, 0, 0, 0)

    def close(self):
        pass


class Engine:
    name = "stand-in"

    def __init__(self):
        self.model = Model()

    def load(self, folder, *, name):
        return self.model

    def close(self):
        pass


@pytest.fixture
def gateway(tmp_path):
    """Serves a root from a stand-in model; two nodes have a model of their own, so there is room for three requests."""
    settings = configuration.check({"run": {"dir": str(tmp_path)}, "tree": {"branches": {"technical": ["code"]}}, "serve": {"slots": 1, "queue": 1}})
    gateway = Gateway(settings, engine=Engine(), device=cpu_device())
    root = gateway.tree.root
    resident = gateway.pool.resident(root, "v000001", tmp_path, pinned=True)
    gateway.snapshot = Snapshot(1, stands_of(gateway.tree, [root]), {root: resident}, None, None)
    yield gateway
    gateway.close()


def _in_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.parametrize(("slots", "queue", "models", "wanted"), [(32, 64, 8, 320), (2, 1, 1, 3)])
def test_answers_at_once_every_slot_of_every_model_and_a_queue(slots, queue, models, wanted):
    assert answers_at_once(ServeSettings(slots=slots, queue=queue), models=models) == wanted


def test_answers_at_once_never_more_than_connections():
    assert answers_at_once(ServeSettings(slots=1024, queue=4096), models=8) in (320, 800)


def test_request_beyond_the_gateways_room_is_refused_and_taken_once_another_ended(gateway):
    answers = [gateway.answer(ASK) for _ in range(3)]
    with pytest.raises(ApiError, match="3 requests are under way") as refused:
        gateway.answer(ASK)
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (429, "gateway_full", 1.0)
    answers[0].close()
    gateway.answer(ASK).close()
    assert gateway.running == 2


def test_drain_waits_for_a_request_that_has_no_stream_yet(gateway):
    model = gateway.engine.model
    model.go_on.clear()
    answers, cut = [], []
    asking = _in_thread(lambda: answers.append(gateway.answer(ASK)))
    assert model.encoding.wait(20)
    draining = _in_thread(lambda: cut.append(gateway.drain(20.0)))
    while gateway.not_ready is None or "draining" not in gateway.not_ready:
        pass
    with pytest.raises(ApiError, match="shutting down"):
        gateway.answer(ASK)
    draining.join(timeout=0.2)
    assert draining.is_alive()
    model.go_on.set()
    asking.join()
    model.streams[0].put(End("stop", 3, 1))
    assert "".join(piece.text for piece in answers[0].pieces()) == "7"
    answers[0].close()
    draining.join()
    assert cut == [0]


def test_drain_that_is_over_cuts_a_request_that_gets_its_stream_after_it(gateway):
    model = gateway.engine.model
    model.go_on.clear()
    faults = []

    def ask():
        try:
            gateway.answer(ASK)
        except ApiError as error:
            faults.append(error.code)

    asking = _in_thread(ask)
    assert model.encoding.wait(20)
    cut = []
    draining = _in_thread(lambda: cut.append(gateway.drain(0.0)))
    while not draining.is_alive() or gateway.not_ready is None:
        pass
    draining.join(timeout=0.2)
    model.go_on.set()
    asking.join()
    draining.join()
    assert (faults, cut, gateway.running) == (["draining"], [1], 0)


def test_fault_of_a_tokenizer_gives_the_hold_and_the_place_back(gateway):
    model = gateway.engine.model
    model.fault = RuntimeError("already borrowed")
    with pytest.raises(RuntimeError, match="already borrowed"):
        gateway.answer(ASK)
    (resident,) = gateway.snapshot.residents.values()
    assert (resident.uses, gateway.running) == (0, 0)


def test_conversation_that_no_nodes_template_takes_is_a_bad_request(gateway):
    gateway.engine.model.fault = ChatTemplateError("refuses a conversation of user, user")
    with pytest.raises(ApiError, match=r"generalist can't read these messages: refuses a conversation of user, user") as refused:
        gateway.answer(ASK)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_messages", "messages")
    (resident,) = gateway.snapshot.residents.values()
    assert (resident.uses, gateway.running) == (0, 0)


def test_version_that_could_not_be_loaded_for_a_request_stays_said_until_it_can(gateway, monkeypatch):
    sound = gateway.engine.load

    def broken(folder, *, name):
        raise LoadFailed("memory is short")

    monkeypatch.setattr(gateway.registry, "pointer", lambda: SimpleNamespace(generation=1))
    monkeypatch.setattr(gateway.engine, "load", broken)
    with pytest.raises(ApiError):
        gateway.answer(ASK)
    assert not gateway.look()
    assert gateway.last_failure == "generalist v000001 can't be loaded: memory is short"
    monkeypatch.setattr(gateway.engine, "load", sound)
    gateway.answer(ASK).close()
    assert gateway.last_failure is None


def test_answer_of_a_reader_that_left_is_cancelled_and_not_broken(gateway):
    answer = gateway.answer(ASK)
    answer.close()
    assert (answer.ending, gateway.engine.model.streams[0].cancelled) == ("cancelled", True)
    whole = gateway.answer(ASK)
    gateway.engine.model.streams[1].put(End("length", 3, 1))
    assert [piece.text for piece in whole.pieces()] == ["7"]
    assert whole.ending == "length"


def test_poller_goes_on_after_a_fault_that_nobody_foresaw(gateway, monkeypatch):
    looks, seen = [], threading.Event()

    def look():
        looks.append(1)
        if len(looks) > 1:
            seen.set()
        raise RuntimeError("a fault of a library")

    monkeypatch.setattr(gateway, "look", look)
    object.__setattr__(gateway.settings.serve, "poll_s", 0.01)
    gateway.start()
    assert seen.wait(20)
    assert gateway.last_failure == "looking for new versions broke: RuntimeError; the log has it"
