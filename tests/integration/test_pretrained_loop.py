"""A family that starts from a pretrained folder: each kind through the loop, promoted versions are stock folders again."""

import pytest
import torch
from small_bases import small_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from experts import tokenizer as tokens
from experts.device import choose
from experts.expert import Expert
from training.loop import Loop
from training.progress import Reporter
from training.run_folder import RunMismatch, open_run

SHORT = ("train.optimizer=adamw", "train.lr=1e-2", "loop.steps=90", "tree.branches={technical=[\"code\"]}")


def turn(chosen, *, cycles=1):
    with open_run(chosen) as run:
        Loop(run, device=choose("cpu"), fit_router=None, reporter=Reporter(quiet=True), should_stop=lambda: False).run(cycles=cycles)
        return run.registry, run.journal.events()


@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")  # torch 2.4's own checkpoint
@pytest.mark.parametrize(("kind", "more"), [("gpt2", ()), ("llama", ("train.gradient_checkpointing=true",)), ("qwen3", ()),
                                            ("gpt2", ("train.lora_rank=4",)), ("qwen3", ("train.lora_rank=8",))])
def test_loop_from_a_base_promotes_stock_folders_with_equal_logits_and_its_template(toy_settings, tmp_path, kind, more):
    base = small_base(tmp_path / "base", kind)
    registry, events = turn(toy_settings(*SHORT, *more, f"model.base={base}"))
    assert {"generalist"} <= {event.node for event in events if event.kind == "promoted"}
    assert next(event.facts["steps"] for event in events if event.kind == "training_started") == 36  # 40 % of 90: a base has read enough
    folder = registry.served("generalist")
    stock, ours = AutoModelForCausalLM.from_pretrained(folder), Expert.load(folder, device=choose("cpu"))
    tokenizer, original = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(base)
    assert type(stock) is type(AutoModelForCausalLM.from_pretrained(base))
    assert not [name for name, _ in stock.named_parameters() if "lora" in name]
    assert tokenizer.chat_template == (original.chat_template or tokens.CHAT_TEMPLATE)
    messages = [{"role": "user", "content": "What is 3 plus 21?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, enable_thinking=False)["input_ids"]
    assert ids[0].tolist() == tokens.prompt_ids(ours.tokenizer, messages)
    with torch.no_grad():
        assert torch.allclose(stock(ids).logits, ours.model(ids).logits, atol=1e-5)
        before = AutoModelForCausalLM.from_pretrained(base)(ids[:, -4:] % original.vocab_size).logits
        assert not torch.allclose(stock(ids[:, -4:] % original.vocab_size).logits[..., :before.size(-1)], before, atol=1e-3)  # it learned something


def test_loop_of_another_base_on_the_same_run_is_refused(toy_settings, tmp_path):
    first, second = small_base(tmp_path / "first", "gpt2"), small_base(tmp_path / "second", "llama")
    with open_run(toy_settings(*SHORT, f"model.base={first}")):
        pass
    with pytest.raises(RunMismatch, match=r"model\.base: the run has '.*first', the settings say '.*second'"), \
            open_run(toy_settings(*SHORT, f"model.base={second}")):
        pass
