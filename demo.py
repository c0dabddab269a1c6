"""Answer one prompt, or chat in the terminal, with the run's promoted family, and show which node answered and why.

Uses the models directly, one prompt at a time; the gateway (python -m serving) does the same over HTTP for many.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import settings as configuration
from experts.console import accept_any_text, plain_console
from settings import DecodingSettings, Settings

if TYPE_CHECKING:
    from data_prep.records import Message
    from experts.expert import Answer, Expert
    from routing.router import Route

log = logging.getLogger(__name__)


class Family:
    """The promoted nodes and router of one run; a node's model is loaded when it first answers."""

    def __init__(self, chosen: Settings) -> None:
        """A promoted router that can't be used, as one of another tree, is said once; the root answers in its place. Raises RegistryError when the
        run's pointer can't be read."""
        from experts import device as devices
        from experts.registry import Registry
        from experts.tree import Tree
        from routing.router import Router
        from routing.store import DamagedRouter

        self._tree = Tree.from_settings(chosen.tree)
        self._registry = Registry(Path(chosen.run.dir))
        self._device = devices.choose(chosen.run.device)
        self._decoding = chosen.decoding
        self._router: Router | None = None
        self.unrouted = "no router yet"
        served = self._registry.served("router")
        try:
            self._router = Router.load(served, self._tree) if served is not None else None
        except DamagedRouter as error:
            self.unrouted = "the router can't be used"
            log.warning("the router can't be used, %s answers: %s", self._tree.root, error)
        self._experts: dict[str, tuple[Expert, DecodingSettings | None]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing has been promoted yet."""
        return not self._registry.pointer().nodes

    def answer(self, messages: list[Message], *, max_new_tokens: int) -> tuple[str, Route | None, Answer]:
        """The node that answered, the route (None without a router), and the answer. Raises CommandFailed when no node up to the root has a whole version."""
        route = self._router.route(messages) if self._router is not None else None
        wanted = route.node if route is not None else self._tree.root
        node, (expert, rule) = self._answering(wanted)
        return node, route, expert.generate([messages], max_new_tokens=max_new_tokens, repetition=rule)[0]

    def _answering(self, wanted: str) -> tuple[str, tuple[Expert, DecodingSettings | None]]:
        """The nearest node from wanted up whose version is whole; one whose only version is damaged has none."""
        from training.command import CommandFailed

        available = set(self._registry.pointer().nodes)
        while (node := self._tree.answering(wanted, available)) is not None:
            if (found := self._expert(node)) is not None:
                return node, found
            available.discard(node)
        raise CommandFailed(f"nothing whole is promoted that could answer for {wanted}; run python continuous_loop.py, which trains it anew")

    def _expert(self, node: str) -> tuple[Expert, DecodingSettings | None] | None:
        from experts.expert import Expert
        from experts.repetition import rule_for

        if node not in self._experts:
            folder = self._registry.served(node)
            if folder is None:
                return None
            rule = rule_for(self._decoding, circles=bool(self._registry.card(node, folder.name).get("circles")))
            self._experts[node] = Expert.load(folder, device=self._device), rule
        return self._experts[node]


def main(arguments: list[str] | None = None) -> int:
    """Command line. Exit code 0, or 2 when nothing has been trained yet."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="demo.py", description="ask the trained family, and see which node answers")
    parser.add_argument("prompt", nargs="?", help="what to ask; leave it out for a chat")
    parser.add_argument("--max-new-tokens", type=int, default=192, metavar="N", help="longest answer (default 192)")
    configuration.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    chosen = configuration.from_arguments(parser, parsed)
    logging.basicConfig(level="WARNING", stream=sys.stderr)

    from training.command import repairable

    try:
        family = Family(chosen)
        if family.empty:
            parser.exit(2, f"{parser.prog}: nothing is trained in {chosen.run.dir} yet; run python continuous_loop.py first, or give --run DIR\n")
        if parsed.prompt is not None:
            _show(family, [{"role": "user", "content": parsed.prompt}], max_new_tokens=parsed.max_new_tokens)
        else:
            _chat(family, max_new_tokens=parsed.max_new_tokens)
    except repairable() as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def _show(family: Family, messages: list[Message], *, max_new_tokens: int) -> str:
    node, route, answer = family.answer(messages, max_new_tokens=max_new_tokens)
    console = plain_console()
    confidence = f"{route.confidence:.0%} sure, {route.reason}" if route is not None else family.unrouted
    console.print(f"[{node}; {confidence}]", style="dim")
    console.print(answer.text)
    return answer.text


def _chat(family: Family, *, max_new_tokens: int) -> None:
    plain_console().print("Type a prompt; an empty line starts a new conversation, Ctrl-D (Ctrl-Z on Windows) ends.", style="dim")
    messages: list[Message] = []
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not prompt:
            messages = []
            continue
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": _show(family, messages, max_new_tokens=max_new_tokens)})


if __name__ == "__main__":
    sys.exit(main())
