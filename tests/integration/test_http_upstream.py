"""A node that another server answers for: the same text through two gateways, and what happens when the other one is gone."""

import pytest
import requests

import settings as configuration
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run
from routing.router import Ranked, Route
from serving.engines.upstream_engine import Breaker
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
