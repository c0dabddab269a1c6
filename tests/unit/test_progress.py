"""What a person sees without a terminal: steps in fixed columns, one sample answer a domain."""

import io

import pytest
from rich.console import Console

from training.agenda import Job
from training.plan import StepFacts
from training.progress import Reporter
from training.scorecard import Sample


@pytest.fixture
def shown():
    return io.StringIO()


def reporter(shown, **more):
    return Reporter(Console(file=shown, soft_wrap=True), **more)


def step(number):
    return StepFacts(step=number, steps=20, loss=2.5, lr=1e-3, muon_lr=2e-2, grad_norm=0.5, clipped=False, tokens=100, targets=10, tokens_per_s=12345.0,
                     train_s=1.0, eta_s=61.0, rollbacks=0)


def test_reporter_without_a_terminal_prints_fixed_columns_at_most_every_ten_seconds(shown):
    with reporter(shown) as out:
        out.node_started(Job("math", 1.0, steps=20), share="1/8")
        out.step(step(1))
        out.step(step(2))
    assert shown.getvalue() == "math           step      1/20     loss  2.5000  lr  1.00e-03    12,345 tok/s  left     61 s\n"


def test_reporter_samples_are_one_line_of_each_domain(shown):
    samples = [Sample("math", "What is\n2 + 2?", "4", "2+2\n#### 4", 1.0), Sample("math", "another", "", "", None), Sample("code", "x" * 90, "", "", None)]
    with reporter(shown) as out:
        out.samples(samples)
    assert shown.getvalue().splitlines() == ["  math         What is / 2 + 2? -> 2+2 / #### 4", f"  code         {'x' * 67}... -> "]


def test_reporter_shows_texts_as_they_stand(shown):
    """Brackets are no markup (a closing one alone would be an error), and the number of a line is no emoji."""
    with reporter(shown) as out:
        out.note("records.jsonl:100: a [bold]word[/] [/x]")
        out.samples([Sample("code", "x[:top:2]", "", "[/b] :100:", None)])
    assert shown.getvalue().splitlines() == ["records.jsonl:100: a [bold]word[/] [/x]", "  code         x[:top:2] -> [/b] :100:"]


def test_reporter_told_to_be_quiet_shows_notes_alone(shown):
    with reporter(shown, quiet=True) as out:
        out.node_started(Job("math", 1.0, steps=20), share="1/8")
        out.step(step(1))
        out.samples([Sample("math", "a", "", "b", None)])
        out.note("math promoted")
    assert shown.getvalue() == "math promoted\n"
