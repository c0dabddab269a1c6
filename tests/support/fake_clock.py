"""A clock in the trainer's hands that only steps move, so that tests of minutes take none."""

from types import SimpleNamespace

from training import trainer


class FakeClock:
    """pace: seconds of a step, given the training's plan and the number of the step (the first is 1)."""

    def __init__(self, monkeypatch, pace):
        self.now = 0.0
        honest = trainer._Run._gradients

        def timed(run, batches, *, targets):
            self.now += pace(run.plan, run.step + 1)
            return honest(run, batches, targets=targets)

        monkeypatch.setattr(trainer._Run, "_gradients", timed)
        monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now))
