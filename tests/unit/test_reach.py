"""Models that don't look back at everything: which they are, their answers against generate, their packed loss against single documents."""

import pytest
import torch
import transformers
from toy_corpus import VOCABULARY, counting_corpus, toy_training
from transformers import AutoModelForCausalLM

from experts import tokenizer as tokens
from experts.architectures import build
from experts.device import cpu_device
from experts.expert import Expert
from experts.hybrid import FastMixer
from experts.reach import sees_everything
from settings import ModelSettings, Settings, TokenizerSettings, TrainSettings
from training.batches import Batches
from training.packed_loss import PackedLoss, right_attentions
from training.plan import Mix
from training.starting import starting_model

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96}
HYBRID = ModelSettings(architecture="bamba", layers=3, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=96, attention_layers=(1,), ssm_heads=4,
                       ssm_state=8, ssm_chunk=8)


def windowed(*, vocabulary, window=6):
    torch.manual_seed(2)
    config = transformers.MistralConfig(**SHAPE, vocab_size=vocabulary, sliding_window=window, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
                                        pad_token_id=0)
    return transformers.MistralForCausalLM(config).eval()


def model_of(kind, *, vocabulary):
    model = windowed(vocabulary=vocabulary) if kind == "windowed" else build(HYBRID, vocab_size=vocabulary, end_id=1, pad_id=0, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_((12 if kind == "windowed" else 4) if parameter.dim() == 2 else 1)  # an untrained model says one token for ever; a louder one varies
    return model


def test_models_of_full_attention_see_everything_and_others_do_not():
    dense = ModelSettings(layers=1, width=16, heads=2, kv_heads=1, intermediate=32, context_tokens=64)
    routed = dense.model_copy(update={"architecture": "qwen3_moe", "experts": 2})
    assert all(sees_everything(build(shape, vocab_size=40, end_id=0, pad_id=1, seed=0)) for shape in (dense, routed))
    assert sees_everything(transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)))
    assert sees_everything(windowed(vocabulary=40, window=96))  # no text is longer than that window
    assert not sees_everything(windowed(vocabulary=40))
    assert not sees_everything(build(HYBRID, vocab_size=40, end_id=0, pad_id=1, seed=0))


@pytest.mark.parametrize("kind", ["windowed", "hybrid"])
@pytest.mark.parametrize("batch_rows", [1, 4])
def test_greedy_answers_equal_generate(kind, batch_rows):
    tokenizer = tokens.train([], settings=TokenizerSettings(kind="byte"))
    expert = Expert(model_of(kind, vocabulary=len(tokenizer)), tokenizer, device=cpu_device())
    conversations = [[{"role": "user", "content": f"what is {n} " * (n % 3)}] for n in range(8)]
    answers = expert.generate(conversations, max_new_tokens=14, batch_rows=batch_rows)
    for conversation, answer in zip(conversations, answers, strict=True):
        ids = torch.tensor([tokens.prompt_ids(tokenizer, conversation)])
        made = expert.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=14, do_sample=False, eos_token_id=1, pad_token_id=0)
        assert list(answer.token_ids) == [token for token in made[0, ids.shape[1]:].tolist() if token != 1]
        assert answer.finish_reason == ("stop" if made[0, -1] == 1 else "length")
    assert len({answer.token_ids for answer in answers}) > 2


def test_sampled_answers_of_a_hybrid_are_the_same_in_any_batch():
    tokenizer = tokens.train([], settings=TokenizerSettings(kind="byte"))
    expert = Expert(model_of("hybrid", vocabulary=len(tokenizer)), tokenizer, device=cpu_device())
    conversations = [[{"role": "user", "content": "x" * (n % 3)}] for n in range(7)]
    together, alone = (expert.generate(conversations, max_new_tokens=9, temperature=1.0, seed=3, batch_rows=rows) for rows in (7, 1))
    assert together == alone
    assert len({answer.token_ids for answer in together}) == 7


def test_packed_loss_of_a_windowed_model_equals_single_documents_in_the_only_way_that_is_right():
    model, device, toy = windowed(vocabulary=VOCABULARY), cpu_device(), toy_training()
    assert right_attentions(model, device=device) == ["alone"]
    batch = Batches(counting_corpus(), mix=Mix({"up": 1.0}), row_tokens=toy.row_tokens, batch_rows=2, seed=0).next()
    wanted = 0.0
    for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True):
        ids = batch.tokens_BT.flatten()[start:start + length]
        costs = -model(ids[None]).logits[0].log_softmax(-1).detach()
        mine = (batch.places_N >= start) & (batch.places_N < start + length)
        wanted += float(costs[batch.places_N[mine] - start].gather(1, batch.targets_N[mine][:, None]).sum())
    assert max(batch.lengths) > 12  # longer than the window and than what a try of two short documents would see
    assert float(PackedLoss(model, device=device, bf16=False, attention="alone")(batch).detach()) == pytest.approx(wanted, rel=1e-4)


def test_hybrid_that_a_job_begins_with_has_the_fast_layers_a_new_one_has(tmp_path):
    tokenizer = tokens.train([], settings=TokenizerSettings(kind="byte"))
    model = build(HYBRID, vocab_size=len(tokenizer), end_id=1, pad_id=0, seed=0)
    model.save_pretrained(tmp_path)
    tokens.save(tokenizer, tmp_path)
    chosen = Settings(model=HYBRID, train=TrainSettings(row_tokens=96))
    loaded = starting_model(chosen, folder=tmp_path, tokenizer=tokenizer, device=cpu_device(), note=lambda text: None)
    assert [type(module) for module in loaded.modules() if isinstance(module, FastMixer)] == [FastMixer, FastMixer]
    ids = torch.arange(30)[None]
    torch.testing.assert_close(loaded(ids).logits, AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, rtol=1e-4, atol=1e-4)
