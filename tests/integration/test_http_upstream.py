"""A node that another server answers for: the same text through two gateways, and what happens when the other one is gone."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from read_stream import last_event

import settings as configuration
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run
from routing.router import Ranked, Route
from serving.engines.interface import End, EngineLimits, Failed, LoadFailed, Work
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
        model = UpstreamModel(f"http://127.0.0.1:{server.getsockname()[1]}/v1", name="math", limits=EngineLimits(slots=1, queue=4, queue_wait_s=1.0))
        first = model.submit(_work())
        with _asked(server):
            second = model.submit(_work())
            time.sleep(1.1)
            first.cancel()
            failed = second.next(timeout_s=10)
        assert (failed.kind, failed.reason.split(" in ")[0]) == ("queue", "no slot of math came free")
        model.close()


class _Other(ThreadingHTTPServer):
    """A server that answers every request with the same status and body, and counts them."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.asked = 200, b"", 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def scripted():
    with _Other() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def model(scripted):
    scripted.status, scripted.body = 200, b""
    model = UpstreamModel(scripted.url, name="math", limits=EngineLimits(slots=1, queue=4))
    yield model
    model.close()


def _stream(*events):
    return b"".join(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n" for event in events)


SEVEN = {"choices": [{"delta": {"content": "7"}}]}
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


@pytest.mark.parametrize("odd", [b"null", b"5", b"{", {"choices": [None]}, {"choices": [{"delta": "7"}]}, {"choices": 3}, b"[" * 100_000])
def test_upstream_odd_event_is_a_failure_and_frees_its_place(scripted, model, odd):
    scripted.body = _stream(odd)
    for _ in range(2):  # one place: the second is only asked for if the first gave it back
        assert isinstance(model.submit(_work()).next(timeout_s=30), Failed)


def test_upstream_events_without_choices_are_empty(scripted, model):
    scripted.body = _stream({"choices": None, "usage": None}, SEVEN, {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}, STOP)
    text, end = last_event(model.submit(_work()))
    assert (text, end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("7", "stop", 3, 1)


@pytest.mark.parametrize(("status", "body", "wanted"), [
    (400, b'{"error": {"message": "too long", "type": "x"}}', Failed("too long", "refused")), (422, b'{"detail": "too long"}', Failed("too long", "refused")),
    (400, b'{"object": "error", "message": "too long"}', Failed("too long", "refused")), (413, b"too long\n", Failed("too long", "refused")),
    (404, b"", Failed("status 404: b''")), (402, b"", Failed("status 402: b''")),
    (401, b"no key", Failed("status 401: b'no key'")), (403, b"", Failed("status 403: b''")),
    (429, b"", Failed("status 429: b''")), (500, b"", Failed("status 500: b''"))])
def test_upstream_status_says_whose_fault_it_is(scripted, model, status, body, wanted):
    scripted.status, scripted.body, scripted.asked = status, body, 0
    assert model.submit(_work()).next(timeout_s=30) == wanted
    assert scripted.asked == (2 if status in (429, 500) else 1)


@pytest.fixture(scope="module")
def fronted(scripted, tmp_path_factory):
    """A gateway whose math is the scripted server."""
    settings = _settings(tmp_path_factory.mktemp("fronted"), upstream={"math": scripted.url})
    make_run(settings, nodes=("generalist",), with_router=False)
    with live_gateway(settings) as live:
        scripted.status, scripted.body = 200, _stream(SEVEN, STOP)
        yield live


def _routed(live, monkeypatch):
    monkeypatch.setattr(live.gateway, "_route", lambda *_, **__: _Chooser().route(""))


def test_upstream_that_refuses_a_request_is_the_clients_bad_request(scripted, fronted, monkeypatch):
    scripted.status, scripted.body = 400, b'{"error": {"message": "content must not be empty"}}'
    theirs = {"messages": [{"role": "user", "content": "x"}], "model": "math"}
    for path, ask in (("/generate", {"prompt": "x", "node": "math"}), ("/v1/chat/completions", theirs)):
        response = requests.post(fronted.url + path, json=ask, timeout=60)
        assert (response.status_code, "Retry-After" in response.headers) == (400, False)
        assert response.json()["error"] == {"message": "the server that answers for math refused the request: content must not be empty", "param": None,
                                            "type": "invalid_request_error", "code": "refused_upstream"}
    _routed(fronted, monkeypatch)
    assert _post(fronted).json()["route"]["reason"] == "sure of math: 0.90; math can't take the request, so generalist answers"

    def gone():
        raise LoadFailed("no memory")

    monkeypatch.setattr(fronted.gateway.snapshot.residents["generalist"], "acquire", gone)
    assert (_post(fronted).status_code, _post(fronted).json()["error"]["code"]) == (503, "node_failed")  # one that broke may take it later


@pytest.mark.parametrize(("name", "value"), [
    ("logprobs", True), ("top_k", 5), ("min_p", 0.1), ("repetition_penalty", 1.5), ("dry_multiplier", 1.0), ("dry_multiplier", 0), ("ignore_end", True)])
def test_upstream_option_that_it_cant_be_told_is_refused_by_name(scripted, fronted, monkeypatch, name, value):
    scripted.status, scripted.body = 200, _stream(SEVEN, STOP)
    ours = {"prompt": "x", "node": "math"}
    theirs = {"messages": [{"role": "user", "content": "x"}], "model": "math"}
    asks = [*([("/generate", ours)] if name != "logprobs" else []), *([("/v1/chat/completions", theirs)] if name != "ignore_end" else [])]
    for path, ask in asks:
        assert requests.post(fronted.url + path, json=ask, timeout=60).status_code == 200
        error = requests.post(fronted.url + path, json={**ask, name: value}, timeout=60).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name)
        assert error["message"].startswith(f"math doesn't take {name}, because another server answers for it")
    _routed(fronted, monkeypatch)
    path, ask = asks[-1]
    body = requests.post(fronted.url + path, json={**ask, "node" if path == "/generate" else "model": "auto", name: value}, timeout=60).json()
    assert body.get("node", body.get("model")) == "generalist"
