"""Self-test and doctor: right devices pass, faulty ones are refused by name, hangs and crashes end, reports hold together."""

import io
import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console
from simulated_card import CARD, SimulatedCard, transformers_fits

import experts.__main__ as command
from experts import device as devices
from experts import doctor
from experts.device import RULES, Device, cpu_device, trial_report
from experts.self_test import GREEDY_TOKENS, SelfTest, self_test

SUPPORT = Path(__file__).parents[1] / "support"


def on_card(fault: str = "") -> SelfTest:
    with warnings.catch_warnings(), SimulatedCard(fault):
        return self_test(Device("directml", "simulated", 0, "test", CARD, RULES["directml"]))


def checks(test: SelfTest) -> list[str]:
    return [failure.check for failure in test.failures]


def test_self_test_of_the_cpu_equals_itself_and_measures_speeds() -> None:
    test = self_test(cpu_device())
    assert (test.failures, test.loss_gap, test.gradient_gap, test.greedy_tokens_equal) == ((), 0.0, 0.0, GREEDY_TOKENS)
    assert test.train_tokens_per_s is not None
    assert test.train_tokens_per_s > 100


@transformers_fits
def test_self_test_of_a_right_card_under_directml_rules_passes() -> None:
    test = on_card()
    assert test.failures == ()
    assert 0 < test.loss_gap < 1e-4  # other operations than the CPU's, so not the same bits
    assert 0 < test.gradient_gap < 1e-3
    assert test.greedy_tokens_equal == GREEDY_TOKENS


@transformers_fits
def test_self_test_of_a_card_with_a_zeroed_gradient_names_it() -> None:
    test = on_card("zero")
    assert checks(test) == ["zero gradient"]
    assert test.failures[0].detail.startswith("72 of 72 gradients are all zero, first ")


@transformers_fits
def test_self_test_of_a_card_with_a_nan_names_it() -> None:
    test = on_card("nan")
    assert checks(test)[0] == "not a number"
    assert "losses [nan, nan, nan]" in test.failures[0].detail


@transformers_fits
def test_self_test_of_a_card_that_falls_back_names_the_operation() -> None:
    test = on_card("fallback")
    assert checks(test) == ["fallback"]
    assert "'aten::_softmax' is not currently supported on the DML backend and will fall back to run on the CPU" in test.failures[0].detail


@transformers_fits
def test_self_test_of_a_card_that_is_slightly_wrong_names_loss_or_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil = SimulatedCard._spoil
    monkeypatch.setattr(SimulatedCard, "_spoil", lambda self, name, inner: inner * 1.01 if name == "sigmoid" else spoil(self, name, inner))
    assert "gradient" in checks(on_card())


@transformers_fits
def test_self_test_of_a_card_that_raises_is_a_failure_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SimulatedCard, name: str, inner: object) -> object:
        raise NotImplementedError(f"Could not run {name}")
    monkeypatch.setattr(SimulatedCard, "_spoil", broken)
    test = on_card()
    assert checks(test) == ["error"]
    assert (test.loss_gap, test.train_tokens_per_s, test.greedy_tokens_equal) == (None, None, 0)


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """torch_directml is the stand-in, for this process and its children."""
    monkeypatch.syspath_prepend(str(SUPPORT / "standin"))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT / "standin"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delitem(sys.modules, "torch_directml", raising=False)
    return monkeypatch


@transformers_fits
@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a card that comes first")
@pytest.mark.parametrize(("fault", "limit_s", "words"), [
    ("hang", 5.0, "time limit: the self-test did not end within 5 s"),
    ("abort", 250.0, "crash: the self-test ended with exit code "),
    ("zero", 250.0, "zero gradient: 72 of 72 gradients are all zero"),
    ("nan", 250.0, "not a number: losses [nan, nan, nan]"),
    ("fallback", 250.0, "fallback: The operator 'aten::_softmax' is not currently supported on the DML backend")])
