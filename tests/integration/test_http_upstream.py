"""A node that another server answers for: the same text through two gateways, and what happens when the other one is gone."""

import socket
import time

import pytest
import requests

import settings as configuration
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run
from routing.router import Ranked, Route
from serving.engines.interface import End, EngineLimits, Work
from serving.engines.upstream_engine import Breaker, UpstreamModel
from serving.wiring import make_gateway

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "intermediate": 64, "context_tokens": 256},
       "train": {"row_tokens": 64}}
BODY = {"prompt": "What is 3 + 4?", "max_new_tokens": 20, "temperature": 1.0, "seed": 5}


def _settings(folder, **serve):
    return configuration.check({**TOY, "run": {"dir": str(folder)}, "serve": {"loop_repeats": None, "slots": 2, "queue": 2, "engine": "torch", **serve}})


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    settings = _settings(tmp_path_factory.mktemp("other"))
    make_run(settings, nodes=("generalist", "math"), with_router=False)
    with live_gateway(settings) as live:
        yield live


def _post(live, **body):
    return requests.post(f"{live.url}/generate", json={**BODY, **body}, timeout=60)


def test_upstream_node_says_what_the_other_server_says(other, tmp_path):
    settings = _settings(tmp_path, upstream={"math": f"{other.url}/v1"})
    make_run(settings, nodes=("generalist",), with_router=False)
    with live_gateway(settings) as live:
        theirs, ours = _post(other, node="math").json(), _post(live, node="math").json()
        assert (ours["text"], ours["usage"], ours["finish_reason"]) == (theirs["text"], theirs["usage"], theirs["finish_reason"])
        assert (ours["node"], ours["version"]) == ("math", "upstream")
        assert _post(live, node="math", stop=[theirs["text"][4:6]]).json()["text"] == theirs["text"][:theirs["text"].index(theirs["text"][4:6])]
        assert _post(live, node="generalist").json()["version"] == "v000001"


class _Chooser:
    def route(self, prompt):
        return Route("math", "analytical", "math", 0.9, (Ranked("math", 0.9), Ranked("code", 0.1)), False, "sure of math: 0.90")


def test_upstream_that_is_gone_the_next_ranked_node_answers(tmp_path):
    settings = _settings(tmp_path, upstream={"math": "http://127.0.0.1:9/v1"})  # port 9: nobody listens
    make_run(settings, nodes=("generalist", "code"), with_router=False)
    with live_gateway(settings) as live:
        object.__setattr__(live.gateway.snapshot, "router", _Chooser())
        for _ in range(4):  # also once the breaker is open
            assert _post(live).json()["route"]["reason"] == "sure of math: 0.90; math failed, so code answers"
        assert _post(live, node="math").json()["error"]["code"] == "node_failed"


@pytest.mark.parametrize(("upstream", "words"), [({"maths": "http://x/v1"}, "no node of that name"), ({"math": "x:80"}, "write it as http://host:8000/v1")])
def test_upstream_setting_that_names_nothing_is_refused(upstream, words, tmp_path):
    with pytest.raises(configuration.SettingsError, match=words):
        make_gateway(_settings(tmp_path, upstream=upstream))


def test_breaker_opens_after_three_failures_and_tries_once_in_a_while():
    now = [0.0]
    breaker = Breaker(failures=3, open_s=10.0, clock=lambda: now[0])
    for _ in range(3):
        assert breaker.allows()
        breaker.note(worked=False)
    assert not breaker.allows()
    now[0] = 10.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.note(worked=True)
    assert [breaker.allows(), breaker.allows()] == [True, True]


@pytest.fixture
def silent():
    """A model behind a server that takes every request and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        model = UpstreamModel(f"http://127.0.0.1:{server.getsockname()[1]}/v1", name="math", limits=EngineLimits(slots=1, queue=4, queue_wait_s=20.0))
        yield model, server
        model.close()


def _work(**options):
    return Work((), 8, messages=[{"role": "user", "content": "hello"}], **options)


def _asked(server):
    connection, _ = server.accept()
    connection.recv(65_536)
    return connection


def test_upstream_that_is_silent_a_client_that_leaves_frees_its_place_at_once(silent):
    model, server = silent
    streams = [model.submit(_work()) for _ in range(2)]
    with _asked(server):
        streams[1].cancel()
        streams[0].cancel()
        events = [stream.next(timeout_s=10) for stream in streams]
    assert [event.finish_reason for event in events] == ["cancelled", "cancelled"]
    until = time.monotonic() + 5
    while model.capacity().busy and time.monotonic() < until:
        time.sleep(0.01)
    assert model.capacity().busy == 0
    server.setblocking(False)
    with pytest.raises(BlockingIOError):  # neither was the first asked again, nor the second at all
        server.accept()


def test_upstream_that_falls_silent_the_deadline_ends_the_answer(silent):
    model, server = silent
    stream = model.submit(_work(deadline=time.monotonic() + 0.5))
    with _asked(server) as connection:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"choices": [{"delta": {"content": "7"}}]}\n\n')
        assert stream.next(timeout_s=10).text == "7"
        ended = stream.next(timeout_s=10)
    assert isinstance(ended, End)
    assert (ended.finish_reason, ended.completion_tokens) == ("deadline", 1)


def test_upstream_request_that_waited_too_long_for_a_place_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        model = UpstreamModel(f"http://127.0.0.1:{server.getsockname()[1]}/v1", name="math", limits=EngineLimits(slots=1, queue=4, queue_wait_s=0.05))
        first, second = model.submit(_work()), model.submit(_work())
        with _asked(server):
            time.sleep(0.1)
            first.cancel()
            failed = second.next(timeout_s=10)
        assert (failed.kind, failed.reason.split(" in ")[0]) == ("queue", "no slot of math came free")
        model.close()
