"""The OpenAPI document: complete, and held against the live gateway by schemathesis with right and wrong data."""

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, example, given, strategies
from hypothesis import settings as hypothesis_settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

import settings as configuration
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run
from serving.app import create_app
from serving.openapi import OPERATIONS, document
from serving.wiring import make_gateway

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "context_tokens": 128},
       "train": {"row_tokens": 64}}
NAMES = [f"{operation.method} {operation.path}" for operation in OPERATIONS]
CONVERSATIONS = ("/generate", "/v1/chat/completions")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    serve = {"slots": 8, "queue": 32, "default_new_tokens": 4, "max_new_tokens": 8, "poll_s": 3600.0}
    settings = configuration.check({**TOY, "run": {"dir": str(tmp_path_factory.mktemp("run"))}, "serve": serve})
    make_run(settings, nodes=("generalist", "math"), with_router=False)
    with live_gateway(settings) as live:
        yield live


@pytest.fixture(scope="module")
def schema(live):
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json")


def test_openapi_document_names_every_address_of_the_app(tmp_path):
    app = create_app(make_gateway(configuration.check({**TOY, "run": {"dir": str(tmp_path)}})))
    served = {(method.lower(), rule.rule.replace("<", "{").replace(">", "}")) for rule in app.url_map.iter_rules()
              for method in rule.methods - {"HEAD", "OPTIONS"}}
    assert served == {(operation.method, operation.path) for operation in OPERATIONS}


def test_openapi_document_is_3_1_and_every_reference_is_there():
    whole = document(version="1", nodes=("root",), max_new_tokens=8)
    assert whole["openapi"] == "3.1.0"
    references = {part.split('"')[0] for part in str(whole).replace("'", '"').split('"#/components/schemas/')[1:]}
    assert references <= set(whole["components"]["schemas"])
    assert {"GenerateBody", "GenerateReply", "ErrorReply", "ChatBody"} <= references


@pytest.mark.parametrize("operation", NAMES)
def test_fuzz_small(schema, live, operation):
    _run_fuzz(schema, live, operation, examples=24 if operation.split(" ")[1] in CONVERSATIONS else 12)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("operation", NAMES)
def test_fuzz_200_examples(schema, live, operation):
    _run_fuzz(schema, live, operation, examples=200)


def _ended_by_the_user(case):
    """Few conversations of any turns end with some text of the user, and an answer must be among what is tried."""
    if case.body.get("messages"):
        case.body["messages"] = [*case.body["messages"][-3:], {"role": "user", "content": "Hello"}]
    return case


def _run_fuzz(schema, live, operation, *, examples):
    method, path = operation.split(" ")
    strategy = schema[path][method.upper()].as_strategy()
    negative = schema[path][method.upper()].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    if path in CONVERSATIONS:
        strategy |= strategy.map(_ended_by_the_user)
    statuses = set()

    @hypothesis_settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(case=strategy | negative)
    def held(case):
        response = case.call(base_url=live.url, timeout=30)
        statuses.add(response.status_code)
        # Lengths in tokens are beyond a schema; and a body refused for its size isn't looked at further.
        excluded = [positive_data_acceptance, *([negative_data_rejection] if response.status_code == 413 else [])]
        case.validate_response(response, excluded_checks=excluded)
        assert response.status_code < 500 or (response.status_code == 503 and path == "/readyz")

    held()
    assert 200 in statuses or path in {"/admin/rollback", "/feedback"}  # nothing to take back after a while; feedback is off


ANY_TEXT = strategies.text(strategies.characters(exclude_categories=()), max_size=200)
LONG_TEXT = strategies.builds(lambda text, times: text * times, strategies.text(strategies.characters(exclude_categories=()), min_size=1, max_size=4),
                              strategies.integers(1, 350_000))


def _check_prompt(live, prompt):
    response = requests.post(f"{live.url}/generate", json={"prompt": prompt, "max_new_tokens": 2}, timeout=60)
    assert response.status_code in {200, 400, 413}
    assert response.status_code != 413 or len(response.request.body) > 256 * 1024
    if response.status_code == 200:
        assert response.json()["usage"]["completion_tokens"] <= 2
    else:
        assert response.json()["error"]["type"] == "invalid_request_error"  # too long, too short, blank, or lone surrogates


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(prompt=ANY_TEXT)
@example(prompt="\x00")
@example(prompt="\ud800 and \udfff\ud800")
@example(prompt="\U0001f600" * 20_000)
@example(prompt="x" * 2**20)
def test_generate_any_unicode_prompt_is_answered_or_refused_never_a_fault(live, prompt):
    _check_prompt(live, prompt)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@hypothesis_settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(prompt=ANY_TEXT | LONG_TEXT)
def test_generate_a_thousand_prompts_up_to_a_megabyte_never_a_fault(live, prompt):
    _check_prompt(live, prompt)


def test_metrics_count_what_was_answered(live):
    def value(name):
        lines = requests.get(f"{live.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    name = 'branchwise_tokens_total{kind="completion",node="generalist"}'
    before, answers = value(name), value("branchwise_answers_total")
    used = requests.post(f"{live.url}/generate", json={"prompt": "x", "max_new_tokens": 3, "ignore_end": True}, timeout=30).json()["usage"]["completion_tokens"]
    assert used == 3
    assert (value(name) - before, value("branchwise_answers_total") - answers) == (3, 1)
    assert value("branchwise_abstentions_total") >= 1
    assert value("branchwise_resident_memory_bytes") > 10**7
