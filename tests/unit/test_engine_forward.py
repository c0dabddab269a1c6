"""One pass over slots equals transformers' forward over the whole text."""

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from experts import architectures
from experts.device import cpu_device
from serving.engines.forward import HubForward, LeanQwen3, Rows, make_forward
from settings import ModelSettings

CPU = cpu_device()


@pytest.fixture(scope="module")
def qwen3():
    return architectures.build(ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64),
                               vocab_size=300, end_id=1, pad_id=0, seed=0)


@pytest.fixture(scope="module")
def moe():
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=48,
        moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, max_position_embeddings=64)).eval()


def _reference(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1]


def _texts(*lengths):
    return [torch.randint(2, 300, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in lengths]


@torch.no_grad()
def _prefill(forward, slots, texts, start=0):
    width = max(map(len, texts))
    return forward.logits(Rows(start, [text + [0] * (width - len(text)) for text in texts], [0] * len(texts), [len(text) - 1 for text in texts]), slots)


@pytest.mark.parametrize(("kind", "name"), [(LeanQwen3, "qwen3"), (HubForward, "qwen3"), (HubForward, "moe")])
@torch.no_grad()
def test_forward_prefill_and_steps_of_uneven_rows_equal_the_whole_text(kind, name, request):
    model = request.getfixturevalue(name)
    forward, texts = kind(model, device=CPU), _texts(5, 17, 9)
    slots = forward.new_slots(4)
    logits_BV = _prefill(forward, slots, texts)
    for _ in range(4):
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits_BV[row], _reference(model, text), atol=2e-5, rtol=1e-4)
            text.append(int(logits_BV[row].argmax()))
        logits_BV = forward.logits(Rows(0, [[text[-1]] for text in texts], [len(text) - 1 for text in texts], [0] * 3), slots)


@torch.no_grad()
def test_forward_prompt_in_chunks_equals_prompt_at_once(qwen3):
    forward, (text,) = LeanQwen3(qwen3, device=CPU), _texts(40)
    slots = forward.new_slots(3)
    for at in range(0, 40, 16):
        chunk = text[at:at + 16]
        logits_BV = forward.logits(Rows(2, [chunk], [at], [len(chunk) - 1]), slots)
    torch.testing.assert_close(logits_BV[0], _reference(qwen3, text), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_slots_row_moved_into_a_gap_goes_on_as_before(qwen3):
    forward, texts = LeanQwen3(qwen3, device=CPU), _texts(6, 11)
    slots = forward.new_slots(2)
    _prefill(forward, slots, texts)
    slots.move(1, 0, len(texts[1]))
    texts[1].append(7)
    logits_BV = forward.logits(Rows(0, [[7]], [11], [0]), slots)
    torch.testing.assert_close(logits_BV[0], _reference(qwen3, texts[1]), atol=2e-5, rtol=1e-4)


def test_make_forward_lean_for_qwen3_and_transformers_own_for_others(qwen3, moe):
    assert isinstance(make_forward(qwen3, device=CPU), LeanQwen3)
    assert isinstance(make_forward(moe, device=CPU), HubForward)
