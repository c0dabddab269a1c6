"""The continuous loop: prepare data, carry out the agenda's jobs, fit the router, prune, and begin again.

The agenda is on disk before work begins and after every job, so a loop that was killed goes on where it was. Knows
neither routing nor serving: the composition root passes fit_router in, the gateway watches the registry's pointer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep import curriculum
from data_prep.corpus import Corpus, DataError, keep, prepare
from experts.device import Device
from experts.durable import OutOfSpace, move_aside, remove_folder, write_json
from training import agenda as plans
from training.agenda import Agenda, Job, Standing
from training.job import JobRunner
from training.levels import next_level, wants_exam
from training.progress import Reporter
from training.promote import FEWEST_TASKS
from training.run_folder import Run
from training.scorecard import Scorecard

FIRST_PAUSE_S = 5.0  # after a full disk; doubled each time it is still full
LONGEST_PAUSE_S = 300.0
TRAINING = "loop"  # whose corpus it is, in the data folder's manifest
OFFERS = ("promoted", "refused", "set_aside")


@dataclass(frozen=True, slots=True)
class RouterCandidate:
    """A fitted router on offer. write puts its files into a folder; card goes into card.json."""

    write: Callable[[Path], None]
    card: Mapping[str, Any]
    promote: bool
    reason: str


FitRouter = Callable[[Corpus, Path | None], RouterCandidate | None]


class Loop:
    """Cycles over one open run. Not thread-safe; one loop a run folder (run_folder.open_run holds the lock)."""

    def __init__(self, run: Run, *, device: Device, fit_router: FitRouter | None, reporter: Reporter, should_stop: Callable[[], bool]) -> None:
        """fit_router: (corpus, folder of the served router or None) -> candidate, or None when there is nothing new to fit, or should_stop says yes."""
        self._run, self._device, self._fit_router = run, device, fit_router
        self._reporter, self._should_stop = reporter, should_stop
        self._work = run.folder / "work"
        self._agenda_file = self._work / "agenda.json"
        self._jobs = JobRunner(run, device=device, reporter=reporter, should_stop=should_stop)
        self._agenda: Agenda | None = None
        self._corpus: Corpus | None = None  # of the last cycle

    def run(self, *, cycles: int | None) -> None:
        """Turn cycles until so many have ended (None: for ever) or should_stop() says so. An unfinished cycle is finished first."""
        self._catch_up()
        ended, pause_s = 0, FIRST_PAUSE_S
        while (cycles is None or ended < cycles) and not self._should_stop():
            try:
                if not self._turn():
                    return
            except OutOfSpace as error:
                self._reporter.note(f"{error}; nothing is lost, the loop goes on in {pause_s:.0f} s")
                self._wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                ended, pause_s = ended + 1, FIRST_PAUSE_S

    def _catch_up(self) -> None:
        """Write the event of a served version that has none: the process was killed between the promotion and its entry in the journal."""
        pointer, registry = self._run.registry.pointer(), self._run.registry
        for name in pointer.names:
            version = pointer.version(name)
            assert version is not None
            if any(event.facts.get("version") == version for event in self._run.journal.events(kind="promoted", node=name)):
                continue
            folder = registry.served(name)
            if folder is None or folder.name != version:
                continue  # it was damaged, and what is served in its place has its event
            card = registry.card(name, version)
            reason = next((change.reason for change in reversed(pointer.history) if name in change.changes), "")
            scorecard = {key: value for key, value in card.get("scorecard", {}).items() if key not in {"outcomes", "samples"}}
            self._run.journal.append("promoted", node=name, version=version, reason=reason, training=card.get("training"), scorecard=scorecard)

    def _turn(self) -> bool:
        """One whole cycle, or what is left of it; False when stopped before its end."""
        agenda = self._read_agenda()
        corpus = self._prepare(agenda.cycle if agenda else self._next_cycle(), resume=agenda is not None)
        return self._work_off(agenda or self._open_agenda(), corpus)

    def _prepare(self, cycle: int, *, resume: bool) -> Corpus:
        """The data of a cycle: as it was prepared for one that is resumed, else the files as they are now. A file that somebody changes while the loop
        runs must not end it, and the gateway with it: where the data is refused, the corpus of the last cycle stays. At the start it is refused outright."""
        settings, tree, levels = self._run.settings, self._run.tree, self._levels(before=cycle)
        try:
            self._corpus = prepare(settings, tree, cycle=cycle, log=self._reporter.note, levels=levels, resume=resume, training=TRAINING)
        except DataError as error:
            if self._corpus is None:
                raise
            self._run.journal.append("data_refused", cycle=cycle, reason=str(error))
            self._reporter.note(f"cycle {cycle} goes on with the data of the cycle before, the files as they are now are refused: {error}")
            keep(self._corpus, settings, tree, cycle=cycle, levels=levels, training=TRAINING)
        return self._corpus

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._should_stop():
            time.sleep(0.1)

    def _work_off(self, agenda: Agenda, corpus: Corpus) -> bool:
        """All jobs of a cycle, then its end; False when stopped before."""
        self._agenda = agenda
        self._route(corpus)
        self._share_out(corpus)
        while (job := self._agenda.pending) is not None:
            if self._should_stop():
                return False
            if (hindrance := self._hindrance(job)) is not None:
                self._save(self._agenda.with_next(replace(job, status="refused", outcome=hindrance)))
                continue
            if job.steps is None:
                job = job.with_speed(self._jobs.step_s(job.node, corpus))
                self._save(self._agenda.with_next(job))
            self._reporter.node_started(job, share=f"{self._agenda.jobs.index(job) + 1}/{len(self._agenda.jobs)}")
            states = self._work / job.node / f"cycle{self._agenda.cycle:05d}"
            done, trained = self._jobs.carry_out(job, cycle=self._agenda.cycle, states=states, corpus=corpus)
            if done.status == "pending":
                return False
            self._end_job(done, took_s=trained.train_s if trained is not None else None)
            remove_folder(states)
        return self._end_cycle()

    def _end_job(self, done: Job, *, took_s: float | None) -> None:
        """Keep what became of a job; where a slow root took more than its own, say what the others have left."""
        assert self._agenda is not None
        before, agenda = self._agenda.jobs, self._save(self._agenda.with_done(done, took_s=took_s))
        if (shortened := [job for job, old in zip(agenda.jobs, before, strict=True) if job.status == "pending" and job != old]):
            self._reporter.note(f"{done.node} took {took_s:.0f} s in place of {done.seconds:.0f}, the machine is slower than measured; left: "
                                + ", ".join(f"{job.node} {job.size}" for job in shortened))

    def _hindrance(self, job: Job) -> str | None:
        """Why a job can't be carried out, None when it can."""
        if job.node not in self._run.tree.trainable:
            return "it left the tree, or lost its own model, while the loop stood still"
        if job.node != self._run.tree.root and self._run.registry.served(self._run.tree.root) is None:
            return f"waits for a first version of {self._run.tree.root}"
        return None

    def _end_cycle(self) -> bool:
        """False when stopped before its end, which is then made again."""
        assert self._agenda is not None
        if not self._raise_levels(self._agenda):
            return False
        removed = self._run.registry.prune(self._run.settings.registry.keep)
        self._jobs.forget(removed)
        self._run.journal.append("cycle_ended", cycle=self._agenda.cycle, pruned=[list(pair) for pair in removed],
                                 jobs=[{"node": job.node, "status": job.status} for job in self._agenda.jobs])
        self._reporter.note(f"cycle {self._agenda.cycle} ended: " + ", ".join(f"{job.node} {job.status}" for job in self._agenda.jobs))
        self._close(self._agenda)
        return True

    def _close(self, agenda: Agenda) -> None:
        self._remove_states(agenda.cycle)  # a loop killed between closing a job and removing its states
        self._agenda_file.unlink()
        self._agenda = None

    def _remove_states(self, cycle: int) -> None:
        for left in self._work.glob(f"*/cycle{cycle:05d}"):
            remove_folder(left)

    def _levels(self, *, before: int) -> dict[str, int]:
        """Curriculum levels that cycles before that one raised above data.curriculum_level, by domain: one that is stopped at its end keeps its data."""
        raised = self._run.journal.events(kind="level_raised")
        return {str(event.node): int(event.facts["level"]) for event in raised if event.facts["cycle"] < before}

    def _raise_levels(self, agenda: Agenda) -> bool:
        """Move the promoted experts' domains on to their next curriculum level where they passed the present one; where their exam didn't ask enough of
        that, they are asked now. False when stopped before all were looked at."""
        tree, registry, settings = self._run.tree, self._run.registry, self._run.settings
        assert self._corpus is not None
        taught = {job.node for job in agenda.jobs if job.status == "promoted"} & set(tree.domains) & set(curriculum.domains()) - self._corpus.of_records
        # Killed in between, the loop comes here twice in a cycle: one exam raises a level once.
        taught -= {event.node for event in self._run.journal.events(kind="level_raised") if event.facts["cycle"] == agenda.cycle}
        levels = self._levels(before=agenda.cycle)
        for domain in (domain for domain in tree.domains if domain in taught):
            if self._should_stop():
                return False
            level = levels.get(domain, settings.data.curriculum_level)
            folder = registry.served(domain)
            if folder is None:  # damaged since
                continue
            scores, highest = Scorecard.from_json(registry.card(domain, folder.name)["scorecard"]).level_scores(domain), max(curriculum.levels(domain))
            if wants_exam(scores, level=level, highest=highest, settings=settings.loop):
                scores[level] = self._jobs.level_scores(domain, folder, level=level)
            raised = next_level(scores, level=level, highest=highest, settings=settings.loop)
            if raised > level:
                passed = scores[level]
                self._run.journal.append("level_raised", node=domain, level=raised, cycle=agenda.cycle, tasks=len(passed), accuracy=sum(passed) / len(passed))
                self._reporter.note(f"{domain}: level {raised} from the next cycle on")
        return True

    def _route(self, corpus: Corpus) -> None:
        """Fit and offer the router, once a cycle and before its training: then the loop itself is at its smallest."""
        assert self._agenda is not None
        if self._agenda.router_done or self._fit_router is None:
            return
        registry = self._run.registry
        candidate = self._fit_router(corpus, registry.served("router"))
        if candidate is None and self._should_stop():
            return  # the fit was given up, and is made again when the cycle goes on
        if candidate is not None and candidate.promote:
            version = registry.add("router", candidate.write, card={**candidate.card, "corpus": corpus.fingerprint})
            registry.promote({"router": version}, reason=candidate.reason)
            self._run.journal.append("promoted", node="router", version=version, reason=candidate.reason)
            self._reporter.note(f"router {version} promoted: {candidate.reason}")
        elif candidate is not None:
            self._run.journal.append("refused", node="router", reason=candidate.reason)
            self._reporter.note(f"router refused: {candidate.reason}")
        self._save(replace(self._agenda, router_done=True))

    def _share_out(self, corpus: Corpus) -> None:
        """Let the root of a founding cycle grow as far as it needs; after the router's fit, since it takes a model to measure its speed."""
        assert self._agenda is not None
        if not self._to_share(self._agenda) or self._should_stop():
            return
        part = self._jobs.root_part(corpus)
        agenda = self._save(self._agenda.with_root_part(part, tree=self._run.tree, settings=self._run.settings.loop))
        self._reporter.note(f"cycle {agenda.cycle}: {agenda.sizes}")

    def _to_share(self, agenda: Agenda) -> bool:
        """Whether the agenda is a founding cycle's of which nothing has begun."""
        first = agenda.jobs[0]
        founding = first.node == self._run.tree.root and first.lr_share == 1.0 and len(agenda.jobs) > 1
        return founding and first.status == "pending" and not agenda.shared_out

    def _open_agenda(self) -> Agenda:
        settings, tree = self._run.settings.loop, self._run.tree
        served = [name for name in tree.trainable if self._run.registry.served(name) is not None]  # a damaged version is replaced or trained anew
        if tree.root not in served:
            jobs = plans.founding(tree, settings=settings)
        elif any(name not in served for name in tree.trainable):
            jobs = plans.newcomers(tree, served, settings=settings)
        else:
            jobs = (plans.most_to_gain(self._standings(), settings=settings),)
        agenda = Agenda(cycle=self._next_cycle(), jobs=jobs)
        if not self._to_share(agenda):  # else _share_out says it, when it knows
            self._reporter.note(f"cycle {agenda.cycle}: {agenda.sizes}")
        return self._save(agenda)

    def _standings(self) -> list[Standing]:
        """Facts of every trainable node for agenda.most_to_gain: its served card, and refusals since its promotion."""
        registry, tree = self._run.registry, self._run.tree
        scores = {name: Scorecard.from_json(registry.card(name, registry.pointer().nodes[name])["scorecard"]) for name in tree.trainable}
        mean = sum(score.mean_bits_per_byte for score in scores.values()) / len(scores)
        standings = []
        for name, score in scores.items():
            events = {kind: self._run.journal.events(kind=kind, node=name) for kind in (*OFFERS, "training_started")}  # not every reading of a router, too
            offers = [event.kind for event in sorted((event for kind in OFFERS for event in events[kind]), key=lambda event: event.id)]
            last_promotion = max((index for index, kind in enumerate(offers) if kind == "promoted"), default=-1)
            last_cycle = max((int(event.facts["cycle"]) for event in events["training_started"]), default=0)
            standings.append(Standing(name, score.accuracy_of(at_least=FEWEST_TASKS), score.mean_bits_per_byte / mean,
                                      refusals=len(offers) - 1 - last_promotion, cycles_since=max(0, self._next_cycle() - 1 - last_cycle),
                                      inner=name not in tree.domains))
        return standings

    def _next_cycle(self) -> int:
        ended = self._run.journal.events(kind="cycle_ended")
        return 1 + int(ended[-1].facts["cycle"]) if ended else 0

    def _read_agenda(self) -> Agenda | None:
        if not self._agenda_file.exists():
            return None
        try:
            agenda = Agenda.from_json(json.loads(self._agenda_file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            aside = move_aside(self._agenda_file, "damaged")
            self._reporter.note(f"{self._agenda_file} is damaged ({type(error).__name__}: {error}), and set aside as {aside.name}; "
                                f"cycle {self._next_cycle()} begins anew, what was promoted in it stays")
            self._remove_states(self._next_cycle())  # of jobs that nobody knows any more
            return None
        if agenda.cycle < self._next_cycle():  # killed between the journal's entry of its end and the file's removal
            self._close(agenda)
            return None
        return agenda

    def _save(self, agenda: Agenda) -> Agenda:
        self._work.mkdir(parents=True, exist_ok=True)
        write_json(self._agenda_file, agenda.to_json())
        self._agenda = agenda
        return agenda
