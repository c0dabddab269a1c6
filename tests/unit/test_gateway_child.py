"""The gateway as a child process: what stop() leaves behind. Processes are stand-ins."""

import subprocess
import threading

from serving.child import GatewayChild


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
