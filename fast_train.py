"""Train one node of the family and offer it for promotion, without the rest of the loop; or a model of plain text, by its recipe.

Thin: reads settings, wires, calls. An interrupted training goes on from its last saved state when started again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import settings as configuration
from experts.console import accept_any_text
from settings import Settings
from training.command import require_folders

if TYPE_CHECKING:
    from experts.tree import Tree
    from training.plan import Trained

FAST_CYCLE = 0


def main(arguments: list[str] | None = None) -> int:
    """Command line. Exit code 0 when the node was trained (promoted or refused, with the reason), 2 when it couldn't be."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="fast_train.py", description="train one node and offer it for promotion")
    parser.add_argument("--expert", metavar="NODE", help="node to train, as in math; a recipe for plain text needs none")
    parser.add_argument("--epochs", type=float, metavar="N", help="turns over the node's training records (default: loop.cycle_steps or loop.cycle_minutes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write losses and speed as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the outcome")
    configuration.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    require_folders(parser, {"--json": parsed.json})
    if parsed.epochs is not None and not parsed.epochs > 0:
        parser.error(f"--epochs {parsed.epochs}: more than 0")
    chosen = configuration.from_arguments(parser, parsed)
    plain_text = chosen.data.format == "text"
    if plain_text and (parsed.expert is not None or parsed.epochs is not None):
        parser.error("data.format = \"text\": --expert and --epochs are for records; set the length by loop.cycle_minutes or loop.cycle_steps")
    if not plain_text and parsed.expert is None:
        parser.error("--expert NODE is missing, as in --expert math; or give a recipe for plain text, as in --recipe nexus --data FILE")
    logging.basicConfig(level=chosen.run.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    import torch

    from training.command import repairable
    from training.plan import TrainingDiverged

    if chosen.run.threads is not None:
        torch.set_num_threads(chosen.run.threads)
    try:
        facts = _train_text(chosen, quiet=parsed.quiet) if plain_text else _train(chosen, node=parsed.expert, epochs=parsed.epochs, quiet=parsed.quiet)
        if parsed.json is not None:
            parsed.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except repairable(TrainingDiverged) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def _train(chosen: Settings, *, node: str, epochs: float | None, quiet: bool) -> dict[str, Any]:
    from data_prep import manifest
    from data_prep.corpus import prepare
    from experts import device as devices
    from experts.checkpoint import has_state
    from experts.durable import remove_folder
    from training.agenda import Job
    from training.command import stop_signal
    from training.job import JobRunner
    from training.plan import peak_lr
    from training.progress import Reporter
    from training.run_folder import open_run
    from training.trainer_state import saved_plan

    with stop_signal() as stop, open_run(chosen) as run, Reporter(quiet=quiet) as reporter:
        _require_trainable(node, run.tree)
        device = devices.choose(chosen.run.device)
        devices.seed_everything(chosen.run.seed)
        states = run.folder / "work" / node / "fast"
        training = f"fast {node}"
        corpus = prepare(chosen, run.tree, cycle=FAST_CYCLE, log=reporter.note, resume=has_state(states), training=training)  # else files as they are now
        runner = JobRunner(run, device=device, reporter=reporter, should_stop=stop.is_set)
        begun = saved_plan(states)  # not what is served: that may be an early version of this training
        fresh = begun.lr >= peak_lr(chosen.train) if begun is not None else runner.begun_with(node, states) is None
        steps = runner.epoch_steps(node, corpus, epochs=epochs) if epochs is not None else chosen.loop.cycle_steps
        job = Job(node, 1.0 if fresh else chosen.loop.leaf_lr_share, steps=steps,
                  seconds=None if steps is not None else chosen.loop.cycle_minutes * 60)
        if job.steps is None:
            job = job.with_speed(runner.step_s(node, corpus))
        reporter.node_started(job, share="1/1")
        parameters = sum(weight.numel() for weight in runner.start_model(node, corpus).parameters())
        done, trained = runner.carry_out(job, cycle=FAST_CYCLE, states=states, corpus=corpus)
        if done.status != "pending":
            remove_folder(states)
            manifest.release(run.folder / "data", training)
        return {**report(trained, parameters=parameters), "status": done.status}


def _train_text(chosen: Settings, *, quiet: bool) -> dict[str, Any]:
    from experts import device as devices
    from training.command import stop_signal
    from training.progress import Reporter
    from training.run_folder import open_run
    from training.text_run import train_text

    with stop_signal() as stop, open_run(chosen) as run, Reporter(quiet=quiet) as reporter:
        device = devices.choose(chosen.run.device)
        devices.seed_everything(chosen.run.seed)
        outcome = train_text(run, device=device, reporter=reporter, should_stop=stop.is_set)
        if outcome.sample:
            reporter.note(f"sample of {outcome.version}:\n{outcome.sample}")
        return outcome.to_json()


def _require_trainable(node: str, tree: Tree) -> None:
    from settings import SettingsError

    if node not in tree.trainable:
        why = f"it shares the model of {tree.model_of(node)!r}" if node in tree.nodes else "no such node"
        raise SettingsError(f"--expert {node!r}: {why}; nodes with a model of their own: {', '.join(tree.trainable)}")


def report(trained: Trained | None, *, parameters: int) -> dict[str, Any]:
    """The JSON of this command. train_s leaves out examinations; losses are nats a target token."""
    if trained is None:
        return {"best": None, "history": [], "parameters": parameters, "tokens_per_s": 0.0}
    best = trained.best
    return {"best": {"val_loss": best.val_loss, "step": best.step, "train_s": best.train_s} if best else None,
            "history": [{"step": one.step, "val_loss": one.val_loss, "train_loss": one.train_loss, "train_s": one.train_s, "tokens": one.tokens}
                        for one in trained.validations],
            "parameters": parameters, "tokens_per_s": trained.tokens_per_s}


if __name__ == "__main__":
    sys.exit(main())
