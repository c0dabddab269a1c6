"""Carry out one job: train a node from its starting weights, examine the result, promote it, or a point on the way to it, or say why not.

Used by the loop and by fast_train.py. Does not choose what to train (agenda.py) nor decide on promotion (promote.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from data_prep.corpus import Corpus
from experts.adapters import merged
from experts.checkpoint import has_state
from experts.device import Device, cpu_device
from experts.durable import write_json
from experts.expert import Expert
from experts.moe.recorder import HealthRecorder
from experts.registry import RegistryError
from training.agenda import Job, RootPart, mix_of, root_part
from training.examiner import Examiner, Verdict
from training.interpolation import SHARES, interpolate, settle, weights_of
from training.plan import Mix, Plan, StepFacts, Trained, TrainingDiverged
from training.progress import Reporter
from training.run_folder import Run, recipe_fingerprint
from training.scalars import Scalars
from training.starting import opened, starting_model
from training.threads import ThreadShare
from training.trainer import measure_step_s, train
from training.trainer_state import saved_plan

log = logging.getLogger(__name__)
READINGS = 2.5  # of an expert's own records in a training: up to there dropout won nothing or cost (RESULTS.md, "Against learning by heart")


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a training comes to: the verdict on it, or on a point on the way to it, and that point's share of the way.
    second_look: where a training was walked back in vain, how far, and what came of that."""

    verdict: Verdict
    kept_share: float = 1.0
    second_look: Mapping[str, Any] | None = None


