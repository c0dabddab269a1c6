"""Requests that wait for a thread of llama.cpp or of another server: who waits too long or leaves goes at once. The servers are stand-ins that say nothing."""

import socket
import threading
import time

import pytest

import settings as configuration
from serving.engines import llamacpp_engine
from serving.engines.interface import End, EngineFull, EngineLimits, Failed, Sampling, Work
from serving.engines.llamacpp_engine import LlamaCppModel
from serving.engines.upstream_engine import UpstreamModel
from serving.engines.waiting import WaitingLine
from serving.wiring import make_gateway

WAIT_S = 0.2
LIMITS = EngineLimits(slots=1, queue=1, queue_wait_s=WAIT_S)


class SilentServer:
    """In place of llama.cpp: takes a completion and says nothing until it is told to go on."""

    def __init__(self):
        self.asked, self.go_on = [], threading.Event()

    def handle_completions(self, body, on_data):
        self.asked.append(body)
        assert self.go_on.wait(20)


@pytest.fixture
def llamacpp(monkeypatch, tmp_path):
    server = SilentServer()
    monkeypatch.setattr(llamacpp_engine, "_start_server", lambda *args, **options: server)
    (tmp_path / "math.gguf").write_bytes(b"x")
    models = []

    def make(limits):
        models.append(LlamaCppModel(tmp_path / "math.gguf", None, name="math", context_tokens=64, limits=limits, threads=1, exact=True, on_close=bool))
        return models[-1]

    yield make
    server.go_on.set()
    for model in models:
        model.close()


@pytest.fixture
def upstream():
    with socket.create_server(("127.0.0.1", 0)) as server:
        models = []

        def make(limits):
            models.append(UpstreamModel(f"http://127.0.0.1:{server.getsockname()[1]}/v1", name="math", limits=limits))
            return models[-1]

        yield make
        for model in models:
            model.close()


@pytest.fixture(params=["llamacpp", "upstream"])
def make_model(request):
    return request.getfixturevalue(request.param)


def _work(**options):
    return Work((1, 2), 8, Sampling(), messages=[{"role": "user", "content": "hello"}], **options)


def _busy(model):
    """Start a request that stays under way; its stream."""
    stream = model.submit(_work())
    time.sleep(0.05)
    return stream


def test_request_that_waits_is_ended_after_queue_wait_s_while_the_thread_is_busy(make_model):
    model = make_model(LIMITS)
    running = _busy(model)
    began = time.monotonic()
    failed = model.submit(_work()).next(timeout_s=10)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.reason.split(" in ")[0]) == ("queue", "no slot of math came free")
    assert WAIT_S <= time.monotonic() - began < 2 * WAIT_S + 2.0  # two seconds for a busy machine; the thread is busy for twenty
    assert (model.capacity().busy, model.capacity().waiting) == (1, 0)
    running.cancel()


def test_request_that_waits_is_ended_at_its_deadline(make_model):
    model = make_model(EngineLimits(slots=1, queue=1, queue_wait_s=30.0))
    running = _busy(model)
    failed = model.submit(_work(deadline=time.monotonic() + WAIT_S)).next(timeout_s=10)
    assert isinstance(failed, Failed)
    assert failed.kind == "queue"
    running.cancel()


def test_clients_that_leave_the_queue_make_room_at_once(make_model):
    model = make_model(EngineLimits(slots=1, queue=2, queue_wait_s=30.0))
    running = _busy(model)
    waiting = [model.submit(_work()) for _ in range(2)]
    with pytest.raises(EngineFull):
        model.submit(_work())
    for stream in waiting:
        stream.cancel()
        ended = stream.next(timeout_s=0)
        assert isinstance(ended, End)
        assert ended.finish_reason == "cancelled"
    assert model.capacity().waiting == 0
    model.submit(_work())
    assert model.capacity().waiting == 1
    running.cancel()


def test_request_that_left_is_never_put_to_llamacpp(llamacpp):
    model = llamacpp(EngineLimits(slots=1, queue=2, queue_wait_s=30.0))
    _busy(model)
    model.submit(_work(stop=("left",))).cancel()
    stays = model.submit(_work(stop=("stays",)))
    model.server.go_on.set()
    assert isinstance(stays.next(timeout_s=10), Failed)  # the stand-in ends without a last event
    assert [b"left" in body for body in model.server.asked] == [False, False]


def test_many_that_gave_up_leave_nothing_behind_and_order_is_kept(llamacpp):
    begun, go_on = [], threading.Event()

    class Request:
        def __init__(self, name, stream):
            self.name, self.work, self.stream, self.submitted = name, _work(), stream, time.monotonic()

    def run(request):
        begun.append(request.name)
        go_on.wait(20)

    line = WaitingLine(name="line", threads=1, wait_s=30.0, run=run, leave=lambda request, cancelled: None)
    streams = {name: llamacpp_engine.Stream() for name in ["first", *range(100), "second", "third"]}
    for name, stream in streams.items():
        line.add(Request(name, stream))
        if isinstance(name, int):
            stream.cancel()
    assert line._workers._work_queue.qsize() <= 3
    go_on.set()
    until = time.monotonic() + 10
    while len(begun) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert begun == ["first", "second", "third"]
    line.close(wait=True)
    line._sweeper.join(timeout=10)
    assert not line._sweeper.is_alive()


def test_upstream_nodes_keep_the_settings_queue_wait(tmp_path):
    gateway = make_gateway(configuration.check({"run": {"dir": str(tmp_path)}, "serve": {"engine": "torch", "queue_wait_s": 3.0, "upstream": {"math": "http://x/v1"}}}))
    model = gateway._elsewhere["math"]()
    assert model._limits.queue_wait_s == 3.0
    model.close()
    gateway.close()
