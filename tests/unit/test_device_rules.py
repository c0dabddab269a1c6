"""Forms that follow from a device's rules: optimizer, loss, activation, mask, norm, attention; and that nobody asks for DirectML itself."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from experts.architectures import build
from experts.device_rules import (
    RULES,
    DeviceRules,
    PlainAdamW,
    ProductSiLU,
    adapt_model,
    attend,
    attention_mask,
    clip_gradients,
    make_adamw,
    rms_norm,
    silu,
    summed_cost,
)
from settings import HOME, ModelSettings

TINY = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=64)


def test_plain_adamw_equals_the_one_of_torch_over_many_steps() -> None:
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    pair = (PlainAdamW([ours], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1), torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1))
    for step in range(20):
        for optimizer, weight in zip(pair, (ours, theirs), strict=True):
            weight.grad = torch.sin(start * (step + 1)) * weight.detach()
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, start, atol=0.1)


def test_plain_adamw_keeps_the_state_of_torch_so_that_a_run_can_change_devices() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    ours, theirs = (make([weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0) for make in (PlainAdamW, torch.optim.AdamW))
    ours.step()
    theirs.step()
    assert set(ours.state[weight]) == set(theirs.state[weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert torch.allclose(ours.state[weight]["exp_avg_sq"], theirs.state[weight]["exp_avg_sq"])


@pytest.mark.parametrize(("form", "expected"), [("fused", (True, None)), ("foreach", (None, True))])
def test_make_adamw_takes_the_form_of_the_rules(form: str, expected: tuple[bool | None, bool | None]) -> None:
    made = make_adamw([nn.Parameter(torch.ones(2))], lr=0.1, betas=(0.9, 0.95), rules=DeviceRules(optimizer_form=form))  # type: ignore[arg-type]
    assert (made.defaults["fused"], made.defaults["foreach"]) == expected


def test_summed_cost_forms_agree_in_value_and_gradient() -> None:
    results = []
    for kind in ("cpu", "directml"):
        logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
        cost = summed_cost(logits, torch.tensor([0, 8, 3, 3, 1, 7]), rules=RULES[kind])  # type: ignore[index]
        cost.backward()
        results.append((cost.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1])


def test_product_silu_equals_silu_in_value_and_gradient() -> None:
    x = torch.linspace(-8, 8, 33)
    results = []
    for layer in (nn.SiLU(), ProductSiLU()):
        leaf = x.clone().requires_grad_()
        made = layer(leaf)
        made.sum().backward()
        results.append((made.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_adapt_model_for_directml_changes_activation_and_attention_and_no_number() -> None:
    plain, adapted = (build(TINY, vocab_size=50, end_id=1, pad_id=0, seed=0) for _ in range(2))
    adapt_model(adapted, rules=RULES["directml"])
    assert sum(isinstance(module, ProductSiLU) for module in adapted.modules()) == 2
    assert adapted.config._attn_implementation == "eager"
    ids = torch.arange(12)[None]
    torch.testing.assert_close(adapted(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-5)


def test_attention_mask_for_eager_attention_is_added_to_the_scores() -> None:
    allowed = torch.tensor([[True, False]])
    assert attention_mask(allowed, rules=RULES["cpu"]) is allowed
    assert attention_mask(allowed, rules=RULES["directml"]).tolist() == [[0.0, torch.finfo(torch.float32).min]]


def test_clip_gradients_scales_to_the_limit_and_gives_the_norm_before() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradients([weight], limit=1.0, rules=RULES["directml"])) == pytest.approx(5.0)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)


def test_rules_of_directml_are_those_of_its_reports() -> None:
    rules = RULES["directml"]
    assert (rules.autocast_dtype, rules.bf16, rules.one_at_a_time, rules.cpu_sampling, rules.trial) == (None, False, True, True, True)


def test_plain_norm_activation_and_attention_equal_those_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 8, generator=random), torch.randn(8, generator=random)
    query, keys, values = (torch.randn(2, 3, length, 8, generator=random) for length in (4, 6, 6))
    allowed = torch.ones(4, 6, dtype=torch.bool).tril(2)[None, None]
    found = []
    for kind in ("cpu", "directml"):
        rules = RULES[kind]  # type: ignore[index]
        found.append([rms_norm(x, weight, eps=1e-6, rules=rules), rms_norm(x, None, eps=1e-6, rules=rules), silu(x, rules=rules),
                      attend(query, keys, values, mask=attention_mask(allowed, rules=rules), rules=rules), attend(query, keys, values, mask=None, rules=rules)])
    torch.testing.assert_close(found[1], found[0])


def asks_for_directml(text: str) -> list[int]:
    """Lines with DirectML's name as a value, or with inference_mode, which it doesn't survive."""
    return [node.lineno for node in ast.walk(ast.parse(text))
            if (isinstance(node, ast.Constant) and node.value in ("directml", "privateuseone"))
            or (isinstance(node, ast.Attribute) and node.attr == "inference_mode")]


ROOMS = ("experts", "data_prep", "routing", "training", "serving", "benchmarks")
OTHERS = [path for room in ROOMS for path in sorted((HOME / room).rglob("*.py"))
          if path.name not in ("device.py", "device_rules.py", "doctor.py", "installation.py")] + sorted(HOME.glob("*.py"))


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.relative_to(HOME).as_posix())
def test_code_asks_for_rules_and_never_for_directml(path: Path) -> None:
    assert asks_for_directml(path.read_text("utf-8")) == []


def test_a_question_for_directml_is_found() -> None:
    assert asks_for_directml("if device.kind == 'directml':\n    pass\nwith torch.inference_mode():\n    pass\n") == [1, 3]