class JobRunner:
    """Trains and offers nodes of one open run."""

    def __init__(self, run: Run, *, device: Device, reporter: Reporter, should_stop: Callable[[], bool]) -> None:
        """should_stop is asked after every step and during a second look; a stopped job keeps its state and goes on next time."""
        self._run, self._device, self._reporter, self._should_stop = run, device, reporter, should_stop
        self._examiner = Examiner(run, device=device)
        self._threads = ThreadShare.of(run.settings.run, device=device)
        self._noted: set[str] = set()

    def carry_out(self, job: Job, *, cycle: int, states: Path, corpus: Corpus) -> tuple[Job, Trained | None]:
        """The job with its status and outcome, and what training found; status stays pending when it was stopped."""
        self._run.journal.append("training_started", node=job.node, cycle=cycle, steps=job.steps, corpus=corpus.fingerprint,
                                 resumed=has_state(states))
        curves = self._run.folder / "tensorboard" / f"{job.node}-{states.name}" if self._run.settings.run.tensorboard else None
        health = HealthRecorder(self._run.journal, node=job.node, settings=self._run.settings.moe)
        with Scalars(curves) as scalars, health:
            return self._carry_out(job, cycle=cycle, states=states, corpus=corpus, scalars=scalars, health=health)

    def _carry_out(self, job: Job, *, cycle: int, states: Path, corpus: Corpus, scalars: Scalars, health: HealthRecorder) -> tuple[Job, Trained | None]:
        begun_with, model = self.begun_with(job.node, states), self.start_model(job.node, corpus)
        about = {"cycle": cycle, "begun_with": begun_with, "corpus": corpus.fingerprint, "recipe": recipe_fingerprint(self._run.settings)}

        def on_step(facts: StepFacts) -> None:
            self._reporter.step(facts)
            scalars.step(facts)
            if facts.routing is not None:
                health.write(facts.routing)
            if self._first_answer_due(job, facts):
                self._offer_first_answer(job, model, facts, about=about, corpus=corpus)

        try:
            trained = train(model, corpus=corpus, mix=self.mix(job.node, corpus), plan=self._plan(job, cycle=cycle, states=states, corpus=corpus),
                            device=self._device, state_folder=states, settings=self._run.settings.train, on_step=on_step, should_stop=self._should_stop,
                            on_validation=scalars.validation, threads=self._threads)
        except TrainingDiverged as error:
            log.warning("%s is set aside for this cycle: %s", job.node, error)
            self._run.journal.append("set_aside", node=job.node, cycle=cycle, reason=str(error))
            self._reporter.note(f"{job.node}: set aside, {error}")
            return replace(job, status="set_aside", outcome=str(error)), None
        if trained.stopped:
            return job, trained
        return self._offer(job, model, trained, about=about, corpus=corpus, scalars=scalars), trained

    def forget(self, versions: Iterable[tuple[str, str]]) -> None:
        """Drop what examinations remember of versions, (node, version) each, that were pruned."""
        self._examiner.forget(versions)

    def level_scores(self, domain: str, version: Path, *, level: int) -> list[float]:
        """Scores of an expert's version on held-out tasks of one curriculum level (Examiner.level_scores)."""
        return self._examiner.level_scores(domain, version, level=level)

    def start_model(self, node: str, corpus: Corpus) -> PreTrainedModel:
        """Weights a job begins with: the node's served version, else the nearest served ancestor's, else model.base or new ones."""
        settings, registry = self._run.settings, self._run.registry
        place = self._run.tree.answering(node, registry.pointer().nodes)
        folder = registry.served(place) if place is not None else None
        return starting_model(settings, folder=folder, tokenizer=corpus.tokenizer, device=self._device, note=self._note_once)

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._reporter.note(text)

    def mix(self, node: str, corpus: Corpus) -> Mix:
        """What a node's training reads (agenda.mix_of). A root that began from new weights has a language to learn, and people's prompts
        hold as much of it as the answers; the curriculum's are phrasings of the project, and cost steps."""
        settings = self._run.settings
        learns = settings.loop.root_learns_prompts and settings.model.base is None
        return mix_of(self._run.tree, node, settings=settings.loop, with_prompts=corpus.of_records if learns else ())

    def step_s(self, node: str, corpus: Corpus) -> float:
        """Seconds a step of this node's training takes here, measured on a few real steps."""
        return measure_step_s(self.start_model(node, corpus), corpus=corpus, mix=self.mix(node, corpus), device=self._device, settings=self._run.settings.train)

    def root_part(self, corpus: Corpus) -> RootPart | None:
        """The root's part of the first cycle (agenda.root_part); None, as set, for one that begins with a pretrained model."""
        settings, root = self._run.settings, self._run.tree.root
        if settings.model.base is not None or not settings.loop.root_reads:
            return None
        weights = sum(param.numel() for param in self.start_model(root, corpus).parameters())
        tokens = settings.train.row_tokens * settings.train.batch_rows * settings.train.accumulate
        steps = settings.loop.steps or max(1.0, settings.loop.minutes * 60 / self.step_s(root, corpus))
        of_records = len(corpus.of_records) / len(self._run.tree.domains)
        return root_part(settings.loop, needed=settings.loop.root_reads * weights / tokens, steps=steps, of_records=of_records)

    def epoch_steps(self, node: str, corpus: Corpus, *, epochs: float) -> int:
        """Steps that read the training tokens of a node's own domains so many times (replayed tokens come on top)."""
        settings = self._run.settings.train
        own = self._run.tree.node(node).domains
        tokens = sum(len(corpus.shard(domain, "train").tokens) for domain in own)
        own_share = sum(share for domain, share in self.mix(node, corpus).shares.items() if domain in own)
        return max(1, round(epochs * tokens / own_share / (settings.row_tokens * settings.batch_rows * settings.accumulate)))

    def _plan(self, job: Job, *, cycle: int, states: Path, corpus: Corpus) -> Plan:
        """How long and how fast the job trains. One of minutes goes on as it began, by whichever version of the program."""
        settings = self._run.settings
        assert job.steps is not None
        begun = saved_plan(states)
        if begun is not None and job.seconds is not None:
            return begun
        founding_root = job.node == self._run.tree.root and job.lr_share == 1.0
        final = settings.loop.root_final_lr_share if founding_root else settings.train.final_lr_share
        train_settings = settings.train.model_copy(update={"final_lr_share": final if job.final_lr_share is None else job.final_lr_share})
        plan = Plan.from_settings(train_settings, steps=job.steps, lr_share=job.lr_share, seed=settings.run.seed * 1_000_003 + cycle, seconds=job.seconds)
        dropout = self._dropout(job, corpus) if begun is None else begun.dropout
        return replace(plan, least_steps=job.least_steps, most_seconds=job.most_seconds, dropout=dropout)

    def _dropout(self, job: Job, corpus: Corpus) -> float | None:
        """loop.leaf_dropout for an expert that may learn its records by heart. A pretrained base stays as it was made, and a routed model may have its own
        (moe.dropout)."""
        settings = self._run.settings
        if settings.model.base is not None or settings.moe.dropout or not self._may_learn_by_heart(job, corpus):
            return None
        return settings.loop.leaf_dropout or None

    def _may_learn_by_heart(self, job: Job, corpus: Corpus) -> bool:
        """Whether an expert reads its records more than READINGS times in a training, after its root and branch did (RESULTS.md). The curriculum's are
        made anew for each cycle."""
        assert job.steps is not None
        return job.node in corpus.of_records and job.steps > self.epoch_steps(job.node, corpus, epochs=READINGS)

    def begun_with(self, node: str, states: Path) -> str | None:
        """"node/version" that a training begins with, None for weights that are no version; kept beside its states, since another may be served at its end.
        None, too, where what was kept is damaged: such a training gets no second look."""
        file = states / "start.json"
        if not has_state(states):
            states.mkdir(parents=True, exist_ok=True)
            write_json(file, {"version": "/".join(self._examiner.incumbent(node) or ())})
        if not file.exists():
            return None
        try:
            version = json.loads(file.read_text(encoding="utf-8"))["version"]
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s: %s): it isn't known with which version the training of %s began", file, type(error).__name__, error, node)
            return None
        return version if isinstance(version, str) and version else None

    def _offer(self, job: Job, model: PreTrainedModel, trained: Trained, *, about: Mapping[str, Any], corpus: Corpus, scalars: Scalars) -> Job:
        expert = Expert(merged(model), corpus.tokenizer, device=self._device)
        offer = self._judge(job, expert, corpus, begun_with=about["begun_with"])
        if offer is None:
            self._reporter.note(f"{job.node}: stopped before its examination ended; that begins anew at the next start, from what was trained")
            return job
        verdict, reason = offer.verdict, offer.verdict.decision.reason
        scalars.exam(verdict.scorecard, step=trained.step)
        facts = {**about, "steps": trained.step, **training_facts(trained, kept_share=offer.kept_share), "kept_share": offer.kept_share}
        looked = {} if offer.second_look is None else {"second_look": offer.second_look}
        if verdict.decision.promote:
            self._promote(job.node, expert, training=facts, verdict=verdict, reason=reason, **looked)
        else:
            self._run.journal.append("refused", node=job.node, reason=reason, training=facts, scorecard=verdict.summary, **looked)
            self._reporter.note(f"{job.node} {reason}")
        self._reporter.samples(verdict.scorecard.samples)  # last: what becomes of the output can't cost what was trained
        return replace(job, status="promoted" if verdict.decision.promote else "refused", outcome=reason)

    def _judge(self, job: Job, expert: Expert, corpus: Corpus, *, begun_with: str | None) -> _Offer | None:
        """The verdict on what was trained; or, where that is refused, held-out answers got dearer by it or records may have been learnt by heart, and a
        point on the way to it is promoted and no worse, the verdict on that, which expert then is. None when stopped between an exam and the end of its
        second look: what was trained is on disk, and from there both are had again, alike."""
        verdict = self._examiner.judge(job.node, expert, corpus)
        looks = not verdict.decision.promote or verdict.dearer or self._may_learn_by_heart(job, corpus)
        start = self._start_of(job.node, begun_with) if looks else None
        if start is None:
            return _Offer(verdict)
        return self._walked_back(job.node, expert, corpus, verdict=verdict, start=start)

    def _walked_back(self, node: str, expert: Expert, corpus: Corpus, *, verdict: Verdict, start: PreTrainedModel) -> _Offer | None:
        """What a second look comes to. A refused training has one try more at the exam, where held-out answers are cheapest; of one that passed the point
        nearest to that is taken which the rules of promotion put in place of its end."""
        passed = verdict.decision.promote
        cost = self._examiner.held_out_cost(node, expert, corpus)
        with self._device.turn():
            end = weights_of(expert.model)
            cheapest = settle(expert.model, start=start, end=end, cost=cost, least_gain=self._run.settings.promote.bits_tolerance,
                              should_stop=self._should_stop)
        if cheapest is None:
            return None
        reason = "held-out answers get no cheaper on the way back" if cheapest else "held-out answers are cheapest where the training began"
        tries = [share for share in sorted(SHARES) if share and cheapest <= share] if passed else [cheapest] if 0 < cheapest < 1 else []
        for share in tries:
            if self._should_stop():
                return None
            with self._device.turn():
                interpolate(expert.model, start=start, end=end, share=share)
            second = self._examiner.judge(node, expert, corpus)
            if second.decision.promote and (not passed or self._examiner.prefers(second, verdict)):
                self._reporter.note(f"{node}: what was trained is {verdict.decision.reason}; {share:.0%} of the way to it does better")
                return _Offer(second, kept_share=share)
            reason = f"{second.decision.reason}; its end answers better" if second.decision.promote else second.decision.reason
            log.info("%s at %.0f %% of the way: %s", node, 100 * share, reason)
        with self._device.turn():
            interpolate(expert.model, start=start, end=end, share=1.0)
        return _Offer(verdict, second_look={"share": cheapest, "reason": reason})

    def _start_of(self, node: str, begun_with: str | None) -> PreTrainedModel | None:
        """The version that a training began with, on the CPU, to walk back towards (interpolation.settle). None for adapters, which move little,
        and where it began with no version, or with one that can't be read any more."""
        settings, registry = self._run.settings, self._run.registry
        if settings.train.lora_rank is not None or begun_with is None:
            return None
        origin, _, version = begun_with.partition("/")
        try:
            registry.verify(origin, version)
            return opened(registry.path(origin, version), settings=settings, device=cpu_device())
        except (RegistryError, OSError) as error:
            log.warning("%s gets no second look: %s, with which its training began, can't be read: %s", node, begun_with, error)
            return None

    def _promote(self, node: str, expert: Expert, *, training: Mapping[str, Any], verdict: Verdict, reason: str, **facts: Any) -> None:
        version = self._run.registry.add(node, expert.save, card={"training": training, **verdict.card})
        self._run.registry.promote({node: version}, reason=reason)
        self._run.journal.append("promoted", node=node, version=version, reason=reason, training=training, scorecard=verdict.summary, **facts)
        self._reporter.note(f"{node} {version} {reason}")

    def _first_answer_due(self, job: Job, facts: StepFacts) -> bool:
        """In the root's first training: whether it is time to put an early version up, so that the gateway answers within minutes."""
        if job.node != self._run.tree.root or facts.train_s < self._run.settings.loop.first_answer_s or facts.step >= facts.steps:
            return False
        return facts.step > self._examiner.first_refused_step and self._run.registry.pointer().nodes.get(job.node) is None

    def _offer_first_answer(self, job: Job, model: PreTrainedModel, facts: StepFacts, *, about: Mapping[str, Any], corpus: Corpus) -> None:
        expert = Expert(merged(model), corpus.tokenizer, device=self._device)
        verdict = self._examiner.judge_first(job.node, expert, corpus, step=facts.step)
        if verdict.decision.promote:
            training = {**about, "step": facts.step, "train_s": facts.train_s}
            reason = f"{verdict.decision.reason} (early, after {facts.step} of {facts.steps} steps)"
            self._promote(job.node, expert, training=training, verdict=verdict, reason=reason)


def training_facts(trained: Trained, *, kept_share: float = 1.0) -> dict[str, Any]:
    """What card and journal keep of a training: sums and the last losses, not every step.

    The losses are of the weights at its end; where those aren't what is offered (kept_share below 1), their names say so.
    """
    of = "" if kept_share == 1.0 else "_at_end"
    return {"tokens": trained.tokens, "train_s": trained.train_s, "tokens_per_s": trained.tokens_per_s, "clipped_share": trained.clipped_share,
            "rollbacks": trained.rollbacks, "precision": trained.precision, "compiled": trained.compiled,
            f"train_loss{of}": trained.losses[-1] if trained.losses else None,
            f"val_loss{of}": trained.validations[-1].val_loss if trained.validations else None}
