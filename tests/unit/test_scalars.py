"""Curves for TensorBoard, read back with TensorBoard's own reader."""

import errno
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.plan import StepFacts, Validation
from training.scalars import Scalars
from training.scorecard import Outcome, Sample, Scorecard


def facts(step, *, loss=2.0, clipped=False):
    return StepFacts(step=step, steps=9, loss=loss, lr=1e-3, muon_lr=2e-2, grad_norm=0.5, clipped=clipped, tokens=100 * step, targets=10, tokens_per_s=5000.0,
                     train_s=1.0, eta_s=1.0, rollbacks=0)


def curves(folder):
    """{name: [(step, value)]} of everything under a folder."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {name: [(event.step, round(event.value, 6)) for event in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def test_scalars_write_every_figure_of_steps_validations_and_exams(tmp_path):
    outcomes = (Outcome("a", "math", "add", 1, 1.0, False), Outcome("b", "math", "add", 1, 0.5, False), Outcome("c", "code", "talk", None, None, True))
    with Scalars(tmp_path / "math-cycle00001") as scalars:
        for step, clipped in ((1, True), (2, False), (3, False), (4, True)):
            scalars.step(facts(step, loss=3.0 - step / 4, clipped=clipped))
        scalars.validation(Validation(step=4, val_loss=2.5, by_domain={"math": 2.0, "code": 3.0}, train_loss=2.0, train_s=1.0, tokens=400))
        samples = (Sample("math", "What is 1 + 1?", "2", "It is 2.", 1.0),)
        scalars.exam(Scorecard("e", outcomes, {"math": 0.25, "code": 0.75}, {"math": 1.0, "code": 1.0}, 0.1, samples), step=4)
    found = curves(tmp_path / "math-cycle00001")
    assert found["train/loss"] == [(1, 2.75), (2, 2.5), (3, 2.25), (4, 2.0)]
    assert [value for _, value in found["train/clipped_share"]] == [1.0, 0.5, 0.333333, 0.5]
    assert (found["train/lr"][0], found["train/muon_lr"][0], found["train/gradient_norm"][0]) == ((1, 0.001), (1, 0.02), (1, 0.5))
    assert (found["train/tokens_per_s"][0], found["train/tokens"][3], found["train/rollbacks"][0]) == ((1, 5000.0), (4, 400.0), (1, 0.0))
    assert (found["validation/loss"], found["validation/math"], found["validation/code"]) == ([(4, 2.5)], [(4, 2.0)], [(4, 3.0)])
    assert (found["exam/accuracy"], found["exam_accuracy/math"]) == ([(4, 0.75)], [(4, 0.75)])
    assert "exam_accuracy/code" not in found  # nobody grades it
    assert (found["exam/loop_rate"], found["exam/bits_per_byte"]) == ([(4, 0.333333)], [(4, 0.5)])
    reader = EventAccumulator(str(tmp_path / "math-cycle00001"))
    reader.Reload()
    text, = reader.Tensors("math/0/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (4, "What is 1 + 1?\n\n---\n\nIt is 2.")
    assert (found["exam_bits_per_byte/math"], found["exam_bits_per_byte/code"]) == ([(4, 0.25)], [(4, 0.75)])


def test_scalars_of_a_resumed_training_replace_what_came_after_the_saved_state(tmp_path):
    with Scalars(tmp_path) as first:
        for step in (1, 2, 3):
            first.step(facts(step, loss=9.0))
    with Scalars(tmp_path) as second:
        for step in (2, 3, 4):
            second.step(facts(step, loss=1.0))
    assert curves(tmp_path)["train/loss"] == [(1, 9.0), (2, 1.0), (3, 1.0), (4, 1.0)]


@pytest.mark.parametrize("missing", [True, False])
def test_scalars_without_folder_or_package_write_nothing(tmp_path, monkeypatch, missing):
    if missing:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Scalars(tmp_path / "x" if missing else None) as scalars:
        scalars.step(facts(1))
    assert list(tmp_path.iterdir()) == []


def test_scalars_on_a_full_disk_stop_and_say_so_once(tmp_path, monkeypatch, caplog):
    scalars = Scalars(tmp_path)
    scalars.step(facts(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scalars._writer, "add_scalar", full)
    with caplog.at_level(logging.WARNING):
        scalars.step(facts(2))
        scalars.step(facts(3))
        scalars.__exit__(None, None, None)
    assert [record.getMessage() for record in caplog.records] == [f"no more curves are written to {tmp_path}: [Errno 28] No space left on device"]


def test_scalars_where_no_folder_can_be_made_let_the_training_go_on(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with caplog.at_level(logging.WARNING), Scalars(tmp_path / "file" / "math") as scalars:
        scalars.step(facts(1))
        scalars.step(facts(2))
    assert len(caplog.records) == 1
