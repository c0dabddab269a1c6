"""Under DirectML's rules a training step, evaluation, prefill, decode and sampling ask only for kernels that the card has.

The card is simulated (tests/support/simulated_card.py): this proves what is asked for, not that hardware answers.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch
from simulated_card import CARD, SimulatedCard, kernels, transformers_fits
from torch import nn

from experts import tokenizer as tokens
from experts.architectures import build
from experts.device import RULES, Device, cpu_device
from experts.device_rules import DeviceRules, PlainAdamW, attention_mask, clip_gradients, make_adamw, place_model, summed_cost
from experts.expert import Expert
from settings import ModelSettings, TokenizerSettings

pytestmark = transformers_fits
TINY = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=96)
MESSAGES: list[list[tokens.Message]] = [[{"role": "user", "content": "What is 2?" * n}] for n in (1, 3, 5)]


def card_device(rules: DeviceRules = RULES["directml"]) -> Device:
    return Device("directml", "simulated", 0, "test", CARD, rules)


ROUTED = TINY.model_copy(update={"architecture": "qwen3_moe", "experts": 4, "top_k": 2, "normalize_top_k": True})


def tiny_model(seed: int = 0, shape: ModelSettings = TINY) -> nn.Module:
    model = build(shape, vocab_size=262, end_id=1, pad_id=0, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model


def tiny_expert(device: Device, shape: ModelSettings = TINY) -> Expert:
    return Expert(tiny_model(shape=shape), tokens.train([], settings=TokenizerSettings(kind="byte")), device=device)


@contextmanager
def card() -> Iterator[SimulatedCard]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The operator .* will fall back", UserWarning)
        with SimulatedCard() as active:
            yield active


def training_steps(device: Device, *, steps: int = 2) -> list[float]:
    model = place_model(tiny_model(), to=device.torch, rules=device.rules).train()
    optimizer = make_adamw(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, rules=device.rules)
    ids = torch.randint(6, 262, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = attention_mask(torch.ones(16, 16, dtype=torch.bool).tril().expand(2, 1, -1, -1), rules=device.rules).to(device.torch)
    losses = []
    for _ in range(steps):
        logits = model(input_ids=ids[:, :-1].to(device.torch), attention_mask=mask, use_cache=False).logits
        loss = summed_cost(logits.flatten(0, 1), ids[:, 1:].flatten().to(device.torch), rules=device.rules)
        loss.backward()
        clip_gradients(model.parameters(), limit=1.0, rules=device.rules)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_training_step_under_the_rules_needs_no_other_kernel() -> None:
    with card() as active:
        losses = training_steps(card_device())
    assert (active.fallbacks, active.wrong_types) == ({}, {})
    assert {"_log_softmax_backward_data", "_softmax_backward_data", "sigmoid_backward", "embedding_dense_backward", "mm"} <= set(active.seen)
    assert losses == pytest.approx(training_steps(cpu_device()), rel=1e-4)


def test_greedy_answers_under_the_rules_need_no_other_kernel_and_equal_the_cpu() -> None:
    with card() as active:
        answers = tiny_expert(card_device()).generate(MESSAGES, max_new_tokens=12)
    assert (active.fallbacks, active.wrong_types) == ({}, {})
    assert answers == tiny_expert(cpu_device()).generate(MESSAGES, max_new_tokens=12)
    assert len({answer.token_ids for answer in answers}) == 3


def test_answers_and_costs_of_a_routed_model_under_the_rules_need_no_other_kernel_and_equal_the_cpu() -> None:
    pairs = [(messages, "It is 2.") for messages in MESSAGES]
    with card() as active:
        expert = tiny_expert(card_device(), ROUTED)
        answers, costs = expert.generate(MESSAGES, max_new_tokens=12), expert.log_likelihood(pairs)
    assert (active.fallbacks, active.wrong_types) == ({}, {})
    there = tiny_expert(cpu_device(), ROUTED)
    assert answers == there.generate(MESSAGES, max_new_tokens=12)
    assert [item.nats for item in costs] == pytest.approx([item.nats for item in there.log_likelihood(pairs)], rel=1e-4)


def test_answers_of_a_routed_model_without_its_rule_name_the_offenders() -> None:
    with card() as active, suppress(RuntimeError):  # some of what falls back there the CPU of this torch cannot do either
        tiny_expert(card_device(replace(RULES["directml"], routing_form="stock")), ROUTED).generate(MESSAGES[:1], max_new_tokens=2)
    assert {"histc", "index_add_"} & set(active.fallbacks)


def test_sampled_answers_under_the_rules_need_no_other_kernel_and_equal_the_cpu() -> None:
    with card() as active:
        answers = tiny_expert(card_device()).generate(MESSAGES, max_new_tokens=12, temperature=0.8, top_p=0.9, seed=3)
    assert (active.fallbacks, active.wrong_types) == ({}, {})
    assert answers == tiny_expert(cpu_device()).generate(MESSAGES, max_new_tokens=12, temperature=0.8, top_p=0.9, seed=3)


def test_evaluation_under_the_rules_needs_no_other_kernel_and_equals_the_cpu() -> None:
    pairs = [(messages, "It is 2.") for messages in MESSAGES]
    with card() as active:
        found = tiny_expert(card_device()).log_likelihood(pairs)
    assert (active.fallbacks, active.wrong_types) == ({}, {})
    assert [item.nats for item in found] == pytest.approx([item.nats for item in tiny_expert(cpu_device()).log_likelihood(pairs)], rel=1e-5)


def test_training_step_without_the_rules_names_the_offenders() -> None:
    plain = DeviceRules(optimizer_form="single")
    with card() as active:
        training_steps(card_device(plain))
    assert "silu_backward" in active.fallbacks


def test_adamw_of_torch_names_lerp_as_an_offender_and_ours_has_none() -> None:
    def step(make: type[torch.optim.Optimizer], **form: bool) -> SimulatedCard:
        with card() as active:
            weight = nn.Parameter(torch.ones(4, 4).to(CARD))
            weight.grad = torch.ones(4, 4).to(CARD)
            make([weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.1, **form).step()  # type: ignore[call-arg]
        return active
    assert [name for name in step(torch.optim.AdamW, foreach=False).fallbacks if name.startswith("lerp")]
    assert not step(PlainAdamW).fallbacks


def test_moving_a_model_alone_parts_tied_weights_on_such_a_card_and_placing_keeps_them() -> None:
    with card():
        moved, placed = tiny_model().to(CARD), place_model(tiny_model(), to=CARD, rules=RULES["directml"])
    assert moved.get_output_embeddings().weight is not moved.get_input_embeddings().weight
    assert placed.get_output_embeddings().weight is placed.get_input_embeddings().weight


def test_card_holds_no_bfloat16() -> None:
    with card() as active:
        torch.ones(2).to(CARD).to(torch.bfloat16)
    assert active.wrong_types == {"torch.bfloat16": 1}


def test_card_refuses_to_mix_with_tensors_of_the_cpu() -> None:
    with card(), pytest.raises(RuntimeError, match=r"add\.Tensor got one on the card and one on the CPU"):
        torch.ones(2).to(CARD) + torch.ones(2)


def test_kernel_list_has_the_operations_that_the_wheel_registers_and_lacks_those_that_it_does_not() -> None:
    assert {"mm", "add.Tensor", "_softmax", "_log_softmax_backward_data", "embedding", "topk"} <= kernels()
    assert not {"silu_backward", "lerp.Scalar", "_foreach_add_.List", "scaled_dot_product_attention"} & kernels()
