"""The gateway as a child process: how long the loop waits for it, and what stop() leaves behind. Processes are stand-ins."""

import subprocess
import threading

import pytest

import continuous_loop
import settings as configuration
from serving import child as children
from serving.child import GatewayChild
from training.progress import Reporter


class Process:
    """A child that is alive when it is started and dies when it is waited for a second time."""

    pid = 4711

    def __init__(self):
        self.waits = 0

    def wait(self, timeout=None):
        self.waits += 1
        if self.waits == 1:
            raise subprocess.TimeoutExpired("gateway", timeout)
        return 1

    def poll(self):
        return 1


class StaleEvent(threading.Event):
    """Says that nothing was set, although stop() ran in the meantime: what a thread sees that is overtaken between two lines."""

    stop = None

    def wait(self, timeout=None):
        stopping = threading.Thread(target=self.stop)
        stopping.start()
        stopping.join()
        return False


def test_child_that_dies_while_it_is_told_to_stop_is_not_started_again(tmp_path, monkeypatch):
    started = []

    def launch(child):
        started.append(Process())
        return started[-1]

    monkeypatch.setattr(GatewayChild, "_launch", launch)
    child = GatewayChild([], folder=tmp_path, stop_s=1.0)
    child._stopping = StaleEvent()
    child._stopping.stop = child.stop
    child.start()
    child._keeper.join(timeout=20)
    assert not child._keeper.is_alive()
    assert len(started) == 1


@pytest.mark.parametrize(("drain_s", "wanted"), [(0.0, 40.0), (30.0, 40.0), (120.0, 130.0), (3600.0, 3610.0)])
def test_loop_waits_for_its_gateway_as_long_as_that_drains(tmp_path, monkeypatch, drain_s, wanted):
    made = []

    class Child:
        pid = 4711

        def __init__(self, arguments, **options):
            made.append(options["stop_s"])

        def start(self):
            pass

        def stop(self):
            pass

    monkeypatch.setattr(children, "GatewayChild", Child)
    chosen = configuration.check({"run": {"dir": str(tmp_path)}, "serve": {"drain_s": drain_s}})
    with Reporter(quiet=True) as reporter, continuous_loop._gateway(chosen, folder=tmp_path, reporter=reporter):
        pass
    assert made == [wanted]
