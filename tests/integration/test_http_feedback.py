"""POST /feedback through the real gateway: into the journal, from there into the next fit, and nobody steers the router with it."""

import contextlib
from pathlib import Path

import pytest
import requests

import settings as configuration
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run, prompt_rows
from experts.journal import Journal
from experts.tree import Tree
from routing.feedback import feedback_rows
from routing.fit import fit
from routing.rows import Row
from serving.feedback import client_name

TREE = Tree.from_settings(configuration.TreeSettings())
TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "context_tokens": 256},
       "train": {"row_tokens": 64}, "router": {"everyday_rows": 100, "none_rows": 150, "words": 3000, "letter_groups": 3000, "forms": 1000}}
ODD = "water the tulips on the balcony"


def _settings(folder, *, feedback=True, **router):
    return configuration.check({**TOY, "router": {**TOY["router"], **router}, "run": {"dir": str(folder)},
                                "serve": {"poll_s": 3600.0, "loop_repeats": None, "feedback": feedback}})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = _settings(tmp_path_factory.mktemp("run"))
    make_run(settings, nodes=("generalist", "math", "code"))
    return settings


@contextlib.contextmanager
def _live(settings, **options):
    with live_gateway(settings, **options) as live:
        yield live


@pytest.fixture(scope="module")
def live(run):
    with _live(run) as live:
        yield live


def _ask(live, prompt=ODD, path="/route", **headers):
    body = {"prompt": prompt, "max_new_tokens": 2} if path == "/generate" else {"prompt": prompt}
    return requests.post(f"{live.url}{path}", json=body, headers=headers, timeout=30).headers["X-Request-Id"]


def _judge(live, request_id, verdict="bad", right_node=None, **headers):
    named = {} if right_node is None else {"right_node": right_node}
    return requests.post(f"{live.url}/feedback", json={"request_id": request_id, "verdict": verdict, **named}, headers=headers, timeout=30)


def _said(settings):
    with Journal(Path(settings.run.dir) / "journal.db", read_only=True) as journal:
        return [event.facts for event in journal.events(kind="feedback")]


@pytest.mark.parametrize("path", ["/generate", "/route"])
def test_feedback_bad_with_the_right_node_is_in_the_journal_when_it_returns(live, run, path):
    asked = _ask(live, path=path)
    assert _judge(live, asked, right_node="code").json() == {"taken": True}
    facts = _said(run)[-1]
    assert (facts["request"], facts["verdict"], facts["right_node"], facts["prompt"]) == (asked, "bad", "code", ODD)
    assert facts["client"] == client_name(None, "127.0.0.1", keyed=False)


def test_feedback_of_openais_endpoint_is_taken(live, run):
    body = {"model": "auto", "messages": [{"role": "user", "content": ODD}], "max_tokens": 2}
    reply = requests.post(f"{live.url}/v1/chat/completions", json=body, timeout=30)
    assert _judge(live, reply.headers["X-Request-Id"], right_node="math").status_code == 200
    assert _said(run)[-1]["right_node"] == "math"


def test_feedback_next_fit_uses_the_correction(live, run):
    _judge(live, _ask(live), right_node="code")
    rows = feedback_rows(_said(run), tree=TREE, settings=run.router)
    assert rows[-1] == Row(ODD, "code", "feedback", 1.0)
    before, after = (fit([*prompt_rows(TREE), *more], tree=TREE, settings=run.router, seed=0).router for more in ([], rows))
    assert _share(after, "code") > 1.5 * _share(before, "code")
    assert [route.ranked[0].node for route in before.route_batch(_plain())] == [route.ranked[0].node for route in after.route_batch(_plain())]


def _plain():
    return [row.prompt for row in prompt_rows(TREE, each=12) if row.label != "ood"]


def _share(router, node):
    return next(ranked.probability for ranked in router.route(ODD).ranked if ranked.node == node)


def test_feedback_of_a_client_beyond_its_cap_changes_nothing_in_the_fit(live, tmp_path):
    capped = _settings(tmp_path, feedback_a_client=3)
    for number in range(40):
        _judge(live, _ask(live, prompt=f"what is {number} + {number + 1}"), right_node="code")
    rows = feedback_rows(_said(live.gateway.settings), tree=TREE, settings=capped.router)
    assert [row.prompt for row in rows] == ["what is 37 + 38", "what is 38 + 39", "what is 39 + 40"]
    router = fit([*prompt_rows(TREE), *rows], tree=TREE, settings=capped.router, seed=0).router
    assert router.route("what is 11 + 12").ranked[0].node == "math"


