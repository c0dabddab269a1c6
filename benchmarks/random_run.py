"""A run folder with random models of a chosen size for every node, for benchmarks and tests of the gateway.

Everything goes through the real tokenizer, architectures, registry and router. Says nothing about quality.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from experts import architectures, tokenizer
from experts.device import cpu_device
from experts.expert import Expert
from experts.registry import Registry
from experts.tokenizer import Tokenizer
from experts.tree import Tree
from routing.fit import fit
from routing.rows import Row
from settings import ModelSettings, Settings, TokenizerSettings

LINES = (
    "What is 17 + 25? The sum is 42.", "A train leaves at 9:30 and arrives at 11:15.", "def add(a, b): return a + b",
    "All cats are animals. Tom is a cat. So Tom is an animal.", "Hello, how are you today? I am fine, thank you.",
    "Paris is the capital of France.", "for number in range(10): print(number)", "Water boils at 100 degrees Celsius.",
)
PROMPTS = {
    "math": ("What is {n} + {m}?", "Multiply {n} by {m}.", "Solve x + {n} = {m}.", "What is {n} percent of {m}?"),
    "reasoning": ("All A{n} are B{m}. Is every A{n} a B{m}?", "Tom is older than Ann {n}, Ann is older than Bob {m}. Who is oldest?",
                  "If it rains for {n} days, then what follows on day {m}?"),
    "conversation": ("Hello, how are you today {n}?", "I feel sad, can we talk for {n} minutes?", "Good morning! Any plans for the {m} days ahead?"),
    "knowledge": ("What is the capital of country {n}?", "Who wrote the book number {m}?", "Which planet is number {n} from the sun?"),
    "code": ("def f{n}(x): return x + {m}  # complete this Python function", "Write a Python function that sorts a list of {n} numbers.",
             "Fix the bug: for i in range({m}): print(i"),
}
OUTSIDE = ("zxqv wprt {n} kjhg", "lorem ipsum dolor sit amet {n}", "das ist ein deutscher Satz mit {n}", "qwerty {m} asdf")


def train_tokenizer(settings: TokenizerSettings) -> Tokenizer:
    """A tokenizer of a few lines, for models that were never trained."""
    return tokenizer.train(LINES * 4, settings=settings)


def add_node(registry: Registry, name: str, tokens: Tokenizer, *, model: ModelSettings, seed: int, circles: bool = False) -> str:
    """Keep a random model as a new version of a node; returns the version, which is not yet in force."""
    built = architectures.build(model, vocab_size=len(tokens), end_id=tokenizer.end_id(tokens), pad_id=tokenizer.pad_id(tokens), seed=seed)
    return registry.add(name, Expert(built, tokens, device=cpu_device()).save, card={"made": "random", "circles": circles})


def add_router(registry: Registry, tree: Tree, settings: Settings, *, rows: Iterable[Row]) -> str:
    """Keep a router fitted on rows as a new version; returns the version, which is not yet in force."""
    fitted = fit(list(rows), tree=tree, settings=settings.router, seed=0)
    return registry.add("router", fitted.router.save, card={"made": "random"})


def prompt_rows(tree: Tree, *, each: int = 60) -> list[Row]:
    """Prompts of simple patterns for the domains that have some, and rows of none."""
    rows = [Row(prompts[at % len(prompts)].format(n=at, m=at * 7 % 50), domain, f"pattern{at % len(prompts)}")
            for domain, prompts in PROMPTS.items() if domain in tree.domains for at in range(each)]
    return rows + [Row(OUTSIDE[at % len(OUTSIDE)].format(n=at, m=at * 3), "ood", "outside") for at in range(each)]


def make_run(settings: Settings, *, nodes: Sequence[str] | None = None, with_router: bool = True, circles: Collection[str] = ()) -> Registry:
    """Fill settings.run.dir: a promoted random version of every named node (None: all with a model of their own) and a router.

    circles: nodes whose card says that their plain answers go in circles.
    """
    tree, registry = Tree.from_settings(settings.tree), Registry(Path(settings.run.dir))
    tokens = train_tokenizer(settings.tokenizer)
    names = tree.trainable if nodes is None else nodes
    versions = {name: add_node(registry, name, tokens, model=settings.model, seed=seed, circles=name in circles) for seed, name in enumerate(names)}
    if with_router:
        versions["router"] = add_router(registry, tree, settings, rows=prompt_rows(tree))
    registry.promote(versions, reason="a run for benchmarks and tests")
    return registry
