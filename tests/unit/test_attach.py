"""Starting the loop or joining the one that runs."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import experts.__main__ as command
from experts import attach
from experts.journal import Journal
from experts.run_lock import RunLock
from settings import HOME, Settings, check


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return check({"run": {"dir": str(tmp_path)}})


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "gateway.json").write_text(json.dumps({"url": url}), encoding="utf-8")
        yield url
        server.shutdown()
        thread.join()


def test_is_running_follows_the_lock_of_the_run(tmp_path: Path) -> None:
    assert not attach.is_running(tmp_path)
    with RunLock(tmp_path):
        assert attach.is_running(tmp_path)
    assert not attach.is_running(tmp_path)


def test_is_running_of_a_folder_that_is_absent_is_false_and_makes_nothing(tmp_path: Path) -> None:
    assert not attach.is_running(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_loop_device_is_the_one_that_the_running_loop_wrote_and_none_without_a_loop(tmp_path: Path) -> None:
    assert attach.loop_device(tmp_path) is None
    with RunLock(tmp_path), Journal(tmp_path / "journal.db") as journal:
        journal.append("loop_started", pid=1, device="xpu (old)", reason="an earlier loop")
        assert attach.loop_device(tmp_path) is None
        journal.append("loop_started", pid=os.getpid(), device="cpu (x86_64)", reason="auto: no accelerator can be used")
        assert attach.loop_device(tmp_path) == "cpu (x86_64): auto: no accelerator can be used"
    assert attach.loop_device(tmp_path) is None


def test_page_address_is_the_one_that_answers(settings: Settings, gateway: str) -> None:
    assert attach.page_address(settings) == gateway


def test_page_address_of_a_gateway_that_is_gone_is_none(settings: Settings, tmp_path: Path) -> None:
    assert attach.page_address(settings) is None
    (tmp_path / "gateway.json").write_text('{"url": "http://127.0.0.1:9"}', encoding="utf-8")
    assert attach.page_address(settings) is None


def test_attach_without_a_loop_says_nothing_and_is_false(settings: Settings) -> None:
    said: list[str] = []
    assert attach.attach(settings, say=said.append) is False
    assert said == []


def test_attach_opens_the_page_and_tells_events_until_the_loop_ends(settings: Settings, tmp_path: Path, gateway: str) -> None:
    said: list[str] = []
    opened: list[str] = []
    with Journal(tmp_path / "journal.db") as journal:
        journal.append("promoted", node="math", version="v000002", reason="accuracy 0.61 > 0.55")
        lock = RunLock(tmp_path)
        lock.__enter__()

        def end_soon(line: str) -> None:
            said.append(line)
            if "promoted" in line:
                lock.__exit__(None, None, None)

        assert attach.attach(settings, say=end_soon, opener=opened.append) is True
    assert opened == [gateway]
    assert "already runs (process" in said[0]
    assert said[2].endswith("promoted math version=v000002 reason=accuracy 0.61 > 0.55")
    assert said[-1] == "The loop has ended."


def test_follow_tells_each_new_event_once(settings: Settings, tmp_path: Path) -> None:
    said: list[str] = []
    lock = RunLock(tmp_path)
    with Journal(tmp_path / "journal.db") as journal:
        journal.append("cycle_ended", cycle=1)
        lock.__enter__()
        turns = iter(range(3))

        def sleep(seconds: float) -> None:
            if next(turns) < 2:
                journal.append("cycle_ended", cycle=2)
            else:
                lock.__exit__(None, None, None)

        attach.follow(settings, say=said.append, sleep=sleep)
    assert [line[9:] for line in said[:-1]] == ["cycle ended cycle=1", "cycle ended cycle=2", "cycle ended cycle=2"]


def test_open_page_when_ready_waits_for_the_gateway_and_opens_once(settings: Settings, tmp_path: Path, gateway: str) -> None:
    opened: list[str] = []
    address = (tmp_path / "gateway.json").rename(tmp_path / "later.json")
    assert attach.open_page_when_ready(settings, opener=opened.append, sleep=lambda seconds: address.rename(tmp_path / "gateway.json") and None)
    assert opened == [gateway]


def test_open_page_when_ready_gives_up_after_its_wait(settings: Settings) -> None:
    slept: list[float] = []
    assert not attach.open_page_when_ready(settings, opener=slept.append, wait_s=3, sleep=slept.append)
    assert slept == [1.0, 1.0, 1.0]


def test_command_start_without_a_loop_runs_it_with_every_argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs: list[tuple[list[str], bool]] = []
    monkeypatch.setattr(attach, "run_loop", lambda arguments, *, page: runs.append((arguments, page)) or 7)
    assert command.main(["start", "--run", str(tmp_path), "--cycles", "2", "--quiet", "--set", "train.lr=1e-3"]) == 7
    assert command.main(["start", "--run", str(tmp_path), "--no-serve"]) == 7
    assert command.main(["start", "--help"]) == 7
    assert runs == [(["--run", str(tmp_path), "--cycles", "2", "--quiet", "--set", "train.lr=1e-3"], True), (["--run", str(tmp_path), "--no-serve"], False),
                    (["--help"], False)]


def test_command_start_with_a_loop_follows_it_and_runs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attach, "attach", lambda settings, *, say: settings.run.dir == str(tmp_path))
    monkeypatch.setattr(attach, "run_loop", lambda arguments, *, page: pytest.fail("a second loop was started"))
    assert command.main(["start", "--run", str(tmp_path)]) == 0


def test_command_start_when_another_window_was_quicker_follows_that_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(attach, "attach", lambda settings, *, say: next(answers))
    monkeypatch.setattr(attach, "run_loop", lambda arguments, *, page: 2)
    assert command.main(["start", "--run", str(tmp_path)]) == 0
    monkeypatch.setattr(attach, "attach", lambda settings, *, say: False)
    assert command.main(["start", "--run", str(tmp_path)]) == 2


def test_command_start_beside_a_loop_of_another_process_follows_it_until_it_ends(tmp_path: Path) -> None:
    holding = ("import sys, time; from pathlib import Path; from experts.journal import Journal; from experts.run_lock import RunLock\n"
               "with RunLock(Path(sys.argv[1])), Journal(Path(sys.argv[1]) / 'journal.db') as journal:\n"
               "    journal.append('cycle_ended', cycle=41); print('held', flush=True); sys.stdin.readline(); journal.append('cycle_ended', cycle=42)")
    with subprocess.Popen([sys.executable, "-c", holding, str(tmp_path)], cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdin is not None
        assert loop.stdout is not None
        assert loop.stdout.readline() == "held\n"
        with subprocess.Popen([sys.executable, "-m", "experts", "start", "--run", str(tmp_path)], cwd=HOME, stdout=subprocess.PIPE, text=True) as window:
            assert window.stdout is not None
            first = window.stdout.readline()
            assert f"already runs (process {loop.pid}); this window only follows it" in first
            assert "cycle=41" in window.stdout.readline()
            loop.stdin.write("end\n")
            loop.stdin.flush()
            rest = window.stdout.read()
        assert window.returncode == 0
        assert "cycle=42" in rest
        assert rest.endswith("The loop has ended.\n")
    assert loop.returncode == 0


def test_command_start_with_a_wrong_setting_ends_with_2_before_anything_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(attach, "run_loop", lambda arguments, *, page: pytest.fail("it was started"))
    with pytest.raises(SystemExit, match="2"):
        command.main(["start", "--set", "trian.lr=1"])
    assert "unknown setting" in capsys.readouterr().err


def test_command_doctor_refuses_arguments_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["doctor", "--cycles", "1"])
    assert "unrecognized arguments: --cycles 1" in capsys.readouterr().err


def test_run_loop_gives_the_exit_code_of_the_loop() -> None:
    code = "import sys; from experts import attach; sys.exit(attach.run_loop(['--cycles', '0'], page=False))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "--cycles 0: at least 1" in done.stderr) == (2, True)
