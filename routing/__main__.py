"""python -m routing fit|evaluate|explain: fit a router on the run's prepared prompts, judge the served one, explain a decision.

Wires the rooms for its command: rows come from the run's corpus and, for breadth, from the curriculum. Decides nothing itself.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import settings
from experts.console import accept_any_text, plain_console

if TYPE_CHECKING:
    from experts.journal import Journal
    from experts.registry import Registry
    from experts.tree import Tree
    from routing.baselines import Neighbours
    from routing.explain import Explanation
    from routing.offer import Offer
    from routing.oracle import Graded
    from routing.router import Router
    from routing.rows import Row

MOST_NEIGHBOURS = 3000  # prompts a domain for the nearest-neighbour baseline
TIMED = 1000  # single decisions whose latency a fit reports


class CommandError(ValueError):
    """The command can't go on. The message says what was found and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 when it can't be done, with the reason."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="python -m routing", description="Fit, judge and explain the router.")
    commands = parser.add_subparsers(dest="action", required=True)
    fit_parser = commands.add_parser("fit", help="fit a router on the run's prompts and promote it unless it is worse than the served one")
    fit_parser.add_argument("--force", action="store_true", help="promote it even when it is worse than the served one on the held-out prompts")
    judge = commands.add_parser("evaluate", help="judge the served router on labelled prompts")
    judge.add_argument("--prompts", type=Path, required=True, metavar="FILE",
                       help='JSON lines of {"prompt", "label"}, may be gzipped; a label is a domain or "ood"; with "grades" {node: 0 to 1}, as '
                            "test_all_experts.py --grades writes them, regret is reported too")
    judge.add_argument("--pictures", type=Path, metavar="DIR", help="draw confusion matrix, reliability diagram and risk-coverage as PNG into DIR")
    explain_parser = commands.add_parser("explain", help="say where a prompt goes and why")
    explain_parser.add_argument("prompt")
    for command in (fit_parser, judge, explain_parser):
        command.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
        settings.add_arguments(command)
    parsed = parser.parse_args(arguments)
    chosen = settings.from_arguments(parser, parsed)
    logging.basicConfig(level=chosen.run.log_level, format="%(message)s", stream=sys.stderr)
    return _run(chosen, parsed)


def _run(chosen: settings.Settings, parsed: argparse.Namespace) -> int:
    from experts.durable import NotWritable, OutOfSpace, write_text
    from experts.journal import JournalError
    from experts.registry import RegistryError
    from experts.run_lock import RunLocked
    from experts.tree import Tree

    try:
        tree = Tree.from_settings(chosen.tree)
        if parsed.action == "fit":
            result = _fit(chosen, tree, force=parsed.force)
        elif parsed.action == "evaluate":
            result = _evaluate(chosen, tree, parsed.prompts, pictures=parsed.pictures)
        else:
            result = _explain(_served(chosen, tree), parsed.prompt)
        if parsed.json is not None:
            write_text(parsed.json, json.dumps(result, indent=1) + "\n")
    except (JournalError, NotWritable, OutOfSpace, RegistryError, RunLocked, ValueError) as error:  # ValueError: settings, records, rows, router files
        sys.stderr.write(f"routing: {error}\n")
        return 2
    return 0


def _served(chosen: settings.Settings, tree: Tree) -> Router:
    from experts.registry import Registry
    from routing.router import Router

    folder = Registry(Path(chosen.run.dir)).served("router") if Path(chosen.run.dir).is_dir() else None
    if folder is None:
        raise CommandError(f"no router in {chosen.run.dir}; fit one: python -m routing fit --run {chosen.run.dir}")
    return Router.load(folder, tree)


