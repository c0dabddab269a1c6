"""python -m benchmarks sweep: learning rates and optimizers of a recipe, the root trained for the same steps from the same start.

Gives validation loss and seconds of each variant, and how soon a variant reached the loss that the first one ended with.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import torch

import settings as configuration
from benchmarks.measuring import Figure
from data_prep.corpus import Corpus, prepare
from experts import architectures, tokenizer
from experts.device import choose
from experts.tree import Tree
from settings import Settings, TrainSettings
from training.plan import Mix, Plan, Trained
from training.trainer import train

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    configuration.add_arguments(parser)
    parser.add_argument("--steps", type=int, default=400, help="steps of each variant (default 400)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each variant (default 1)")
    parser.add_argument("--variant", action="append", default=[], metavar="KEY=VALUE,...", dest="variants",
                        help="train settings of one variant, as in optimizer=adamw,lr=2e-3; may be given often; an empty one is the recipe itself")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """Train every variant with every seed."""
    settings = configuration.from_arguments(parser, arguments)
    torch.set_num_threads(settings.run.threads or torch.get_num_threads())
    tree = Tree.from_settings(settings.tree)
    corpus = prepare(settings, tree, cycle=1, log=_log.info)
    figures = []
    for seed in range(arguments.seeds):
        target: float | None = None
        for variant in arguments.variants or [""]:
            trained = _train(settings, corpus, tree, train_settings=_variant(settings, variant), steps=arguments.steps, seed=seed)
            assert trained.best is not None
            last = trained.validations[-1]
            target = last.val_loss if target is None else target
            reached = next((one.train_s for one in trained.validations if one.val_loss <= target), None)
            _log.info("seed %d %s: %s", seed, variant or "recipe", "  ".join(f"{one.step}:{one.val_loss:.4f}" for one in trained.validations))
            name = f"{variant or 'recipe'}, seed {seed}, {arguments.steps} steps"
            figures += [Figure(f"{name}: validation loss", "nats/token", last.val_loss), Figure(f"{name}: training time", "s", trained.train_s),
                        Figure(f"{name}: clipped steps", "share", trained.clipped_share)]
            if reached is not None:
                figures.append(Figure(f"{name}: time to the loss of the first variant", "s", reached))
    return figures


def _variant(settings: Settings, text: str) -> TrainSettings:
    """Train settings with the changes of one --variant, checked like any other."""
    changes = [f"train.{change}" for change in text.split(",") if change]
    tables = settings.model_dump()
    for change in changes:
        key, _, value = change.partition("=")
        kind = type(tables["train"][key.removeprefix("train.")])
        tables["train"][key.removeprefix("train.")] = kind(value)
    return configuration.check(tables).train


def _train(settings: Settings, corpus: Corpus, tree: Tree, *, train_settings: TrainSettings, steps: int, seed: int) -> Trained:
    model = architectures.build(settings.model, vocab_size=len(corpus.tokenizer), end_id=tokenizer.end_id(corpus.tokenizer),
                                pad_id=tokenizer.pad_id(corpus.tokenizer), seed=seed)
    watched = train_settings.model_copy(update={"validate_every_steps": max(1, steps // 20), "checkpoint_every_s": 1e9})
    with tempfile.TemporaryDirectory() as folder:
        return train(model, corpus=corpus, mix=Mix(dict.fromkeys(tree.domains, 1.0)), plan=Plan.from_settings(watched, steps=steps, seed=seed),
                     device=choose(settings.run.device), state_folder=Path(folder), settings=watched, on_step=lambda _: None, should_stop=lambda: False)
