"""More load than there is room for, clients that leave, nodes that break: what the others see."""

import json
import socket
import statistics
import time

import pytest
import requests

import settings as configuration
from benchmarks import load_client
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run
from routing.router import Ranked, Route
from serving.engines.interface import EngineFull, LoadFailed

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "intermediate": 64, "context_tokens": 1024},
       "train": {"row_tokens": 64}}
LONG = {"prompt": "count", "max_new_tokens": 900, "ignore_end": True, "stream": True}


def _settings(folder, engine, **serve):
    return configuration.check({**TOY, "run": {"dir": str(folder)}, "serve": {"loop_repeats": None, "slots": 2, "queue": 2, "engine": engine, **serve}})


@pytest.fixture(scope="module", params=["torch", "llamacpp"])
def live(request, tmp_path_factory):
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp", reason="the extra cpu isn't installed")
    settings = _settings(tmp_path_factory.mktemp("run"), request.param)
    make_run(settings, nodes=("generalist", "math"), with_router=False)
    with live_gateway(settings) as live:
        yield live


def _wait_idle(live, *, timeout_s):
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        capacities = [model.capacity() for _, model in live.gateway.pool.loaded()]
        if live.gateway.running == 0 and not any(capacity.busy + capacity.waiting for capacity in capacities):
            return True
        time.sleep(0.02)
    return False


def test_ten_times_the_capacity_is_answered_refused_with_429_and_nothing_else(live, monkeypatch):
    monkeypatch.setattr(live.gateway, "most_answers", 40)  # all of them: on a busy machine 18 may stand in the doorway, which refuses before a queue is asked
    body = {"prompt": "x", "max_new_tokens": 40, "ignore_end": True}
    seen = load_client.send(live.url, [[body] * 4 for _ in range(40)]).requests
    assert {sent.status for sent in seen} == {200, 429}
    assert {sent.ended for sent in seen if sent.status == 429} == {"queue_full"}
    assert all(sent.tokens == 40 for sent in seen if sent.status == 200)
    assert statistics.quantiles([sent.total_s for sent in seen if sent.status == 429], n=100)[49] < 0.5  # shared machines: the figure is the benchmark's
    assert _wait_idle(live, timeout_s=5)


def test_refusal_says_when_to_come_back(live, monkeypatch):
    def full(work):
        raise EngineFull("2 slots and 2 waiting", retry_after_s=3.0)

    monkeypatch.setattr(live.gateway.snapshot.residents["generalist"].model, "submit", full)
    refused = requests.post(f"{live.url}/generate", json=LONG, timeout=60)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert live.gateway.snapshot.residents["generalist"].uses == 0


def test_clients_that_leave_free_their_slots(live):
    for _ in range(3):
        gone = []
        for _ in range(4):
            client = socket.create_connection((live.server.host, live.server.port))
            body = json.dumps(LONG).encode()
            client.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            gone.append(client)
        time.sleep(0.05)
        for client in gone:
            client.close()
        assert _wait_idle(live, timeout_s=5)


def test_half_a_request_holds_no_slot(live):
    with socket.create_connection((live.server.host, live.server.port)) as client:
        client.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
        answer = requests.post(f"{live.url}/generate", json={"prompt": "x", "max_new_tokens": 3, "ignore_end": True}, timeout=30).json()
    assert answer["usage"]["completion_tokens"] == 3


def test_malformed_http_has_the_one_error_body(live):
    with socket.create_connection((live.server.host, live.server.port)) as client:
        client.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: nonsense\r\n\r\n")
        head, body = client.makefile("rb").read().split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.0 400") or head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_deadline_ends_an_answer_with_what_there_is(tmp_path):
    settings = _settings(tmp_path, "torch", deadline_s=0.1)
    make_run(settings, nodes=("generalist",), with_router=False)
    with live_gateway(settings) as live:
        body = requests.post(f"{live.url}/generate", json={**LONG, "stream": False}, timeout=60).json()
    assert body["finish_reason"] == "deadline"
    assert body["usage"]["completion_tokens"] < 900


