"""Trains one model on a mix of domains: steps, validation, saved states, return to the last good one after a non-finite loss.

Does not choose mix, length or rates (plan.py, the loop), does not examine by generating and does not promote.
"""

from __future__ import annotations

import copy
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel

from experts import device as devices
from experts.allocator import Keeper
from experts.checkpoint import State, load_newest, prune_states, save_state
from experts.device import Device
from experts.device_rules import clip_gradients, place_model
from experts.dropout import stream_dropout
from experts.moe.control import control_of
from settings import TrainSettings
from training import trainer_state
from training.batches import Batch
from training.execution import Execution, choose_execution, compile_ahead
from training.optim import Optimizers
from training.plan import Mix, Plan, StepFacts, Trained, TrainingDiverged, Validation
from training.schedule import lr_share
from training.threads import ThreadShare
from training.windows import AnyCorpus, held_out_batches, training_batches

_log = logging.getLogger(__name__)
RATE_AFTER_ROLLBACK = 0.5  # of the rate before, each time
_LONG_RUN = 10**6  # batches: what a plan made of minutes is measured for
_SPEED_WINDOW = 20  # steps over which tokens/s and the time left are averaged
_PAUSE_S, _PAUSE_STEPS = 60.0, 20.0  # a step of that many seconds and of that many usual steps: the machine slept, or the program was halted


def train(model: PreTrainedModel, *, corpus: AnyCorpus, mix: Mix, plan: Plan, device: Device, state_folder: Path, settings: TrainSettings,
          on_step: Callable[[StepFacts], None], should_stop: Callable[[], bool],
          on_validation: Callable[[Validation], None] | None = None, threads: ThreadShare | None = None) -> Trained:
    """Train the model in place (it ends on the device, in eval mode) and say what happened.

    threads: begins with all of them, and follows other programs' use of the cores in a training of seconds; a plan of steps keeps its threads, since
    with others the last bits differ, and so do compiled layers, which would be compiled again.

    Goes on from the newest state in state_folder when there is one; raises StateMismatch when that belongs to another
    plan, mix, data, model or settings. A non-finite loss or gradient is never applied: the run returns to its last saved state
    with half the rate, and raises TrainingDiverged after settings.max_rollbacks returns.
    """
    with stream_dropout(model, share=plan.dropout or 0.0):
        if threads is not None:
            threads.take_all()
        with device.turn():
            run = _Run(model, corpus=corpus, mix=mix, plan=plan, device=device, folder=state_folder, settings=settings)
            run.start()
        keeper = Keeper()
        while run.step < run.pace.steps and not should_stop():
            keeper.tick()
            with device.turn():
                if threads is not None and plan.seconds is not None and not run.execution.compiled:
                    threads.tick()
                facts = run.take_step()
                if facts is None:
                    run.roll_back()
                    continue
            on_step(facts)
            if run.step % settings.validate_every_steps == 0 or run.step == run.pace.steps:
                with device.turn():
                    validation = run.validate()
                if validation is not None and on_validation is not None:
                    on_validation(validation)
            if run.step < run.pace.steps and time.monotonic() - run.saved_at >= settings.checkpoint_every_s:
                with device.turn():
                    run.save()
        with device.turn():
            run.save()
    model.eval()
    return run.result()


