"""OpenAI's own client against our endpoints."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
import pytest
import requests

import settings as configuration
from benchmarks import load_client
from benchmarks.live_gateway import live_gateway
from benchmarks.random_run import make_run

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "intermediate": 64, "context_tokens": 256},
       "train": {"row_tokens": 64}}
ASK = {"model": "auto", "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 20, "temperature": 1.0, "seed": 5}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    settings = configuration.check({**TOY, "run": {"dir": str(tmp_path_factory.mktemp("run"))}, "serve": {"loop_repeats": None, "slots": 4, "queue": 4}})
    make_run(settings, nodes=("generalist", "math"), with_router=False)
    with live_gateway(settings) as live:
        yield live


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none-needed-here", max_retries=0) as client:
        yield client


def _generate(live, **body):
    asked = {"prompt": "What is 3 + 4?", "max_new_tokens": 20, "temperature": 1.0, "seed": 5, **body}
    return requests.post(f"{live.url}/generate", json=asked, timeout=30).json()


def test_chat_completion_says_the_same_as_generate(live, client):
    answer = client.chat.completions.create(**ASK)
    ours = _generate(live)
    assert answer.choices[0].message.content == ours["text"]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == ours["finish_reason"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (ours["usage"]["prompt_tokens"], ours["usage"]["completion_tokens"])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (answer.model, answer.system_fingerprint) == ("generalist", "generalist-v000001")


def test_chat_completion_streamed_with_usage_ends_with_the_counts(client):
    whole = client.chat.completions.create(**ASK)
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.usage for chunk in chunks[:-1]} == {None}


def test_chat_completion_named_node_answers(client):
    assert client.chat.completions.create(**{**ASK, "model": "math"}).model == "math"


def test_chat_completion_system_message_and_text_parts_are_read(live, client):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "3 + 4?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    ours = _generate(live, prompt=None, messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 3 + 4?"}])
    assert client.chat.completions.create(**{**ASK, "messages": messages}).choices[0].message.content == ours["text"]


@pytest.mark.parametrize("empty", ["", [], [{"type": "text", "text": ""}]])
def test_chat_completion_empty_answer_in_the_history_is_read_and_empty_system_turns_are_dropped(live, client, empty):
    talk = [{"role": "user", "content": "Say nothing."}, {"role": "assistant", "content": ""}, {"role": "user", "content": "What is 3 + 4?"}]
    messages = [{"role": "system", "content": empty}, talk[0], {"role": "assistant", "content": empty}, {"role": "developer", "content": " "}, talk[2]]
    answer = client.chat.completions.create(**{**ASK, "messages": messages})
    ours = _generate(live, prompt=None, messages=talk)
    assert (answer.choices[0].message.content, answer.usage.prompt_tokens) == (ours["text"], ours["usage"]["prompt_tokens"])
    also = _generate(live, prompt=None, messages=[{"role": "system", "content": ""}, *talk])
    assert (also["text"], also["usage"]) == (ours["text"], ours["usage"])
    assert ours["usage"]["prompt_tokens"] > _generate(live)["usage"]["prompt_tokens"]


def test_chat_completion_stop_ends_before_it(client):
    text = client.chat.completions.create(**ASK).choices[0].message.content
    answer = client.chat.completions.create(**ASK, stop=text[6:8])
    assert answer.choices[0].message.content == text[:text.index(text[6:8])]
    assert answer.choices[0].finish_reason == "stop"


def test_chat_completion_greedy_logprobs_name_the_best_token_first(client):
    answer = client.chat.completions.create(**{**ASK, "temperature": 0}, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(one.top_logprobs) == 3 and one.logprob == one.top_logprobs[0].logprob < 0 for one in content)


def test_chat_completion_without_logprobs_has_none(client):
    assert client.chat.completions.create(**ASK).choices[0].logprobs is None


def test_completion_says_the_same_as_generate(live, client):
    answer = client.completions.create(model="auto", prompt="What is 3 + 4?", max_tokens=20, temperature=1.0, seed=5, logprobs=2)
    assert answer.choices[0].text == _generate(live)["text"]
    assert "".join(answer.choices[0].logprobs.tokens).startswith(answer.choices[0].text[:5])
    assert answer.choices[0].logprobs.text_offset[0] == 0


def test_completion_streamed_gives_the_same_text(live, client):
    chunks = list(client.completions.create(model="auto", prompt="What is 3 + 4?", max_tokens=20, temperature=1.0, seed=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == _generate(live)["text"]
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}


def test_models_lists_auto_and_every_node(client):
    names = [model.id for model in client.models.list()]
    assert names == ["auto", "generalist", "analytical", "language", "technical", "math", "reasoning", "conversation", "knowledge", "code"]
    assert client.models.retrieve("math").id == "math"


def test_unknown_model_is_the_clients_not_found(client):
    with pytest.raises(openai.NotFoundError, match="no node named 'gpt-4'") as error:
        client.chat.completions.create(**{**ASK, "model": "gpt-4"})
    assert (error.value.code, error.value.param, error.value.type) == ("model_not_found", "model", "not_found_error")


@pytest.mark.parametrize(("change", "words"), [
    ({"n": 2}, "n: Input should be less than or equal to 1"),
    ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    ({"messages": []}, "messages: List should have at least 1 item"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message must be from 'user'"),
    ({"messages": [{"role": "user", "content": ""}]}, "the last message must be from 'user' and have some text"),
    ({"messages": [{"role": "user", "content": []}]}, "the last message must be from 'user' and have some text"),
    ({"messages": [{"role": "system", "content": ""}]}, "the last message must be from 'user' and have some text"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}, "the last message must be from 'user'"),
    ({"top_logprobs": 3}, "top_logprobs needs logprobs = true"),
    ({"presence_penalty": 1}, "presence_penalty: Input should be less than or equal to 0"),
    ({"max_tokens": 999_999}, "more than serve.max_new_tokens"),
])
def test_bad_request_is_the_clients_bad_request(client, change, words):
    with pytest.raises(openai.BadRequestError, match=words.replace("(", r"\(")):
        client.chat.completions.create(**{**ASK, **change})


def test_load_client_reads_the_counts_of_streamed_chat_completions(live, client):
    """The benchmarks' client, as it reads other servers: it must count what OpenAI's client counts."""
    body = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    seen = load_client.send(live.url, [[body], [body]], path="/v1/chat/completions").requests
    wanted = client.chat.completions.create(**ASK).usage.completion_tokens
    assert [(sent.status, sent.ended, sent.tokens) for sent in seen] == [(200, "done", wanted)] * 2
    assert all(0 < sent.first_s <= sent.total_s for sent in seen)
    (refused,) = load_client.send(live.url, [[{**ASK, "model": "nobody"}]], path="/v1/chat/completions").requests
    assert (refused.status, refused.ended, refused.tokens) == (404, "model_not_found", 0)


def test_load_client_gives_streams_to_several_servers_in_turn(live):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:  # knows no POST: 501
        threading.Thread(target=other.serve_forever, daemon=True).start()
        urls = [live.url, f"http://127.0.0.1:{other.server_port}"]
        seen = load_client.send(urls, [[ASK]] * 5, path="/v1/chat/completions").requests
        other.shutdown()
    assert sorted(sent.status for sent in seen) == [200, 200, 200, 501, 501]
