"""`python -m serving` as a process: where it listens, how it drains, what a wrong start says."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests

import settings as configuration
from benchmarks.live_gateway import gateway_process
from benchmarks.random_run import make_run

TOY = {"tokenizer": {"vocab_size": 400}, "model": {"layers": 2, "width": 64, "heads": 2, "kv_heads": 1, "intermediate": 128, "context_tokens": 2048},
       "train": {"row_tokens": 64}}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _settings(folder, **serve):
    return configuration.check({**TOY, "run": {"dir": str(folder)}, "serve": {"poll_s": 0.1, "loop_repeats": None, "threads": 1, **serve}})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(_settings(folder), nodes=("generalist",), with_router=False)
    return folder


def _wait_ready(url):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if requests.get(f"{url}/readyz", timeout=30).status_code == 200:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{url} did not become ready")


def _stream(url, tokens, seed=1):
    body = {"prompt": "count", "max_new_tokens": tokens, "temperature": 1.0, "seed": seed, "stream": True, "ignore_end": True}
    return requests.post(f"{url}/generate", json=body, stream=True, timeout=60)


def _begun(response):
    """Lines of a stream whose first one has come."""
    lines = response.iter_lines()
    assert next(lines) == b"event: route"
    return lines


def _last_event(lines):
    name, data = [line.decode("ascii") for line in lines if line][-2:]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_gateway_process_told_to_end_finishes_what_runs_refuses_what_comes_and_exits_0(run_dir):
    with gateway_process(_settings(run_dir, drain_s=60)) as child:
        _wait_ready(child.url)
        lines = _begun(_stream(child.url, 600))
        child.stop()
        refused = None
        while refused is None or (refused.status_code == 200 and child.process.poll() is None):
            refused = requests.get(f"{child.url}/readyz", timeout=30)
        assert refused.status_code == 503
        assert refused.json()["reason"] == "draining: the gateway is shutting down"
        name, done = _last_event(lines)
        assert (name, done["usage"]["completion_tokens"]) == ("done", 600)
        assert child.process.wait(timeout=30) == 0
        assert not (run_dir / "gateway.json").exists()


def test_gateway_process_answers_that_outlast_the_drain_end_with_an_error_event(run_dir):
    with gateway_process(_settings(run_dir, drain_s=0.2)) as child:
        _wait_ready(child.url)
        streams = [_begun(_stream(child.url, 2000, seed)) for seed in range(4)]
        child.stop()
        ends = [_last_event(lines) for lines in streams]
        assert [name for name, _ in ends] == ["error"] * 4
        assert {data["error"]["code"] for _, data in ends} == {"draining"}
        assert child.process.wait(timeout=30) == 0


def test_gateway_process_drains_when_its_parent_is_gone(run_dir):
    parent = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with gateway_process(_settings(run_dir), arguments=("--parent-pid", str(parent.pid))) as child:
        _wait_ready(child.url)
        parent.communicate(b"")
        assert child.process.wait(timeout=30) == 0


def test_gateway_process_on_a_taken_port_says_so_and_exits_2(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([sys.executable, "-m", "serving", "--run", str(tmp_path), "--port", str(port)], cwd=configuration.HOME,
                              env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "choose another with --port" in done.stderr


def test_gateway_process_open_to_other_machines_without_a_key_refuses_to_start(tmp_path):
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "BRANCHWISE_API_KEY"}
    done = subprocess.run([sys.executable, "-m", "serving", "--run", str(tmp_path), "--host", "0.0.0.0", "--port", "0"], cwd=configuration.HOME,
                          env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no API key" in done.stderr


def test_gateway_process_without_a_parent_that_lives_ends_at_once(run_dir):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run([sys.executable, "-m", "serving", "--run", str(run_dir), "--port", "0", "--parent-pid", str(gone.pid)],
                          cwd=configuration.HOME, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert f"process {gone.pid}, which started this gateway, is gone" in done.stderr


def test_gateway_process_storm_of_disconnects_leaves_the_slots_free(run_dir):
    with gateway_process(_settings(run_dir, slots=8, queue=200)) as child:
        _wait_ready(child.url)

        def leave(seed):
            response = _stream(child.url, 2000, seed)
            response.close()

        threads = [threading.Thread(target=leave, args=(seed,)) for seed in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        began = time.monotonic()
        answer = requests.post(f"{child.url}/generate", json={"prompt": "x", "max_new_tokens": 2}, timeout=30).json()
        assert answer["usage"]["completion_tokens"] == 2
        assert time.monotonic() - began < 5