def test_route_names_every_nodes_probability_the_runner_up_and_the_words_that_tipped_it(live):
    body = requests.post(f"{live.url}/route", json={"prompt": "What is 3 + 4?"}, timeout=30).json()
    shares = body["probabilities"]
    assert set(shares) == {*TREE.nodes, "ood"}
    assert shares["analytical"] == pytest.approx(shares["math"] + shares["reasoning"])
    leaves = sorted((shares[name], name) for name in (*TREE.domains, "ood"))
    assert [body["decided_for"], body["against"]] == [leaves[-1][1], leaves[-2][1]]
    assert body["words"][0]["weight"] == max((word["weight"] for word in body["words"]), key=abs)


def test_route_says_which_words_it_read_as_others(live):
    body = requests.post(f"{live.url}/route", json={"prompt": "Waht is 3 + 4?"}, timeout=30).json()
    right = requests.post(f"{live.url}/route", json={"prompt": "What is 3 + 4?"}, timeout=30).json()
    assert (body["read_as"], right["read_as"]) == ({"waht": "what"}, {})
    assert body["probabilities"] == right["probabilities"]


def test_route_by_name_explains_nothing(live):
    body = requests.post(f"{live.url}/route", json={"prompt": "What is 3 + 4?", "node": "math"}, timeout=30).json()
    assert (body["words"], body["probabilities"], body["decided_for"]) == ([], {}, None)


def test_feedback_twice_on_one_request_is_refused(live):
    asked = _ask(live)
    assert _judge(live, asked, right_node="math").status_code == 200
    again = _judge(live, asked, right_node="code")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "request_not_found")


def test_feedback_on_a_request_asked_for_by_name_is_refused(live):
    reply = requests.post(f"{live.url}/route", json={"prompt": ODD, "node": "math"}, timeout=30)
    assert _judge(live, reply.headers["X-Request-Id"]).json()["error"]["code"] == "request_not_found"


def test_feedback_with_an_unknown_node_is_refused_and_the_request_can_still_be_judged(live):
    asked = _ask(live)
    refused = _judge(live, asked, right_node="law").json()["error"]
    assert (refused["code"], refused["param"]) == ("model_not_found", "right_node")
    assert _judge(live, asked, right_node="math").status_code == 200


def test_feedback_good_with_another_node_is_refused(live):
    assert "right_node goes with verdict bad" in _judge(live, _ask(live), verdict="good", right_node="math").json()["error"]["message"]


def test_feedback_of_another_client_is_refused(run):
    keys = ("first-client-key-0", "second-client-key-0")
    mine, other = ({"Authorization": f"Bearer {key}"} for key in keys)
    with _live(run, keys=keys) as live:
        asked = _ask(live, **mine)
        assert _judge(live, asked, right_node="math", **other).json()["error"]["code"] == "request_not_found"
        assert _judge(live, asked, right_node="math", **mine).status_code == 200


def test_client_name_without_checked_keys_is_the_address_whatever_key_is_sent():
    assert client_name("Bearer one", "10.0.0.1", keyed=False) == client_name("Bearer two", "10.0.0.1", keyed=False)
    assert client_name("Bearer one", "10.0.0.1", keyed=True) != client_name("Bearer two", "10.0.0.1", keyed=True)


def test_feedback_off_by_default_writes_nothing(run, tmp_path):
    assert configuration.ServeSettings().feedback is False
    before = len(_said(run))
    with _live(_settings(run.run.dir, feedback=False)) as live:
        refused = _judge(live, _ask(live), right_node="math")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "feedback_off")
    assert len(_said(run)) == before


def test_damaged_router_is_said_while_nodes_and_the_router_before_go_on(tmp_path):
    settings = _settings(tmp_path)
    registry = make_run(settings, nodes=("generalist", "math"))
    with _live(settings) as live:
        version = registry.add("router", _not_a_router, card={})
        registry.promote({"router": version}, reason="a router that can't be used")
        reloaded = requests.post(f"{live.url}/admin/reload", timeout=30).json()
        ready = requests.get(f"{live.url}/readyz", timeout=30).json()
        assert reloaded["changed"]
        assert (ready["generation"], ready["router"], ready["ready"]) == (2, "v000001", True)
        assert "router v000002 can't be used, router v000001 goes on; the nodes of generation 2 are served: DamagedRouter" in ready["last_failure"]
        assert requests.post(f"{live.url}/route", json={"prompt": "What is 3 + 4?"}, timeout=30).json()["node"] == "math"


def _not_a_router(folder):
    (folder / "router.json").write_text("{}", encoding="utf-8")


def test_damaged_first_router_lets_the_root_answer_and_says_so(tmp_path):
    settings = _settings(tmp_path)
    registry = make_run(settings, nodes=("generalist",), with_router=False)
    registry.promote({"router": registry.add("router", _not_a_router, card={})}, reason="a router that can't be used")
    with _live(settings) as live:
        ready = requests.get(f"{live.url}/readyz", timeout=30).json()
    assert (ready["ready"], ready["router"]) == (True, None)
    assert "router v000001 can't be used, so generalist answers" in ready["last_failure"]
