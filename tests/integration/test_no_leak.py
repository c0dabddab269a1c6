"""No token of a packed row learns anything from another document of the row, whatever way attention is computed."""

import pytest
import torch
from toy_corpus import VOCABULARY, MemoryCorpus, counting_documents, shard_of, toy_model
from transformers import BambaConfig, BambaForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from experts.device import choose
from training.batches import PADDING, Batches
from training.packed_loss import PackedLoss, right_attentions
from training.plan import Mix

ROW = 48
WAYS = ["documents", "mask", "alone"]


def packed(documents):
    corpus = MemoryCorpus({("only", "train"): shard_of(documents)})
    return Batches(corpus, mix=Mix({"only": 1.0}), row_tokens=ROW, batch_rows=2, seed=0).next()


def outputs(model, batch, attention):
    with torch.no_grad():
        return PackedLoss(model, device=choose("cpu"), bf16=False, attention=attention).outputs(batch)


@pytest.mark.parametrize("attention", WAYS)
def test_outputs_of_every_packed_document_equal_those_of_it_alone(attention):
    model, batch = toy_model(), packed(counting_documents(12, seed=1))
    found = outputs(model, batch, attention).view(2, ROW, -1)
    documents = 0
    for row in range(2):
        numbers = batch.documents_BT[row]
        for number in set(numbers.tolist()) - {PADDING}:
            place = numbers == number
            alone = model.model(input_ids=batch.tokens_BT[row][place][None]).last_hidden_state[0]
            torch.testing.assert_close(found[row][place], alone, rtol=1e-4, atol=1e-5)
            documents += 1
    assert documents >= 6


@pytest.mark.parametrize("attention", WAYS)
def test_outputs_do_not_move_when_every_other_document_of_the_row_changes(attention):
    model, batch = toy_model(), packed(counting_documents(12, seed=1))
    before = outputs(model, batch, attention).view(2, ROW, -1).clone()
    for row in range(2):
        for number in set(batch.documents_BT[row].tolist()):
            kept = batch.tokens_BT.clone()
            mine = batch.documents_BT[row] == number
            batch.tokens_BT[row][~mine] = (batch.tokens_BT[row][~mine] + 5) % VOCABULARY
            after = outputs(model, batch, attention).view(2, ROW, -1)
            torch.testing.assert_close(after[row][mine], before[row][mine], rtol=1e-6, atol=1e-6)
            assert not torch.allclose(after[row][~mine], before[row][~mine])
            batch.tokens_BT.copy_(kept)


@pytest.mark.parametrize("attention", WAYS)
def test_gradient_of_a_document_reaches_no_embedding_of_another(attention):
    # Two documents with no token in common: the loss of the first must not move the embeddings of the second.
    model = toy_model()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    batch = packed([([2, 3, 4, 5, 6, 7], 1), ([20, 21, 22, 23, 24], 5)])  # the second has no answer: its piece is left out
    batch_of_two = packed([([2, 3, 4, 5, 6, 7], 1), ([20, 21, 22, 23, 24], 1)])
    assert batch.documents_BT.max() == 0
    found = PackedLoss(model, device=choose("cpu"), bf16=False, attention=attention).outputs(batch_of_two).view(2, ROW, -1)
    first = batch_of_two.tokens_BT[0] < 10
    found[0][first & (batch_of_two.documents_BT[0] != PADDING)].square().sum().backward()
    moved = model.model.embed_tokens.weight.grad.abs().sum(-1) > 0
    assert moved.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("attention", WAYS)
def test_loss_of_each_way_equals_the_plain_loss_over_whole_logits(attention):
    model, batch = toy_model(), packed(counting_documents(12, seed=1))
    loss = PackedLoss(model, device=choose("cpu"), bf16=False, attention=attention)(batch)
    hidden = outputs(model, batch, "alone")
    plain = torch.nn.functional.cross_entropy(model.lm_head(hidden)[batch.places_N], batch.targets_N, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)


def gpt2(dropout):
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, attn_pdrop=dropout, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def llama():
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                                        num_key_value_heads=1, max_position_embeddings=64))


def test_right_attentions_of_models_with_attention_alone_are_all_ways():
    for model in (toy_model(), llama(), gpt2(0.0)):
        assert right_attentions(model, device=choose("cpu")) == WAYS


def test_right_attentions_with_attention_dropout_leave_out_the_way_that_has_none():
    assert right_attentions(gpt2(0.1), device=choose("cpu")) == ["mask", "alone"]


def test_right_attentions_of_a_state_space_hybrid_are_documents_alone():
    config = BambaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, attn_layer_indices=[1], num_attention_heads=2,
                         num_key_value_heads=1, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=16, pad_token_id=1)
    assert right_attentions(BambaForCausalLM(config), device=choose("cpu")) == ["alone"]
