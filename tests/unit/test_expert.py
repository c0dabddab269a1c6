"""Expert: answers against transformers' own generate, sums against a loop by hand, folders that stock transformers reads."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from experts import tokenizer as tokens
from experts.architectures import build
from experts.decoding import sample
from experts.device import RULES, choose, cpu_device
from experts.expert import Answer, Expert
from settings import ModelSettings, TokenizerSettings

TINY = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64)
Conversation = list[tokens.Message]


@pytest.fixture(scope="module")
def expert() -> Expert:
    tokenizer = tokens.train([f"what is {n}? it is {n * 8}" for n in range(50)], settings=TokenizerSettings(vocab_size=300))
    model = build(TINY, vocab_size=len(tokenizer), end_id=tokens.end_id(tokenizer), pad_id=tokens.pad_id(tokenizer), seed=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)  # an untrained model says one token for ever; a louder one varies
        model.get_input_embeddings().weight[tokens.end_id(tokenizer)] *= 2.5
    return Expert(model, tokenizer, device=choose("cpu"))


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return [[{"role": "user", "content": f"what is {n} " * (n % 4)}] for n in range(24)]


def reference(expert: Expert, conversation: Conversation, *, max_new_tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([tokens.prompt_ids(expert.tokenizer, conversation)])
    made = expert.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False)
    end = tokens.end_id(expert.tokenizer)
    return tuple(token for token in made[0, ids.shape[1]:].tolist() if token != end)


@pytest.mark.parametrize("batch_rows", [1, 3, 8, 24])
def test_generate_greedy_equals_transformers_one_by_one(expert: Expert, conversations: list[Conversation], batch_rows: int) -> None:
    answers = expert.generate(conversations, max_new_tokens=16, batch_rows=batch_rows)
    assert [answer.token_ids for answer in answers] == [reference(expert, conversation, max_new_tokens=16) for conversation in conversations]
    assert len({answer.text for answer in answers}) > 6
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}


def test_generate_greedy_is_the_same_in_any_batch(expert: Expert, conversations: list[Conversation]) -> None:
    together, alone = (expert.generate(conversations, max_new_tokens=16, batch_rows=rows) for rows in (24, 1))
    assert together == alone


def test_generate_sampled_is_the_same_in_any_batch_and_differs_by_seed(expert: Expert, conversations: list[Conversation]) -> None:
    def answers(rows: int, seed: int) -> list[Answer]:
        return expert.generate(conversations, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seed, batch_rows=rows)
    assert answers(24, 5) == answers(5, 5) != answers(24, 6)


def test_generate_finish_reasons_fit_the_tokens(expert: Expert, conversations: list[Conversation]) -> None:
    for answer in expert.generate(conversations, max_new_tokens=9):
        assert (len(answer.token_ids) == 9) == (answer.finish_reason == "length")
        assert tokens.end_id(expert.tokenizer) not in answer.token_ids
        assert answer.text == tokens.decode(expert.tokenizer, answer.token_ids)


def test_generate_nothing_gives_nothing(expert: Expert) -> None:
    assert expert.generate([], max_new_tokens=4) == []


def test_generate_prompt_longer_than_the_context_is_cut_behind_its_role_mark(expert: Expert) -> None:
    long: Conversation = [{"role": "user", "content": "0123456789" * 20}]
    answer = expert.generate([long], max_new_tokens=10)[0]
    ids = tokens.prompt_ids(expert.tokenizer, long)
    assert answer.prompt_tokens == 54  # 64 - 10
    cut = torch.tensor([ids[:1] + ids[-53:]])
    made = expert.model.generate(cut, attention_mask=torch.ones_like(cut), max_new_tokens=10, do_sample=False)[0, 54:].tolist()
    assert list(answer.token_ids) == [token for token in made if token != tokens.end_id(expert.tokenizer)]


def test_generate_more_tokens_than_the_context_keeps_half_of_it_for_the_prompt(expert: Expert) -> None:
    answers = expert.generate([[{"role": "user", "content": "0123456789" * 20}], [{"role": "user", "content": "7"}]], max_new_tokens=500)
    assert answers[0].prompt_tokens == 32
    assert all(answer.prompt_tokens + len(answer.token_ids) <= 64 for answer in answers)


def cost_by_hand(expert: Expert, messages: Sequence[tokens.Message], response: str) -> float:
    ids, nats = tokens.prompt_ids(expert.tokenizer, messages), 0.0
    for token in tokens.answer_ids(expert.tokenizer, response):
        with torch.no_grad():
            logits = expert.model(torch.tensor([ids])).logits[0, -1].double()
        nats -= float(logits[token] - logits.exp().sum().log())
        ids.append(token)
    return nats


def test_log_likelihood_equals_a_loop_by_hand(expert: Expert, conversations: list[Conversation]) -> None:
    pairs = [(conversation, "it is 8\u00e9" * (n % 3)) for n, conversation in enumerate(conversations[:7])]
    for (messages, response), found in zip(pairs, expert.log_likelihood(pairs, batch_rows=3), strict=True):
        assert found.nats == pytest.approx(cost_by_hand(expert, messages, response), rel=1e-5)
        assert found.tokens == len(tokens.answer_ids(expert.tokenizer, response))
        assert found.bytes == len(response.encode())


def test_log_likelihood_of_a_text_longer_than_the_context_counts_every_token_once(expert: Expert) -> None:
    messages: Conversation = [{"role": "user", "content": "1234567890"}]
    response = "9876543210" * 9
    found = expert.log_likelihood([(messages, response)])[0]
    ids, answer = tokens.prompt_ids(expert.tokenizer, messages), tokens.answer_ids(expert.tokenizer, response)
    whole, nats = ids + answer, 0.0
    for place in range(len(ids), len(whole)):
        start = 0 if place < 64 else (place - 64) // 32 * 32 + 32  # windows of 64 begin every 32 tokens
        with torch.no_grad():
            nats -= float(expert.model(torch.tensor([whole[start:place]])).logits[0, -1].log_softmax(-1)[whole[place]])
    assert (found.tokens, found.bytes) == (91, 90)
    assert found.nats == pytest.approx(nats, rel=1e-5)


def test_log_likelihood_of_a_certain_model_is_zero_and_of_a_uniform_one_the_log_of_the_vocabulary(expert: Expert) -> None:
    uniform = build(TINY, vocab_size=len(expert.tokenizer), end_id=1, pad_id=0, seed=0)
    with torch.no_grad():
        uniform.get_input_embeddings().weight.zero_()
    found = Expert(uniform, expert.tokenizer, device=choose("cpu")).log_likelihood([([{"role": "user", "content": "a"}], "123")])[0]
    assert found.nats == pytest.approx(4 * math.log(len(expert.tokenizer)), rel=1e-6)


def test_save_then_load_answers_the_same(expert: Expert, conversations: list[Conversation], tmp_path: Path) -> None:
    expert.save(tmp_path)
    loaded = Expert.load(tmp_path, device=choose("cpu"))
    assert loaded.generate(conversations, max_new_tokens=8) == expert.generate(conversations, max_new_tokens=8)
    assert {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        path.name for path in tmp_path.iterdir()}


def test_save_folder_is_a_stock_model_for_transformers(expert: Expert, conversations: list[Conversation], tmp_path: Path) -> None:
    expert.save(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(stock).__name__ == "Qwen3ForCausalLM"
    ids = torch.tensor([tokens.prompt_ids(expert.tokenizer, conversations[1])])
    assert torch.equal(stock(ids).logits, expert.model(ids).logits)


def test_load_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*; give a folder that holds a saved version"):
        Expert.load(tmp_path, device=choose("cpu"))


def test_sample_draws_walk_through_the_probabilities_from_the_most_likely_on() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(6, 3)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 0.999])
    assert sample(logits, temperature=1.0, top_p=1.0, draws=draws).tolist() == [1, 1, 2, 2, 0, 0]


def test_sample_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(3, 3)
    assert sample(logits, temperature=1.0, top_p=0.6, draws=torch.tensor([0.62, 0.63, 0.999])).tolist() == [1, 2, 2]  # 0.5 / 0.8 = 0.625
    assert sample(logits, temperature=1.0, top_p=1e-9, draws=torch.tensor([0.0, 0.5, 0.999])).tolist() == [1, 1, 1]


def test_sample_low_temperature_sharpens() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(2, 3)
    # squared and normed: 0.04, 0.25, 0.09 over 0.38
    assert sample(logits, temperature=0.5, top_p=1.0, draws=torch.tensor([0.65, 0.67])).tolist() == [1, 2]


def test_generate_and_log_likelihood_wait_for_their_turn_on_a_device_that_lets_one_thread_in(expert: Expert) -> None:
    device = replace(cpu_device(), kind="directml", index=9, rules=RULES["directml"])
    waiting = Expert(expert.model, expert.tokenizer, device=device)
    talk: Conversation = [{"role": "user", "content": "what is 3"}]
    for work in (lambda: waiting.generate([talk], max_new_tokens=2), lambda: waiting.log_likelihood([(talk, "24")])):
        with ThreadPoolExecutor(1) as pool:
            with device.turn():
                found = pool.submit(work)
                with pytest.raises(TimeoutError):
                    found.result(timeout=0.5)
            assert len(found.result(timeout=60)) == 1
