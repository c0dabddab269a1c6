"""Threads of a training that shares its cores: how many, when they change, and that the sums are those of the machine."""

import dataclasses
import subprocess
import sys
import time

import psutil
import pytest
import torch

from experts.device import cpu_device
from settings import RunSettings
from training.threads import ThreadShare, allowed_cores, cpu_seconds


@pytest.fixture(autouse=True)
def kept_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock and the seconds that others and this process use, moved by hand."""

    def __init__(self):
        self.now = self.busy = self.own = 0.0

    def go(self, seconds, *, others, own):
        self.now += seconds
        self.busy += seconds * (others + own)
        self.own += seconds * own

    def windows(self, share, count, *, others, own):
        for _ in range(count):
            self.go(10.0, others=others, own=own)
            share.tick()

    def share(self, *, threads, cores):
        torch.set_num_threads(threads)
        return ThreadShare(cores=cores, clock=lambda: self.now, seconds=lambda: (self.busy, self.own))


@pytest.mark.parametrize(("threads", "cores", "others", "wanted"), [
    (2, 2, 0.0, 2), (2, 2, 0.2, 2), (2, 2, 0.5, 1), (2, 2, 1.0, 1), (2, 2, 2.0, 1), (8, 8, 0.2, 8), (8, 8, 1.0, 7), (8, 8, 2.5, 5), (8, 8, 7.0, 4),
    (8, 16, 7.0, 8), (8, 16, 12.0, 4), (1, 1, 1.0, 1), (3, 4, 1.0, 3), (3, 4, 2.0, 2)])
def test_a_thread_goes_for_every_core_that_others_use_down_to_half(threads, cores, others, wanted):
    assert Machine().share(threads=threads, cores=cores).wanted(others) == wanted


def test_two_windows_in_a_row_decide_and_free_cores_are_taken_again():
    machine = Machine()
    share = machine.share(threads=4, cores=4)
    seen = []
    for others in (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.1, 0.1):
        machine.go(5.0, others=others, own=4 - others)
        share.tick()  # in the middle of a window: nothing is asked
        machine.go(5.0, others=others, own=4 - others)
        share.tick()
        seen.append(torch.get_num_threads())
    assert seen == [4, 4, 4, 4, 3, 3, 3, 4]


def test_a_training_begins_with_all_threads_whatever_the_one_before_ended_with():
    machine = Machine()
    share = machine.share(threads=2, cores=2)
    machine.windows(share, 2, others=1.0, own=1.0)
    assert torch.get_num_threads() == 1
    share.take_all()
    assert torch.get_num_threads() == 2
    machine.windows(share, 1, others=1.0, own=1.0)  # one alone takes nothing away again
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [PermissionError("/proc/stat"), psutil.AccessDenied(1)])
def test_a_system_that_keeps_its_times_to_itself_keeps_all_threads(error):
    def refused():
        raise error

    machine = Machine()
    torch.set_num_threads(2)
    share = ThreadShare(cores=2, clock=lambda: machine.now, seconds=refused)
    for _ in range(3):
        machine.now += 10.0
        share.tick()
    assert torch.get_num_threads() == 2


def test_a_machine_that_names_no_cores_counts_all_of_them(monkeypatch):
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    assert allowed_cores() is None
    torch.set_num_threads(1)
    assert ThreadShare().wanted(0.0) == 1
    assert cpu_seconds()[0] > 0


def test_more_threads_than_cores_that_somebody_asked_for_stay_while_nothing_else_runs():
    assert Machine().share(threads=4, cores=2).wanted(0.0) == 4


def test_what_this_process_uses_by_itself_gives_no_thread_up():
    machine = Machine()
    share = machine.share(threads=2, cores=2)
    machine.windows(share, 4, others=0.0, own=2.0)
    assert torch.get_num_threads() == 2


def test_seconds_of_the_cores_grow_with_others_work_and_own_seconds_only_with_own():
    busy, own = cpu_seconds()
    code = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    busy_after, own_after = cpu_seconds()
    assert busy_after - busy >= 0.5
    assert own_after - own < 0.5
    end = time.process_time() + 0.6
    while time.process_time() < end:
        pass
    assert cpu_seconds()[1] - own_after >= 0.5


@pytest.mark.parametrize(("kind", "threads", "shares"), [("cpu", None, True), ("cpu", 2, False), ("meta", None, False)])
def test_only_a_training_on_a_cpu_whose_threads_nobody_set_shares_them(kind, threads, shares):
    device = dataclasses.replace(cpu_device(), torch=torch.device(kind))
    assert isinstance(ThreadShare.of(RunSettings(threads=threads), device=device), ThreadShare) == shares
