"""Which device is chosen and why, with stand-ins for torch_directml and for cards."""

import logging
import sys
import threading
from pathlib import Path

import pytest
import torch

from experts import device as devices
from experts.device import Device, DeviceError, choose, cpu_device, find, seed_everything
from training import trainer_state

STANDIN = Path(__file__).parents[1] / "support" / "standin"
no_card = pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a card that comes first")


def passes(wanted: str) -> None:
    """A trial that every device passes."""


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """torch_directml is the stand-in; STANDIN_DEVICES and STANDIN_FAULT shape it. Here its device is the CPU: nothing computes on it."""
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.delitem(sys.modules, "torch_directml", raising=False)
    import torch_directml

    monkeypatch.setattr(torch_directml, "device", lambda index: torch.device("cpu"))
    return monkeypatch


def test_choose_cpu_is_the_cpu_with_its_reason() -> None:
    device = choose("cpu")
    assert (device.kind, device.torch, device.reason) == ("cpu", torch.device("cpu"), "named in the settings")


@no_card
def test_choose_auto_without_a_card_is_the_cpu_and_says_why_for_every_kind() -> None:
    device = choose("auto", trial=passes)
    assert device.kind == "cpu"
    assert all(f"no {kind}" in device.reason for kind in ("CUDA or ROCm", "XPU", "MPS", "DirectML"))


@no_card
def test_choose_auto_says_the_reason_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    devices._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="experts.device"):
        choose("auto", trial=passes)
        choose("auto", trial=passes)
    assert [record.message for record in caplog.records if "no accelerator" in record.message] == [f"device cpu: {choose('auto', trial=passes).reason}"]


@no_card
def test_choose_cuda_that_is_absent_names_the_build_and_the_repair() -> None:
    with pytest.raises(DeviceError, match=r"no CUDA or ROCm device: torch .* is (a CPU build|built for) .*sees no card; install .* https://pytorch\.org"):
        choose("cuda")


@no_card
@pytest.mark.parametrize(("kind", "words"), [
    ("xpu", r"no XPU device: torch .* is no Intel build or sees no card; install the XPU torch from https://pytorch\.org"),
    ("mps", r"no MPS device: it needs an Apple chip, macOS 12\.3 or newer .*; elsewhere set run\.device = \"auto\"")])
