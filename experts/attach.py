"""Starting the loop, or joining one that already runs: opens its page and follows its journal. Used by the start scripts.

Never takes the run folder itself and never stops a loop: closing the window that follows ends the following alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from experts.journal import Event, Journal
from experts.run_lock import HOLDER, LOCK
from settings import HOME, Settings

ADDRESS_FILE = "gateway.json"
PAGE_WAIT_S = 1800.0


def is_running(run_dir: Path) -> bool:
    """Whether a process holds the run folder; asks the system's lock, so a dead holder doesn't count."""
    if not (run_dir / LOCK).exists():
        return False
    lock = FileLock(run_dir / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def holder_pid(run_dir: Path) -> int | None:
    """Number of the process that holds the run folder, where it says so."""
    pid = _read(run_dir / HOLDER).get("pid")
    return pid if isinstance(pid, int) else None


def loop_device(run_dir: Path) -> str | None:
    """What the loop of this folder computes on and why, in its own words; None when none runs. Leaves the lock alone."""
    pid = holder_pid(run_dir)
    if pid is None or not psutil.pid_exists(pid):
        return None
    with Journal(run_dir / "journal.db", read_only=True) as journal:
        started = [event.facts for event in journal.events(kind="loop_started") if event.facts.get("pid") == pid]
    return f"{started[-1]['device']}: {started[-1]['reason']}" if started else None


def page_address(settings: Settings) -> str | None:
    """Address of the page of this run's gateway; None while no gateway of it answers."""
    url = _read(Path(settings.run.dir) / ADDRESS_FILE).get("url")
    if not isinstance(url, str):
        return None
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return url if answer.status == 200 else None
    except (OSError, urllib.error.URLError, ValueError):
        return None


def _read(file: Path) -> dict[str, object]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or being written
        return {}
    return read if isinstance(read, dict) else {}


def follow(settings: Settings, *, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> None:
    """Tell the last events of the run and every new one, until its loop ends."""
    run_dir = Path(settings.run.dir)
    last = 0
    with Journal(run_dir / "journal.db", read_only=True) as journal:
        fresh = journal.events()[-12:]
        while True:
            for event in fresh:
                say(line_of(event))
                last = event.id
            running = is_running(run_dir)  # asked before the journal is read, so that the last events of a loop are told
            if running:
                sleep(1.0)
            fresh = journal.events(after=last)
            if not running and not fresh:
                say("The loop has ended.")
                return


def line_of(event: Event) -> str:
    """One event as one line."""
    facts = " ".join(f"{key}={value}" for key, value in event.facts.items() if isinstance(value, str | int | float))
    return " ".join(filter(None, [event.at[11:19], event.kind.replace("_", " "), event.node, facts]))[:300]


def attach(settings: Settings, *, say: Callable[[str], None], opener: Callable[[str], object] = webbrowser.open) -> bool:
    """Join the loop of this run folder until it ends; False when there is none."""
    run_dir = Path(settings.run.dir)
    if not is_running(run_dir):
        return False
    url = page_address(settings)
    say(f"The loop of {run_dir} already runs (process {holder_pid(run_dir) or 'unknown'}); this window only follows it and may be closed.")
    if url is not None:
        say(f"Page: {url}")
        opener(url)
    follow(settings, say=say)
    return True


def open_page_when_ready(settings: Settings, *, opener: Callable[[str], object] = webbrowser.open, wait_s: float = PAGE_WAIT_S,
                         sleep: Callable[[float], None] = time.sleep) -> bool:
    """Wait until the gateway answers and open its page once; False when it never did."""
    for _ in range(int(wait_s)):
        url = page_address(settings)
        if url is not None:
            opener(url)
            return True
        sleep(1.0)
    return False


def run_loop(arguments: Sequence[str], *, page: bool) -> int:
    """Run continuous_loop.py with these arguments in this console and give its exit code; page: open its page once it answers."""
    if page:
        opener = subprocess.Popen([sys.executable, "-m", "experts", "page", *arguments], cwd=HOME, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to every process of a console; the loop stops cleanly and this one waits for it
    try:
        return subprocess.call([sys.executable, str(HOME / "continuous_loop.py"), *arguments], preexec_fn=_take_interrupts if os.name == "posix" else None)
    finally:
        if page:
            opener.terminate()
            opener.wait()


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