def _fit(chosen: settings.Settings, tree: Tree, *, force: bool) -> dict[str, Any]:
    """Fit, judge beside the served router as the loop does, keep and promote unless refused. version: None for a refused one, which isn't kept."""
    from data_prep.corpus import last_cycle, last_levels, prepare
    from data_prep.prompts import corpus_prompts, prompts_to_fit
    from experts.journal import Journal
    from experts.registry import Registry
    from experts.run_lock import RunLock
    from routing.feedback import feedback_rows
    from routing.offer import make_offer, settings_fingerprint
    from routing.rows import FEEDBACK, Row

    errors = plain_console(stderr=True)
    folder = Path(chosen.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        corpus = prepare(chosen, tree, cycle=last_cycle(folder / "data") or 0, log=errors.print, levels=last_levels(folder / "data"), allow_overlap=True)
        with Journal(folder / "journal.db", read_only=True) as journal:
            said = journal.events(kind=FEEDBACK)
        rows = [Row(*prompt) for prompt in prompts_to_fit(corpus, tree, router=chosen.router, seed=chosen.run.seed)]
        rows += feedback_rows([event.facts for event in said], tree=tree, settings=chosen.router)
        held_out = [Row(*prompt) for prompt in corpus_prompts(corpus, tree, "validation")]
        registry = Registry(folder)
        offer = make_offer(rows, held_out=held_out, tree=tree, settings=chosen.router, seed=chosen.run.seed, served=registry.served("router"), timed=TIMED)
        card = {"report": offer.fitted.report, "accuracy": offer.evaluation.accuracy, "corpus": corpus.fingerprint, "feedback": said[-1].id if said else 0,
                "settings": settings_fingerprint(chosen.router, seed=chosen.run.seed)}
        with Journal(folder / "journal.db") as journal:
            version, outcome = _promote_or_refuse(offer, registry, journal, card=card, force=force)
    errors.print(f"{outcome}; fitted on {offer.fitted.report['fitted_texts']} prompts in {offer.fitted.report['fit_s']} s")
    return {"version": version, "promoted": version is not None, "reason": outcome, "report": offer.fitted.report,
            "validation": offer.evaluation.to_json(), "served_accuracy": offer.before}


def _promote_or_refuse(offer: Offer, registry: Registry, journal: Journal, *, card: Mapping[str, Any], force: bool) -> tuple[str | None, str]:
    """The promoted version (None: refused) and a sentence on what was decided, which the journal gets as the loop writes it."""
    verdict = offer.verdict
    if not (verdict.promote or force):
        journal.append("refused", node="router", reason=verdict.reason)
        return None, f"router refused: {verdict.reason}; the served one stays (--force promotes all the same)"
    reason = verdict.reason if verdict.promote else f"{verdict.reason}, forced"
    version = registry.add("router", offer.fitted.router.save, card=card)
    registry.promote({"router": version}, reason=reason)
    journal.append("promoted", node="router", version=version, reason=reason)
    return version, f"router {version} promoted: {reason}"


def _evaluate(chosen: settings.Settings, tree: Tree, file: Path, *, pictures: Path | None) -> dict[str, Any]:
    from routing.baselines import baselines
    from routing.evaluate import evaluate
    from routing.oracle import regret

    router, (rows, graded) = _served(chosen, tree), read_labelled(file)
    near = _neighbours(chosen, tree, router)
    judged = evaluate(router, rows)
    result = {**judged.to_json(), "baselines": baselines(router, rows, near=near)}
    if graded:
        result["oracle"] = regret(router, graded, near=near).to_json()
    if pictures is not None:
        from routing.pictures import draw

        draw(judged, pictures)
    shown = {key: value for key, value in result.items() if key not in ("confusion", "risk_coverage", "reliability")}
    plain_console().print_json(json.dumps(shown))
    return result


def _neighbours(chosen: settings.Settings, tree: Tree, router: Router) -> Neighbours | None:
    """Nearest neighbours among the prompts that the run's corpus trains on; None for a run without a prepared corpus."""
    from data_prep.corpus import DataError, open_corpus
    from data_prep.prompts import corpus_prompts
    from routing.baselines import neighbours
    from routing.rows import Row

    try:
        prompts = corpus_prompts(open_corpus(chosen, tree), tree, "train", most=MOST_NEIGHBOURS)
    except DataError as error:
        logging.getLogger(__name__).warning("no nearest neighbours to compare with: %s", error)
        return None
    return neighbours(router, [Row(*prompt) for prompt in prompts], seed=chosen.run.seed)


def read_labelled(file: Path) -> tuple[list[Row], list[Graded]]:
    """Rows of a file of JSON lines {"prompt", "label"}, may be gzipped, and those with "grades". Raises CommandError that names the line."""
    from routing.oracle import Graded
    from routing.rows import Row

    rows, graded = [], []
    try:
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise CommandError(f"{file} can't be read: {error}; give JSON lines in UTF-8, .gz when they are gzipped") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise CommandError(f"{file}:{number} is no JSON: {error}") from None
        if not (isinstance(found, dict) and isinstance(found.get("prompt"), str) and isinstance(found.get("label"), str)):
            raise CommandError(f'{file}:{number} needs "prompt" and "label", both texts; found {line[:80]!r}')
        rows.append(Row(found["prompt"], found["label"], str(found.get("source", file.name))))
        if "grades" in found:
            graded.append(Graded(found["prompt"], _grades(found["grades"], place=f"{file}:{number}"), found["label"]))
    return rows, graded


def _grades(found: object, *, place: str) -> dict[str, float]:
    if not isinstance(found, dict) or not found or not all(isinstance(grade, int | float) and 0 <= grade <= 1 for grade in found.values()):
        raise CommandError(f'{place}: "grades" must name nodes and their grades from 0 to 1, as {{"math": 1.0, "generalist": 0.0}}')
    return {str(node): float(grade) for node, grade in found.items()}


def _explain(router: Router, prompt: str) -> dict[str, Any]:
    from routing.explain import explain

    explanation = explain(router, prompt)
    _show(explanation)
    return explanation.to_json()


def _show(explanation: Explanation) -> None:
    from rich.table import Table

    console = plain_console(soft_wrap=False)
    console.print(f"{explanation.route.node}: {explanation.route.reason}")
    for word, meant in explanation.read_as.items():
        console.print(f"read {word!r} as {meant!r}")
    nodes = Table("node", "probability")
    for name, probability in explanation.probabilities.items():
        nodes.add_row(name, f"{probability:.3f}")
    terms = Table(f"what spoke for {explanation.decided_for} (+) or {explanation.against} (-)", "weight")
    for term in explanation.terms:
        terms.add_row(term.term, f"{term.weight:+.3f}")
    console.print(nodes)
    console.print(terms)


if __name__ == "__main__":
    raise SystemExit(main())
