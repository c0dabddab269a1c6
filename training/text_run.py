"""Train a model of plain text and keep its best version: what fast_train.py does with a recipe whose data.format is text.

Examined by held-out loss, with samples for people to read. The record of the best lives in the card of the version in force,
never in a variable, so that a resumed run can't put a worse model in its place. Does not answer conversations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from data_prep.text_corpus import DOMAIN, TextCorpus, prepare_text
from experts import architectures, tokenizer
from experts.device import Device
from experts.durable import remove_folder
from experts.expert import Expert
from experts.moe.control import attach
from experts.moe.recorder import HealthRecorder
from experts.text_sampler import continue_text
from training.agenda import Job
from training.job import training_facts
from training.plan import Mix, Plan, StateMismatch, StepFacts, Trained, TrainingDiverged, Validation
from training.progress import Reporter
from training.run_folder import Run, recipe_fingerprint
from training.scalars import Scalars
from training.threads import ThreadShare
from training.trainer import measure_step_s, train
from training.trainer_state import saved_plan
from training.windows import held_out_batches

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Examination:
    """One look at the model. val_loss: nats a token ("symbol" for characters and bytes); samples: prompt and what was written after it."""

    step: int
    val_loss: float
    bits_per_byte: float
    train_loss: float
    train_s: float
    tokens: int
    samples: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the words of fast_train.py's JSON."""
        return {"step": self.step, "val_loss": self.val_loss, "bits_per_byte": self.bits_per_byte, "train_loss": self.train_loss,
                "train_s": self.train_s, "tokens": self.tokens, "samples": dict(self.samples)}


@dataclass(frozen=True, slots=True)
class TextOutcome:
    """What a run left. best: figures of the version in force; sample: what it writes by itself, empty when the run was stopped."""

    trained: Trained
    examinations: tuple[Examination, ...]
    best: Mapping[str, Any] | None
    version: str | None
    parameters: int
    sample: str

    def to_json(self) -> dict[str, Any]:
        """The JSON of fast_train.py."""
        best = {key: self.best[key] for key in ("val_loss", "step", "train_s", "bits_per_byte")} if self.best else None
        return {"best": best, "history": [one.to_json() for one in self.examinations], "parameters": self.parameters,
                "tokens_per_s": self.trained.tokens_per_s, "version": self.version, "clipped_share": self.trained.clipped_share,
                "precision": self.trained.precision, "compiled": self.trained.compiled, "sample": self.sample}


class BestVersion:
    """The best model of a run so far, in the registry. Holds nothing itself: each question is answered from the card in force."""

    def __init__(self, run: Run, *, corpus: TextCorpus, device: Device) -> None:
        self._run, self._corpus, self._device = run, corpus, device

    @property
    def version(self) -> str | None:
        """The version in force."""
        served = self._run.registry.served(DOMAIN)
        return served.name if served is not None else None

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """Its examination, as its card has it."""
        version = self.version
        return self._run.registry.card(DOMAIN, version)["text"] if version is not None else None

    def require_same_text(self) -> None:
        """Raise StateMismatch when the version in force was examined on another text: its loss says nothing about this one."""
        facts = self.facts
        if facts is not None and facts["corpus"] != self._corpus.fingerprint:
            raise StateMismatch(f"the model in {self._run.folder} learned another text or tokenizer, so its loss can't be compared; "
                                "give the run its old text back, or choose another folder with --run DIR")

    def offer(self, model: PreTrainedModel, examination: Examination) -> bool:
        """Keep the model as a version and put it in force when its loss is lower than that of the version in force."""
        before = self.facts
        if not math.isfinite(examination.val_loss) or (before is not None and examination.val_loss >= before["val_loss"]):
            return False
        expert = Expert(model, self._corpus.tokenizer, device=self._device)
        card = {"text": {**examination.to_json(), "corpus": self._corpus.fingerprint, "recipe": recipe_fingerprint(self._run.settings)}}
        version = self._run.registry.add(DOMAIN, expert.save, card=card)
        against = f" (before: {before['val_loss']:.4f} at step {before['step']})" if before else ""
        self._run.registry.promote({DOMAIN: version}, reason=f"held-out loss {examination.val_loss:.4f} at step {examination.step}{against}")
        self._run.registry.prune(self._run.settings.registry.keep)
        return True


