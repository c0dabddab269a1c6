"""Which device a gateway takes beside a loop, and that /readyz and /metrics say it, the loop's and the reasons."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flask.testing import FlaskClient

import settings as configuration
from experts import device as devices
from experts.journal import Journal
from experts.run_lock import RunLock
from serving.app import create_app
from serving.wiring import make_gateway

STANDIN = Path(__file__).parents[1] / "support" / "standin"
WHY = "auto: no accelerator can be used. no DirectML: the driver doesn't answer"


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """The folder of a loop that runs and whose run.device = auto fell to the CPU."""
    with RunLock(tmp_path), Journal(tmp_path / "journal.db") as journal:
        journal.append("loop_started", pid=os.getpid(), device="cpu (x86_64)", reason=WHY)
        yield tmp_path


def client(folder: Path, **serve: object) -> FlaskClient:
    gateway = make_gateway(configuration.check({"run": {"dir": str(folder)}, "serve": {"engine": "torch", **serve}}))
    return create_app(gateway).test_client()


def test_readyz_says_why_the_loop_beside_it_is_on_the_cpu(loop: Path) -> None:
    body = client(loop).get("/readyz").get_json()
    assert (body["device"], body["device_reason"]) == ("cpu", f"named in the settings; the loop computes on cpu (x86_64): {WHY}")


def test_metrics_have_the_device_with_its_reason(loop: Path) -> None:
    lines = client(loop).get("/metrics").get_data(as_text=True).splitlines()
    (device,) = [line for line in lines if line.startswith("branchwise_device{")]
    assert 'kind="cpu"' in device
    assert f'reason="named in the settings; the loop computes on cpu (x86_64): {WHY}"' in device
    assert device.endswith(" 1.0")


def test_readyz_of_a_gateway_without_a_loop_tells_of_its_own_device_alone(tmp_path: Path) -> None:
    assert client(tmp_path).get("/readyz").get_json()["device_reason"] == "named in the settings"


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a card that comes first")
def test_gateway_on_auto_leaves_a_card_that_is_not_shared_to_the_loop(loop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.delitem(sys.modules, "torch_directml", raising=False)
    import torch_directml

    monkeypatch.setattr(torch_directml, "device", lambda index: torch.device("cpu"))
    body = client(loop, device="auto").get("/readyz").get_json()
    assert body["device"] == "cpu"
    assert "directml:0 (Stand-in card 0) is the loop's (run.device = 'auto') and takes one process at a time" in body["device_reason"]
    with pytest.raises(devices.DeviceError, match="takes one process at a time"):
        client(loop, device="directml")