class _Run:
    """The moving parts of one call of train()."""

    def __init__(self, model: PreTrainedModel, *, corpus: AnyCorpus, mix: Mix, plan: Plan, device: Device, folder: Path, settings: TrainSettings) -> None:
        self.model = place_model(model, to=device.torch, rules=device.rules)
        self.plan, self.device, self.folder, self.settings = plan, device, folder, settings
        self.corpus, self.mix = corpus, mix
        self.identity = trainer_state.identity(model, plan=plan, mix=mix, settings=settings, fingerprint=corpus.fingerprint)
        self.routing = control_of(model)  # None for a model without routed layers
        if self.routing is not None:
            self.identity["moe"] = self.routing.facts()
        self.batches = training_batches(corpus, mix=mix, row_tokens=settings.row_tokens, batch_rows=settings.batch_rows, seed=plan.seed)
        self.optimizers = Optimizers(model, settings=settings, rules=device.rules)
        self.step = self.tokens = self.targets = self.clipped = self.rollbacks = 0
        self.train_s, self.saved_at = 0.0, time.monotonic()
        self.losses: list[float] = []
        self.validations: list[Validation] = []
        self._recent: deque[tuple[int, float]] = deque(maxlen=_SPEED_WINDOW)
        self._held_out: dict[str, list[Batch]] | None = None

    def start(self) -> None:
        """Resume from the newest state, or choose the precision and save the state before the first step. What a training draws (dropout, a router's noise)
        follows from its plan, not from what the process drew before."""
        state = load_newest(self.folder)
        if state is None:
            self.choose(batches=self.plan.steps * self.settings.accumulate)
            devices.seed_everything(self.plan.seed)
            self.save()
            return
        trainer_state.require_same(state.facts["identity"], ours=self.identity, folder=self.folder)
        if self.plan.seconds is None:  # one of minutes is never the same twice
            trainer_state.warn_of_other_machine(state.facts["machine"], ours=trainer_state.machine(self.device))
        self.rollbacks = state.facts["rollbacks"]
        self.compute(Execution(**state.facts["execution"]))
        self._compile_ahead(self.batches.next())
        self.restore(state)
        _log.info("resuming at step %d of %d", self.step, self.pace.steps)

    @property
    def pace(self) -> Plan:
        """The plan at the speed of the steps so far."""
        return self.plan.at_speed(step=self.step, train_s=self.train_s)

    def choose(self, *, batches: int) -> None:
        """Take the fastest way to compute that many batches, measured on the first one."""
        position = self.batches.position()
        batch = self.batches.next()
        self.compute(choose_execution(self.model, device=self.device, settings=self.settings, batch=batch, batches=batches))
        self._compile_ahead(batch)
        self.batches.seek(position)

    def _compile_ahead(self, batch: Batch) -> None:
        """Or it would count as the first step's time: in another process, and with dropout, layers are compiled once more."""
        if self.execution.compiled:
            compile_ahead(self.model, loss=self.loss, batch=batch, device=self.device)

    def compute(self, execution: Execution) -> None:
        """Take the steps from now on in this way, but for what this device can't: a state may come from another."""
        self.execution = execution
        self.loss = execution.loss(self.model, device=self.device)
        self.optimizers.orthogonalize_in(execution.muon_dtype if self.device.rules.bf16 else torch.float32)

    def take_step(self) -> StepFacts | None:
        """One optimizer step over settings.accumulate batches; None, with nothing applied, when loss or gradient isn't finite."""
        began = time.perf_counter()
        self.model.train()  # whoever watched the last step may have examined the model
        share = lr_share(self.step + 1, plan=self.pace) * RATE_AFTER_ROLLBACK**self.rollbacks
        lr, muon_lr = self.plan.lr * share, self.plan.muon_lr * share
        self.optimizers.set_rates(lr=lr, muon_lr=muon_lr)
        batches = [self.batches.next() for _ in range(self.settings.accumulate)]
        targets = sum(batch.targets_N.numel() for batch in batches)
        self.optimizers.look_ahead(self.step + 1, model=self.model, loss=self.loss, batch=batches[0])
        if self.routing is not None:
            self.routing.begin_step(self.step + 1)
        loss, norm = self._gradients(batches, targets=targets)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizers.zero_grad()
            _log.warning("step %d: loss %g, gradient norm %g; not applied", self.step + 1, loss, norm)
            return None
        self.optimizers.step()
        step_s = time.perf_counter() - began
        return self._count(batches, loss=loss, norm=norm, lr=lr, muon_lr=muon_lr, step_s=step_s)

    def _gradients(self, batches: list[Batch], *, targets: int) -> tuple[float, float]:
        total = torch.zeros((), device=self.device.torch)
        for batch in batches:
            if self.routing is not None:
                self.routing.begin_batch(None if batch.whole_rows else batch.documents_BT.to(self.device.torch) >= 0)
            mean = self.loss(batch) / targets
            whole = mean if self.routing is None else mean + self.routing.cost() * (batch.targets_N.numel() / targets)
            whole.backward()  # type: ignore[no-untyped-call]
            total += mean.detach()
        norm = clip_gradients(self.optimizers.parameters, limit=self.settings.clip_norm, rules=self.device.rules)
        loss, found = torch.stack([total, norm.to(total)]).cpu().tolist()
        return float(loss), float(found)

    def _count(self, batches: list[Batch], *, loss: float, norm: float, lr: float, muon_lr: float, step_s: float) -> StepFacts:
        tokens = sum(batch.tokens for batch in batches)
        self.step += 1
        self.tokens += tokens
        self.targets += sum(batch.targets_N.numel() for batch in batches)
        self.clipped += norm > self.settings.clip_norm
        routing = None if self.routing is None else self.routing.end_step(self.step, clipped=self.clipped)
        step_s = self._without_pause(step_s)
        self.train_s += step_s
        self.losses.append(loss)
        self._recent.append((tokens, step_s))
        recent_s, steps = sum(seconds for _, seconds in self._recent), self.pace.steps
        return StepFacts(step=self.step, steps=steps, loss=loss, lr=lr, muon_lr=muon_lr, grad_norm=norm, clipped=norm > self.settings.clip_norm,
                         tokens=self.tokens, targets=self.targets, tokens_per_s=sum(count for count, _ in self._recent) / recent_s, train_s=self.train_s,
                         eta_s=(steps - self.step) * recent_s / len(self._recent), rollbacks=self.rollbacks, routing=routing)

    def _without_pause(self, step_s: float) -> float:
        """The step's own seconds: a laptop that was shut would else end a training of minutes, its rates still high."""
        if not self._recent:
            return step_s
        usual = statistics.median(seconds for _, seconds in self._recent)
        if step_s < max(_PAUSE_S, _PAUSE_STEPS * usual):
            return step_s
        _log.warning("step %d took %.0f s, others %.2f s: a pause, which doesn't count as training", self.step, step_s, usual)
        return usual

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Loss on held-out rows of each domain of the mix; None when none of them has any."""
        if self._held_out is None:
            rows, size = self.settings.validation_rows, self.settings.batch_rows
            self._held_out = {domain: held_out_batches(self.corpus, domain=domain, row_tokens=self.settings.row_tokens, batch_rows=size, rows=rows)
                              for domain in self.mix.shares}
        self.model.eval()
        costs = {domain: sum(float(self.loss(batch)) for batch in batches) for domain, batches in self._held_out.items() if batches}
        if not costs:
            return None
        targets = {domain: sum(batch.targets_N.numel() for batch in self._held_out[domain]) for domain in costs}
        train_loss = statistics.fmean(self.losses[-self.settings.validate_every_steps:])
        validation = Validation(step=self.step, val_loss=sum(costs.values()) / sum(targets.values()), train_loss=train_loss, train_s=self.train_s,
                                by_domain={domain: costs[domain] / targets[domain] for domain in costs}, tokens=self.tokens)
        self.validations.append(validation)
        return validation

    def save(self) -> None:
        """Write the whole state; older ones beyond settings.checkpoints_keep go."""
        random_tensors, random_facts = trainer_state.random_state(self.device)
        tensors = {
            **trainer_state.with_prefix("model", trainer_state.model_tensors(self.model)),
            **trainer_state.with_prefix("optimizer", trainer_state.optimizer_tensors(self.optimizers)),
            **trainer_state.with_prefix("random", random_tensors),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        facts = {
            "identity": self.identity, "machine": trainer_state.machine(self.device), "random": random_facts, "cursor": self.batches.position(),
            "step": self.step, "tokens": self.tokens, "targets": self.targets, "clipped": self.clipped, "train_s": self.train_s,
            "rollbacks": self.rollbacks, "execution": asdict(self.execution), "validations": [validation.to_json() for validation in self.validations],
        }
        save_state(self.folder, tensors=tensors, facts=facts)
        prune_states(self.folder, self.settings.checkpoints_keep)
        self.saved_at = time.monotonic()

    def restore(self, state: State) -> None:
        """Put a saved state back, all but the count of rollbacks."""
        facts = state.facts
        trainer_state.load_model_tensors(self.model, trainer_state.below_prefix("model", state.tensors))
        self.optimizers.load_state_tensors(trainer_state.below_prefix("optimizer", state.tensors))
        trainer_state.set_random_state(trainer_state.below_prefix("random", state.tensors), facts["random"], device=self.device)
        self.batches.seek(facts["cursor"])
        self.step, self.tokens, self.targets, self.clipped = facts["step"], facts["tokens"], facts["targets"], facts["clipped"]
        self.train_s = facts["train_s"]
        self.losses = state.tensors["losses"].tolist()
        self.validations = [Validation(**validation) for validation in facts["validations"]]

    def roll_back(self) -> None:
        """Return to the last saved state with a lower rate; raises TrainingDiverged after the last allowed return."""
        failed = self.step + 1
        self.rollbacks += 1
        if self.rollbacks > self.settings.max_rollbacks:
            raise TrainingDiverged(f"step {failed}: loss or gradient isn't finite after {self.settings.max_rollbacks} returns to the last good state; "
                                   "lower train.lr and train.muon_lr, or look for a damaged record")
        state = load_newest(self.folder)
        if state is None:
            raise TrainingDiverged(f"step {failed}: loss or gradient isn't finite and no whole state is left in {self.folder} to return to")
        self.restore(state)
        self.save()
        _log.warning("step %d wasn't finite: back to step %d with %g of the rate", failed, self.step, RATE_AFTER_ROLLBACK**self.rollbacks)

    def result(self) -> Trained:
        """The facts of the whole run, resumes included."""
        return Trained(stopped=self.step < self.pace.steps, step=self.step, losses=tuple(self.losses), tokens=self.tokens, targets=self.targets,
                       train_s=self.train_s, tokens_per_s=self.tokens / self.train_s if self.train_s else 0.0, clipped_share=self.clipped / max(1, self.step),
                       rollbacks=self.rollbacks, validations=tuple(self.validations), best=min(self.validations, key=lambda one: one.val_loss, default=None),
                       precision=self.execution.precision, compiled=self.execution.compiled)


def measure_step_s(model: PreTrainedModel, *, corpus: AnyCorpus, mix: Mix, settings: TrainSettings, device: Device, steps: int = 3) -> float:
    """Seconds a step of this training takes here: the shortest of a few real steps on a copy, after one untimed. Turns minutes into Plan.steps.

    A busy moment must not plan a tenth of the steps; what the shortest promises too much is seen on the way by a plan that has seconds.
    """
    trial = copy.deepcopy(model).train()
    plan = Plan.from_settings(settings, steps=steps + 1, seed=0)
    run = _Run(trial, corpus=corpus, mix=mix, plan=plan, device=device, folder=Path(), settings=settings)
    run.choose(batches=_LONG_RUN)
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        run.take_step()
        times.append(time.perf_counter() - began)
    return min(times[1:])  # other work on the machine only ever adds to a time