def test_choose_intel_or_apple_card_that_is_absent_names_the_repair(kind: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        choose(kind)


def test_choose_directml_that_is_absent_names_extra_python_and_torch() -> None:
    if "torch_directml" in sys.modules:
        pytest.skip("torch_directml is here")
    with pytest.raises(DeviceError, match=r"it needs Windows or WSL, Python 3\.11 or 3\.12 and torch 2\.4\.1 .*pip install -e \"\.\[directml\]\""):
        choose("directml")


@no_card
def test_choose_auto_with_a_directml_device_that_passes_takes_it(standin: pytest.MonkeyPatch) -> None:
    tried = []
    device = choose("auto", trial=tried.append)
    assert (device.kind, device.name, device.wanted, tried) == ("directml", "Stand-in card 0", "directml:0", ["directml:0"])
    assert device.rules.loss_form == "log_softmax"


@no_card
def test_choose_auto_with_a_directml_device_that_fails_is_the_cpu_with_the_failure(standin: pytest.MonkeyPatch) -> None:
    device = choose("auto", trial=lambda wanted: "zero gradient: 72 of 72")
    assert device.kind == "cpu"
    assert "directml:0 (Stand-in card 0) fails its self-test (zero gradient: 72 of 72)" in device.reason


@no_card
@pytest.mark.parametrize(("count", "words"), [("0", "torch_directml sees 0 device(s)"), ("error", "the driver doesn't answer (Unknown error)")])
def test_choose_auto_with_a_directml_that_has_no_device_is_the_cpu(standin: pytest.MonkeyPatch, count: str, words: str) -> None:
    standin.setenv("STANDIN_DEVICES", count)
    device = choose("auto", trial=passes)
    assert device.kind == "cpu"
    assert words in device.reason


@no_card
def test_choose_auto_with_a_directml_that_breaks_on_import_is_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_directml.py").write_text("raise OSError('libd3d12.so: cannot open shared object file')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_directml", raising=False)
    device = choose("auto", trial=passes)
    assert device.kind == "cpu"
    assert "torch_directml can't be imported (libd3d12.so: cannot open shared object file)" in device.reason


def test_choose_named_directml_of_a_number_that_is_absent_says_how_many_there_are(standin: pytest.MonkeyPatch) -> None:
    standin.setenv("STANDIN_DEVICES", "2")
    assert choose("directml:1", trial=passes).name == "Stand-in card 1"
    with pytest.raises(DeviceError, match=r"directml:2 isn't there: torch_directml sees 2 device\(s\)"):
        choose("directml:2", trial=passes)


def test_choose_named_device_that_fails_its_trial_is_an_error_with_the_repair(standin: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"fails its self-test \(time limit: .*\); update its driver, .*or set run\.device = \"cpu\""):
        choose("directml", trial=lambda wanted: "time limit: the self-test did not end within 3 s")


@pytest.mark.parametrize("loop", ["auto", "directml", "directml:0"])
def test_choose_of_a_card_that_the_loop_holds_is_refused_by_name_and_left_by_auto(standin: pytest.MonkeyPatch, loop: str) -> None:
    with pytest.raises(DeviceError, match=r"directml:0 \(Stand-in card 0\) is the loop's .* takes one process at a time; set serve\.device = \"cpu\""):
        choose("directml", trial=passes, held=loop)
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        assert choose("auto", trial=passes, held=loop).kind == "cpu"


@pytest.mark.parametrize("loop", ["cpu", "directml:1", None])
def test_choose_of_a_card_beside_a_loop_that_is_elsewhere_takes_it(standin: pytest.MonkeyPatch, loop: str | None) -> None:
    assert choose("directml", trial=passes, held=loop).wanted == "directml:0"


class FakeCuda:
    """torch.cuda of a machine with one card."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, hip: str | None = None, works: bool = True) -> None:
        def ones(*size: int, device: object = None) -> torch.Tensor:
            if not works:
                raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
            return torch.zeros(2)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Radeon RX 6600" if hip else "RTX 3060")
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch, "ones", ones)


def test_choose_auto_with_an_nvidia_card_takes_it_before_directml_without_a_trial(standin: pytest.MonkeyPatch) -> None:
    FakeCuda(standin)
    device = choose("auto", trial=lambda wanted: "not asked")
    assert (device.kind, device.name, device.wanted, device.rules.autocast_dtype) == ("cuda", "RTX 3060", "cuda:0", torch.bfloat16)


def test_choose_auto_with_an_amd_card_under_rocm_says_rocm_and_tries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, hip="6.2")
    tried = []
    device = choose("auto", trial=tried.append)
    assert (device.kind, device.wanted, tried) == ("rocm", "cuda:0", ["cuda:0"])


def test_choose_cuda_card_without_kernels_in_this_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, works=False)
    with pytest.raises(DeviceError, match=r"RTX 3060\) doesn't compute with torch .*no kernel image is available.*\); install a torch that lists the card"):
        choose("cuda")


def test_choose_cuda_number_that_is_absent_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    with pytest.raises(DeviceError, match=r"cuda:3 isn't there; this machine has 1"):
        choose("cuda:3")


def test_find_cpu_keeps_the_reason() -> None:
    assert find("cpu", reason="listed").reason == "listed"


def test_device_is_frozen() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        cpu_device().name = "other"  # type: ignore[misc]


def test_autocast_without_a_dtype_of_the_rules_is_off_and_with_one_is_on() -> None:
    weight, cpu = torch.ones(2, 2), cpu_device()
    with cpu.autocast():
        assert (weight @ weight).dtype is torch.float32
    with cpu.autocast(torch.bfloat16):
        assert (weight @ weight).dtype is torch.bfloat16


def test_autocast_where_bfloat16_may_not_exist_stays_off() -> None:
    device = Device("directml", "x", 0, "test", torch.device("cpu"), devices.RULES["directml"])
    with device.autocast(torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_turn_on_directml_lets_one_thread_in_and_on_the_cpu_all() -> None:
    directml = [Device("directml", "x", index, "test", torch.device("cpu"), devices.RULES["directml"]) for index in (0, 0, 1)]

    def other_thread_enters(device: Device) -> bool:
        entered = threading.Event()

        def enter() -> None:
            with device.turn():
                entered.set()
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        return entered.wait(0.3)

    with directml[0].turn():
        assert not other_thread_enters(directml[1])
        assert other_thread_enters(directml[2])
    with cpu_device().turn():
        assert other_thread_enters(cpu_device())


def test_seed_everything_gives_the_same_numbers_again() -> None:
    import random

    import numpy

    def draw() -> tuple[float, float, float]:
        seed_everything(11)
        return random.random(), float(numpy.random.rand()), float(torch.rand(1))
    assert draw() == draw()


class Generator:
    """A device module of torch's with a generator whose state is one number, raised by every draw."""

    def __init__(self) -> None:
        self.state = 5

    def get_rng_state(self, *place: torch.device) -> torch.Tensor:
        return torch.tensor([self.state], dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, *place: torch.device) -> None:
        self.state = int(state)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_forked_random_puts_the_generators_of_cpu_and_device_back(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    own = Generator()
    monkeypatch.setattr(torch, kind, own)
    before = torch.get_rng_state()

    def draw() -> None:
        with devices.forked_random(torch.device(kind)):
            own.state += 1
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        draw()
    assert own.state == 5
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_state_of_a_device_of_its_own_generator_is_saved_and_put_back_there_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    own = Generator()
    monkeypatch.setattr(torch, kind, own)
    there = Device(kind, "test", 0, "test", torch.device(kind), devices.RULES[kind])  # type: ignore[arg-type,index]
    tensors, facts = trainer_state.random_state(there)
    own.state = 9
    trainer_state.set_random_state(tensors, facts, device=cpu_device())
    assert own.state == 9
    trainer_state.set_random_state(tensors, facts, device=there)
    assert own.state == 5