def train_text(run: Run, *, device: Device, reporter: Reporter, should_stop: Callable[[], bool]) -> TextOutcome:
    """Train for loop.cycle_steps, or for loop.cycle_minutes of training; goes on where a stopped run was.

    Raises DataError for a text that can't be used, StateMismatch for the folder of another text, TrainingDiverged.
    """
    settings = run.settings
    corpus = prepare_text(settings)
    best = BestVersion(run, corpus=corpus, device=device)
    best.require_same_text()
    model = architectures.build(settings.model, vocab_size=len(corpus.tokenizer), end_id=tokenizer.end_id(corpus.tokenizer),
                                pad_id=tokenizer.pad_id(corpus.tokenizer), seed=settings.run.seed)
    attach(model, settings.moe)  # routed layers get schedules, losses and tallies; other models stay as they are
    states = run.folder / "work" / DOMAIN
    begun = saved_plan(states) if settings.loop.cycle_steps is None else None  # one of minutes goes on as it began
    plan = begun or _plan(model, corpus=corpus, run=run, device=device)
    examiner = _Examiner(run, corpus=corpus, device=device)
    run.journal.append("training_started", node=DOMAIN, steps=plan.steps, corpus=corpus.fingerprint)
    reporter.node_started(Job(DOMAIN, 1.0, steps=plan.steps, seconds=settings.loop.cycle_minutes * 60), share="1/1")

    curves = run.folder / "tensorboard" / DOMAIN if settings.run.tensorboard else None
    with HealthRecorder(run.journal, node=DOMAIN, settings=settings.moe) as health, Scalars(curves) as scalars:
        def on_step(facts: StepFacts) -> None:
            reporter.step(facts)
            scalars.step(facts)
            if facts.routing is not None:
                health.write(facts.routing)

        def on_validation(validation: Validation) -> None:
            scalars.validation(validation)
            examination = examiner.examine(model, validation)
            scalars.continuations(examination.samples, bits_per_byte=examination.bits_per_byte, step=examination.step)
            better = best.offer(model, examination)
            run.journal.append("examined", node=DOMAIN, best=better, **examination.to_json())
            reporter.note(examiner.line(examination, better=better))

        try:
            trained = train(model, corpus=corpus, mix=Mix({DOMAIN: 1.0}), plan=plan, device=device, state_folder=states, settings=settings.train,
                            on_step=on_step, should_stop=should_stop, on_validation=on_validation,
                            threads=ThreadShare.of(settings.run, device=device))
        except TrainingDiverged:
            if states.is_dir():
                remove_folder(states)  # its plan would go on with the rates that led there, whatever the settings say
            raise
    sample = ""
    if not trained.stopped:
        folder = run.registry.served(DOMAIN)
        sample = examiner.last_sample(Expert.load(folder, device=device).model if folder is not None else model)
        run.journal.append("trained", node=DOMAIN, sample=sample, **training_facts(trained))
        remove_folder(states)
    return TextOutcome(trained, examiner.all_of(trained), best.facts, best.version, sum(weight.numel() for weight in model.parameters()), sample)


def _plan(model: PreTrainedModel, *, corpus: TextCorpus, run: Run, device: Device) -> Plan:
    settings = run.settings
    steps, seconds = settings.loop.cycle_steps, None
    if steps is None:
        seconds = settings.loop.cycle_minutes * 60
        step_s = measure_step_s(model, corpus=corpus, mix=Mix({DOMAIN: 1.0}), settings=settings.train, device=device)
        steps = max(1, round(seconds / step_s))
        log.info("a step takes %.3f s: about %d steps in %g minutes", step_s, steps, settings.loop.cycle_minutes)
    return Plan.from_settings(settings.train, steps=steps, seed=settings.run.seed, seconds=seconds)


class _Examiner:
    """Makes an Examination of a validation loss: bits per byte, and samples for people."""

    def __init__(self, run: Run, *, corpus: TextCorpus, device: Device) -> None:
        self._settings, self._journal, self._corpus, self._device = run.settings, run.journal, corpus, device
        train_settings = run.settings.train
        batches = held_out_batches(corpus, domain=DOMAIN, row_tokens=train_settings.row_tokens, batch_rows=train_settings.batch_rows,
                                   rows=train_settings.validation_rows)
        targets = torch.cat([batch.targets_N for batch in batches])
        self.bytes_per_token = float(torch.from_numpy(corpus.token_bytes)[targets].double().mean())

    def examine(self, model: PreTrainedModel, validation: Validation) -> Examination:
        text = self._settings.text
        samples = {prompt: self._sample(model, prompt, tokens=text.prompt_symbols) for prompt in text.prompts}
        return self._examination(validation, samples=samples)

    def _examination(self, validation: Validation, *, samples: Mapping[str, str]) -> Examination:
        return Examination(step=validation.step, val_loss=validation.val_loss, bits_per_byte=self.bits_per_byte(validation.val_loss),
                           train_loss=validation.train_loss, train_s=validation.train_s, tokens=validation.tokens, samples=samples)

    def bits_per_byte(self, nats: float) -> float:
        """Of so many nats a token."""
        return nats / math.log(2) / self.bytes_per_token

    def last_sample(self, model: PreTrainedModel) -> str:
        """text.sample_symbols characters that the model writes from a line end."""
        wanted = self._settings.text.sample_symbols
        return self._sample(model, "\n", tokens=wanted)[:wanted]

    def _sample(self, model: PreTrainedModel, prompt: str, *, tokens: int) -> str:
        return continue_text(model, self._corpus.tokenizer, prompt, device=self._device, new_tokens=tokens, context_tokens=self._settings.train.row_tokens,
                             temperature=self._settings.text.temperature, seed=self._settings.run.seed)

    def line(self, examination: Examination, *, better: bool) -> str:
        """One examination for the terminal, a star where it is the best so far, each sample on a line of its own."""
        head = (f"examined step {examination.step:>6}  held-out {examination.val_loss:.4f} nats, {examination.bits_per_byte:.4f} bits per byte  "
                f"training {examination.train_loss:.4f}  {examination.train_s:.0f} s{' *' if better else ''}")
        return "\n".join([head, *(f"  {prompt!r} -> {text!r}" for prompt, text in examination.samples.items())])

    def all_of(self, trained: Trained) -> tuple[Examination, ...]:
        """Every examination of the run, those before a resume included, with the samples that the journal kept."""
        samples = {event.facts["step"]: event.facts["samples"] for event in self._journal.events(kind="examined", node=DOMAIN)}
        return tuple(self._examination(one, samples=samples.get(one.step, {})) for one in trained.validations)
