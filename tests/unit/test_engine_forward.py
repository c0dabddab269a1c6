"""One pass over slots equals transformers' forward over the whole text."""

import pytest
import torch
from transformers import BambaConfig, BambaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from experts import architectures
from experts.device import cpu_device
from serving.engines.forward import make_forward
from serving.engines.hub_forward import CacheForward, HubForward
from serving.engines.lean_qwen3 import JoinedQwen3, LeanQwen3
from serving.engines.passes import Rows
from settings import ModelSettings

CPU = cpu_device()


@pytest.fixture(scope="module")
def qwen3():
    return architectures.build(ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64),
                               vocab_size=300, end_id=1, pad_id=0, seed=0)


@pytest.fixture(scope="module")
def family(qwen3):
    """Three models of one shape, norms and all different."""
    models = [qwen3, *(architectures.build(ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64),
                                           vocab_size=300, end_id=1, pad_id=0, seed=seed) for seed in (1, 2))]
    with torch.no_grad():
        for number, model in enumerate(models[1:]):
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.linspace(-0.3, 0.3 + number, parameter.numel()))
    return models


@pytest.fixture(scope="module")
def bamba():
    torch.manual_seed(0)
    return BambaForCausalLM(BambaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, attn_layer_indices=[1], num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=16, max_position_embeddings=64)).eval()


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


@torch.no_grad()
def test_joined_forwards_each_row_is_answered_by_its_own_model(family):
    """Prompts read together, then steps together, rows of three models in a mixed order."""
    forwards, owners, texts = [LeanQwen3(model, device=CPU) for model in family], [1, 0, 2, 1, 0], _texts(5, 17, 9, 3, 8)
    joined = forwards[1].joined([forwards[owner] for owner in owners])
    assert isinstance(joined, JoinedQwen3)
    slots = joined.new_slots(6)
    logits_BV = _prefill(joined, slots, texts)
    for _ in range(4):
        for row, (owner, text) in enumerate(zip(owners, texts, strict=True)):
            torch.testing.assert_close(logits_BV[row], _reference(family[owner], text), atol=2e-5, rtol=1e-4)
            text.append(int(logits_BV[row].argmax()))
        logits_BV = joined.logits(Rows(0, [[text[-1]] for text in texts], [len(text) - 1 for text in texts], [0] * 5), slots)


def test_joined_forward_of_one_model_is_that_model(qwen3):
    forward = LeanQwen3(qwen3, device=CPU)
    assert forward.joined([forward] * 3) is forward


def test_shape_of_forwards_tells_models_that_cant_share_a_pass(family, qwen3):
    other = architectures.build(ModelSettings(layers=2, width=32, heads=2, kv_heads=2, intermediate=48, context_tokens=64),
                                vocab_size=300, end_id=1, pad_id=0, seed=0)
    shapes = {LeanQwen3(model, device=CPU).shape for model in family}
    assert len(shapes) == 1
    assert LeanQwen3(other, device=CPU).shape not in shapes


@torch.no_grad()
def test_cache_forward_of_a_hybrid_equals_the_whole_text(bamba):
    forward, texts = CacheForward(bamba, device=CPU), _texts(5, 17)
    slots = forward.new_slots(2).grown(3, [])
    logits = [forward.logits(Rows(place, [text], [0], [len(text) - 1]), slots)[0] for place, text in enumerate(texts)]
    for _ in range(4):
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], _reference(bamba, text), atol=2e-5, rtol=1e-4)
            text.append(int(logits[row].argmax()))
        logits = list(forward.logits(Rows(0, [[text[-1]] for text in texts], [len(text) - 1 for text in texts], [0] * 2), slots))
    slots.move(1, 0, len(texts[1]))
    texts[1].append(9)
    moved = forward.logits(Rows(0, [[9]], [len(texts[1]) - 1], [0]), slots)
    torch.testing.assert_close(moved[0], _reference(bamba, texts[1]), atol=2e-5, rtol=1e-4)
    slots.move(0, 0, len(texts[1]))  # the last row left
    assert slots.caches == [None, None, None]


@torch.no_grad()
def test_slots_grown_keep_their_rows(qwen3):
    forward, texts = LeanQwen3(qwen3, device=CPU), _texts(6, 11)
    slots = forward.new_slots(2)
    _prefill(forward, slots, texts)
    slots = slots.grown(5, [len(text) for text in texts])
    for text in texts:
        text.append(7)
    logits_BV = forward.logits(Rows(0, [[7], [7]], [6, 11], [0, 0]), slots)
    for row, text in enumerate(texts):
        torch.testing.assert_close(logits_BV[row], _reference(qwen3, text), atol=2e-5, rtol=1e-4)


def test_make_forward_with_a_cache_a_row_for_hybrids_and_sliding_windows(bamba):
    sliding = Qwen3ForCausalLM(Qwen3Config(vocab_size=50, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=16,
                                           num_key_value_heads=1, max_position_embeddings=64, use_sliding_window=True, sliding_window=8, max_window_layers=1))
    windowed = MistralForCausalLM(MistralConfig(vocab_size=50, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                                                num_key_value_heads=1, max_position_embeddings=64, sliding_window=8))
    assert [type(make_forward(model, device=CPU)) for model in (bamba, sliding, windowed)] == [CacheForward] * 3


def test_make_forward_lean_for_qwen3_and_transformers_own_for_others(qwen3, moe):
    assert [type(make_forward(model, device=CPU)) for model in (qwen3, moe)] == [LeanQwen3, HubForward]