def test_choose_auto_with_a_faulty_card_tried_in_its_own_process_is_the_cpu_and_names_the_fault(
        standin: pytest.MonkeyPatch, fault: str, limit_s: float, words: str) -> None:
    import torch_directml

    standin.setattr(torch_directml, "device", lambda index: torch.device("cpu"))  # here; the trial's process has the faulty card
    standin.setenv("STANDIN_FAULT", fault)
    device = devices.choose("auto", trial=lambda wanted: devices.refusal_of(trial_report(wanted, limit_s=limit_s)))
    assert device.kind == "cpu"
    assert f"directml:0 (Stand-in card 0) fails its self-test ({words}" in device.reason


@transformers_fits
def test_trial_of_a_right_card_in_its_own_process_passes(standin: pytest.MonkeyPatch) -> None:
    report = trial_report("directml:0", limit_s=250)
    assert report["failures"] == []
    assert devices.refusal_of(report) is None
    assert (report["device"], report["greedy_tokens_equal"]) == ("directml:0", GREEDY_TOKENS)


def test_refusal_of_joins_all_failures() -> None:
    assert devices.refusal_of({"failures": [{"check": "loss", "detail": "a"}, {"check": "fallback", "detail": "b"}]}) == "loss: a; fallback: b"


def fake_trial(wanted: str, *, limit_s: float = 0) -> dict[str, object]:
    failures = [{"check": "zero gradient", "detail": "72 of 72"}] if wanted.startswith("directml") else []
    return {"device": wanted, "failures": failures, "loss_gap": 0.0, "train_tokens_per_s": 1234.5}


def test_examine_auto_reports_devices_choice_versions_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "trial_report", fake_trial)
    report = doctor.examine("cpu")
    assert [found.kind for found in report.devices][-1] == "cpu"
    assert {"torch", "transformers", "torch-directml"} <= set(report.packages)
    assert report.chosen is not None
    assert report.chosen["reason"] == "named in the settings"
    assert report.healthy
    assert report.self_test == fake_trial("cpu")


def test_examine_named_device_that_fails_is_unhealthy_and_keeps_the_figures(standin: pytest.MonkeyPatch) -> None:
    import torch_directml

    standin.setattr(devices, "trial_report", fake_trial)
    standin.setattr(torch_directml, "device", lambda index: torch.device("cpu"))
    report = doctor.examine("directml")
    assert not report.healthy
    assert report.error is not None
    assert "fails its self-test (zero gradient: 72 of 72)" in report.error
    assert report.self_test == fake_trial("directml:0")


def test_show_prints_choice_failures_and_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "trial_report", fake_trial)
    console = Console(width=400, record=True, file=io.StringIO())
    report = doctor.examine("cpu")
    doctor.show(report, console=console)
    text = console.export_text()
    assert "run.device = 'cpu' uses cpu" in text
    assert "1,234" in text
    if not any(found.available for found in report.devices if found.kind == "directml"):
        assert '-e ".[directml]"' in text


def test_show_prints_a_refusal_as_it_stands() -> None:
    console = Console(width=400, record=True, file=io.StringIO())
    failed = {"device": "cpu", "failures": [{"check": "[/x]", "detail": "driver.log:100: [/y]"}]}
    doctor.show(doctor.Report({}, {}, (), "cpu", None, failed, "driver.log:100: [/z]", ("see driver.log:100: [b]",)), console=console)
    text = console.export_text()
    for part in ("FAILED [/x]", "driver.log:100: [/y]", "can't be used: driver.log:100: [/z]", "- see driver.log:100: [b]"):
        assert part in text


def test_command_doctor_writes_the_report_and_ends_with_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(devices, "trial_report", fake_trial)
    assert command.main(["doctor", "--device", "cpu", "--json", str(tmp_path / "report.json")]) == 0
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert (written["healthy"], written["chosen"]["kind"], written["self_test"]["device"]) == (True, "cpu", "cpu")
    assert "Self-test of cpu against the CPU" in capsys.readouterr().out


def test_command_doctor_with_a_device_that_is_absent_ends_with_1_and_the_repair(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_directml", None)
    assert command.main(["doctor", "--device", "directml"]) == 1
    assert "can't be used: no DirectML" in capsys.readouterr().out


def test_command_doctor_with_an_unknown_device_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["doctor", "--device", "tpu"])
    assert "run.device = 'tpu'" in capsys.readouterr().err


def test_command_trial_of_the_cpu_prints_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["trial", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == []
