"""python -m benchmarks sweep: learning rates and optimizers of a recipe, the root trained for the same steps from the same start.

Gives validation loss and seconds of each variant, and how soon a variant reached the loss that the first one ended with. Seconds
are of work on the CPU (all threads), steps only: other programs on the machine don't lengthen them. On an accelerator they are of the clock.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import settings as configuration
from benchmarks.measuring import Figure
from data_prep.corpus import Corpus, open_corpus, prepare
from experts import architectures, tokenizer
from experts.device import choose
from experts.tree import Tree
from settings import Settings, TrainSettings
from training.agenda import mix_of
from training.plan import Plan, StepFacts, Trained, Validation
from training.trainer import train

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    configuration.add_arguments(parser)
    parser.add_argument("--prepared", action="store_true", help="take the data that the run folder (--run) holds as it is")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="seed of the first (default 0)")
    parser.add_argument("--steps", type=int, default=400, help="steps of each variant (default 400)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each variant (default 1)")
    parser.add_argument("--variant", action="append", default=[], metavar="KEY=VALUE,...", dest="variants",
                        help="train settings of one variant, as in optimizer=adamw,lr=2e-3; may be given often; an empty one is the recipe itself")


def measure(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Figure]:
    """Train every variant with every seed."""
    settings = configuration.from_arguments(parser, arguments)
    torch.set_num_threads(settings.run.threads or torch.get_num_threads())
    tree = Tree.from_settings(settings.tree)
    corpus = open_corpus(settings, tree) if arguments.prepared else prepare(settings, tree, cycle=1, log=_log.info)
    figures = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        first: _Found | None = None
        for variant in arguments.variants or [""]:
            found = _train(settings, corpus, tree, train_settings=_variant(settings, variant), steps=arguments.steps, seed=seed)
            first = first or found
            _log.info("seed %d %s: %.1f s, clipped %.0f %%: %s", seed, variant or "recipe", found.seconds, 100 * found.trained.clipped_share,
                      "  ".join(f"{step}:{loss:.4f}" for step, loss, _ in found.points))
            name = f"{variant or 'recipe'}, seed {seed}, {arguments.steps} steps"
            figures += [Figure(f"{name}: validation loss", "nats/token", found.loss, first.loss, "the first variant"),
                        Figure(f"{name}: training time", "s", found.seconds, first.seconds, "the first variant", found.seconds / first.seconds),
                        Figure(f"{name}: clipped steps", "share", found.trained.clipped_share)]
            reached = found.reached(first.loss)
            if reached is not None:
                figures.append(Figure(f"{name}: time to the loss of the first variant", "s", reached, first.seconds, "the first variant",
                                      reached / first.seconds))
    return figures


@dataclass(slots=True)
class _Found:
    """One training. points: (step, validation loss, seconds of the steps until then)."""

    trained: Trained
    points: list[tuple[int, float, float]]

    @property
    def loss(self) -> float:
        """Validation loss at the end."""
        return self.points[-1][1]

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.points[-1][2]

    def reached(self, loss: float) -> float | None:
        """Seconds until the validation loss was as low, on a straight line between two validations; None when it never was."""
        before: tuple[float, float] | None = None
        for _, value, seconds in self.points:
            if value <= loss:
                return seconds if before is None else before[1] + (seconds - before[1]) * (before[0] - loss) / (before[0] - value)
            before = value, seconds
        return None


@dataclass(slots=True)
class _Watch:
    """Sums up the work of steps, without that of validations between them."""

    clock: Callable[[], float]
    began: float = 0.0
    seconds: float = 0.0
    points: list[tuple[int, float, float]] = field(default_factory=list)

    def start(self) -> bool:
        """Called before every step, as should_stop: never stops."""
        self.began = self.clock()
        return False

    def step(self, _: StepFacts) -> None:
        """A step has ended."""
        self.seconds += self.clock() - self.began

    def validation(self, found: Validation) -> None:
        """A validation has ended."""
        self.points.append((found.step, found.val_loss, self.seconds))


def _variant(settings: Settings, text: str) -> TrainSettings:
    """Train settings with the changes of one --variant, checked like any other."""
    return configuration.changed(settings, [f"train.{change}" for change in text.split(",") if change]).train


def _train(settings: Settings, corpus: Corpus, tree: Tree, *, train_settings: TrainSettings, steps: int, seed: int) -> _Found:
    model = architectures.build(settings.model, vocab_size=len(corpus.tokenizer), end_id=tokenizer.end_id(corpus.tokenizer),
                                pad_id=tokenizer.pad_id(corpus.tokenizer), seed=seed)
    watched = train_settings.model_copy(update={"validate_every_steps": max(1, steps // 20), "checkpoint_every_s": 1e9})
    device = choose(settings.run.device)
    mix = mix_of(tree, tree.root, settings=settings.loop, with_prompts=corpus.of_records if settings.loop.root_learns_prompts else ())
    watch = _Watch(time.process_time if device.torch.type == "cpu" else time.perf_counter)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(model, corpus=corpus, mix=mix, plan=Plan.from_settings(watched, steps=steps, seed=seed),
                        device=device, state_folder=Path(folder), settings=watched, on_step=watch.step, should_stop=watch.start, on_validation=watch.validation)
    return _Found(trained, watch.points)
