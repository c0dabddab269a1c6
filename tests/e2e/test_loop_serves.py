"""The loop with its gateway as a child process: answers while training, takes new versions, and never serves a set that wasn't promoted."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import requests

import settings
from experts.registry import Registry

PATIENCE_S = 90.0
PROMPTS = ("What is 3 plus 4?", "If 3 is more than 2, which is less?", "Hello, I am number 5, how are you 9?", "Which item stands at 3 of 8?",
           "Write a function that adds 3 and 4.")


@contextlib.contextmanager
def loop_process(run, data, overrides, *extra):
    """A running loop with a gateway on a free port; killed at the end if it still runs."""
    command = [sys.executable, str(settings.HOME / "continuous_loop.py"), "--run", str(run), "--data", str(data), "--quiet", "--set=serve.port=0",
               "--set=serve.poll_s=0.1", *(f"--set={override}" for override in overrides), *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_S)


def wait_for_gateway(run, process):
    """Base URL of the gateway, once it is ready."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, process.stdout.read()
        with contextlib.suppress(requests.ConnectionError, FileNotFoundError, json.JSONDecodeError):
            url = json.loads((run / "gateway.json").read_text(encoding="utf-8"))["url"]
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return url
        time.sleep(0.1)
    raise AssertionError("the gateway did not become ready")


def promoted(run):
    """(node, version) pairs that the registry's pointer was ever moved to."""
    return {(name, after) for change in Registry(run).pointer().history for name, (_, after) in change.changes.items()}


class Client(threading.Thread):
    """Asks again and again until told to stop; keeps what came back. Losing the connection is allowed only while away."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_folder, self.stop, self.answers, self.faults = run, threading.Event(), [], []

    def run(self):
        prompts = itertools.cycle(PROMPTS)
        while not self.stop.is_set():
            try:
                url = json.loads((self.run_folder / "gateway.json").read_text(encoding="utf-8"))["url"]
                reply = requests.post(f"{url}/generate", json={"prompt": next(prompts), "max_new_tokens": 4}, timeout=30)
            except (requests.ConnectionError, FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.05)
                continue
            if reply.status_code == 200:
                self.answers.append((reply.json()["node"], reply.json()["version"], reply.headers["X-Version"]))
            elif reply.status_code != 503:
                self.faults.append((reply.status_code, reply.text))
            time.sleep(0.02)


@pytest.mark.timeout(240)
def test_loop_serves_new_versions_while_it_trains_and_ends_cleanly(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    client = Client(run)
    with loop_process(run, records_folder, toy_overrides, "--cycles=6", "--set=loop.cycle_steps=150") as process:
        wait_for_gateway(run, process)
        client.start()
        output, _ = process.communicate(timeout=PATIENCE_S)
        client.stop.set()
        client.join(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert client.faults == []
    assert {(node, version) for node, version, _ in client.answers} <= promoted(run)
    assert all(version == header for _, version, header in client.answers)
    assert len({(node, version) for node, version, _ in client.answers}) >= 2


@pytest.mark.timeout(240)
def test_loop_killed_while_serving_starts_again_and_serves_only_what_was_promoted(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    client = Client(run)
    client.start()
    for number in range(3):
        with loop_process(run, records_folder, toy_overrides, "--set=loop.cycle_steps=80") as process:
            wait_for_gateway(run, process)
            count = len(client.answers)
            until = time.monotonic() + PATIENCE_S
            while len(client.answers) < count + 5 and time.monotonic() < until:
                time.sleep(0.05)
            assert len(client.answers) >= count + 5, f"no answers in round {number}"
            process.kill()
    client.stop.set()
    client.join(timeout=PATIENCE_S)
    assert client.faults == []
    assert {(node, version) for node, version, _ in client.answers} <= promoted(run)
    registry = Registry(run)
    for node, version in registry.pointer().nodes.items():
        registry.verify(node, version)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child; CTRL_BREAK is tested with the gateway")
def test_loop_interrupted_saves_and_exits_with_code_0_and_its_gateway_goes_too(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    with loop_process(run, records_folder, toy_overrides, "--set=loop.cycle_steps=5000") as process:
        wait_for_gateway(run, process)
        gateway = json.loads((run / "gateway.json").read_text(encoding="utf-8"))["pid"]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    with pytest.raises(ProcessLookupError):
        os.kill(gateway, 0)


def test_loop_starts_a_gateway_that_died_again(tmp_path, records_folder, toy_overrides):
    run = tmp_path / "run"
    with loop_process(run, records_folder, toy_overrides, "--set=loop.cycle_steps=5000") as process:
        wait_for_gateway(run, process)
        first = json.loads((run / "gateway.json").read_text(encoding="utf-8"))["pid"]
        psutil.Process(first).kill()
        until = time.monotonic() + PATIENCE_S
        while json.loads((run / "gateway.json").read_text(encoding="utf-8"))["pid"] == first and time.monotonic() < until:
            time.sleep(0.1)
        url = wait_for_gateway(run, process)
        assert requests.post(f"{url}/generate", json={"prompt": "Hello", "max_new_tokens": 2}, timeout=30).json()["usage"]["completion_tokens"] >= 1


def test_loop_port_taken_ends_with_code_2_and_says_which(tmp_path, records_folder, toy_overrides):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with loop_process(tmp_path / "run", records_folder, toy_overrides, f"--set=serve.port={port}") as process:
            output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert str(port) in output
    assert "Traceback" not in output