def test_loop_guard_ends_a_text_that_goes_in_a_circle(tmp_path):
    settings = _settings(tmp_path, "torch", loop_repeats=8)
    make_run(settings, nodes=("generalist",), with_router=False)
    with live_gateway(settings) as live:  # a random model with tied embeddings repeats its last token for ever
        body = requests.post(f"{live.url}/generate", json={**LONG, "stream": False}, timeout=60).json()
        free = requests.post(f"{live.url}/generate", json={**LONG, "stream": False, "loop_guard": False}, timeout=60).json()
    assert (body["finish_reason"], body["usage"]["completion_tokens"]) == ("loop", 32)
    assert (free["finish_reason"], free["usage"]["completion_tokens"]) == ("length", 900)


class _Chooser:
    """A router that is sure of maths."""

    def route(self, prompt):
        ranked = (Ranked("math", 0.9), Ranked("code", 0.06), Ranked("knowledge", 0.04))
        return Route("math", "analytical", "math", 0.9, ranked, False, "sure of math: 0.90")


@pytest.fixture
def routed(tmp_path):
    settings = _settings(tmp_path, "torch", poll_s=3600.0)
    make_run(settings, nodes=("generalist", "math", "code"), with_router=False)
    with live_gateway(settings) as live:
        object.__setattr__(live.gateway.snapshot, "router", _Chooser())
        yield live


def _ask(live, **body):
    return requests.post(f"{live.url}/generate", json={"prompt": "What is 3 + 4?", "max_new_tokens": 8, "ignore_end": True, **body}, timeout=60)


def _break_forward(live, name):
    """Every pass of a node raises from now on."""
    def broken(*_, **__):
        raise RuntimeError("a secret detail")
    live.gateway.snapshot.residents[name].model.forward.logits = broken


def test_node_that_breaks_before_its_first_text_the_next_ranked_one_answers(routed):
    assert _ask(routed).json()["node"] == "math"
    _break_forward(routed, "math")
    body = _ask(routed).json()
    assert (body["node"], body["usage"]["completion_tokens"]) == ("code", 8)
    assert body["route"]["expert"] == "math"
    assert body["route"]["reason"] == "sure of math: 0.90; math failed, so code answers"
    _break_forward(routed, "code")
    assert _ask(routed, stream=True).text.count('"node":"generalist"') == 2  # the root is the last resort, in streams too


def test_node_that_breaks_when_asked_for_by_name_is_503_without_the_exceptions_text(routed):
    _break_forward(routed, "math")
    response = _ask(routed, node="math")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "node_failed")
    assert "secret" not in response.text
    assert _ask(routed, node="code").json()["usage"]["completion_tokens"] == 8


def test_node_that_breaks_in_mid_answer_ends_with_an_error_event_and_the_others_go_on(routed):
    response = requests.post(f"{routed.url}/generate", json={**LONG, "node": "math", "temperature": 1.0, "seed": 1}, stream=True, timeout=60)
    lines = response.iter_lines()
    while next(lines) != b"event: token":
        pass
    _break_forward(routed, "math")
    rest = [line for line in lines if line]
    assert rest[-2] == b"event: error"
    assert json.loads(rest[-1].removeprefix(b"data: "))["error"]["code"] == "node_failed"
    assert b"secret" not in b"".join(rest)
    assert _ask(routed, node="code").json()["usage"]["completion_tokens"] == 8


def test_node_that_cant_be_loaded_on_demand_the_next_ranked_one_answers(routed):
    resident = routed.gateway.snapshot.residents["math"]
    resident.model.close()
    resident.model = None

    def refuse(folder, *, name):
        raise LoadFailed("no memory")

    routed.gateway.engine.load = refuse
    assert _ask(routed).json()["route"]["reason"].endswith("math failed, so code answers")
