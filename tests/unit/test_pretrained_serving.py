"""What was trained from a pretrained base answers: in exams, in the gateway's engine; llama.cpp gets only what it would read alike."""

import pytest
import torch
from small_bases import small_base
from transformers import AutoModelForCausalLM

from experts import tokenizer as tokens
from experts.device import choose, cpu_device
from experts.expert import Expert
from experts.gguf_export import ExportError, export
from experts.pretrained import base_tokenizer, load_base
from serving.engines.forward import make_forward
from serving.engines.passes import Rows
from settings import ModelSettings

TALK = [[{"role": "user", "content": "What is 12 plus 84?"}], [{"role": "user", "content": "Hi"}]]


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3"])
def version(request, tmp_path_factory):
    """A version's folder as a base of each kind gives it."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("version")
    small_base(base, request.param)
    tokenizer = base_tokenizer(str(base))
    Expert(load_base(ModelSettings(base=str(base), context_tokens=128), tokenizer=tokenizer, seed=0), tokenizer, device=choose("cpu")).save(folder)
    return folder


def test_expert_of_a_base_writes_what_transformers_generates(version):
    expert, stock = Expert.load(version, device=choose("cpu")), AutoModelForCausalLM.from_pretrained(version)
    answers = expert.generate(TALK, max_new_tokens=12)
    for messages, answer in zip(TALK, answers, strict=True):
        ids = torch.tensor([tokens.prompt_ids(expert.tokenizer, messages)])
        wanted = stock.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0, ids.size(1):].tolist()
        end = tokens.end_id(expert.tokenizer)
        assert list(answer.token_ids) == (wanted[:wanted.index(end)] if end in wanted else wanted)


@torch.no_grad()
def test_engine_forward_of_a_base_equals_the_whole_text(version):
    model = AutoModelForCausalLM.from_pretrained(version).eval()
    forward = make_forward(AutoModelForCausalLM.from_pretrained(version), device=cpu_device())
    texts = [[5, 9, 200, 31, 7], [8, 77]]
    slots = forward.new_slots(2)
    logits_BV = forward.logits(Rows(0, [texts[0], texts[1] + [0] * 3], [0, 0], [4, 1]), slots)
    for _ in range(3):
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits_BV[row], model(torch.tensor([text])).logits[0, -1], atol=2e-5, rtol=1e-4)
            text.append(int(logits_BV[row].argmax()))
        logits_BV = forward.logits(Rows(0, [[text[-1]] for text in texts], [len(text) - 1 for text in texts], [0, 0]), slots)


def test_version_of_a_base_is_not_exported_for_llama_cpp(version, tmp_path):
    with pytest.raises(ExportError, match=r"holds a '(gpt2|llama)' model|has the tokenizer of a pretrained model, which cuts texts another way"):
        export(version, tmp_path / "model.gguf", name="x")
    assert list(tmp_path.iterdir()) == []
