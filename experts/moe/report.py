"""The health of a run's routers as a table and as JSON, read from its journal. Does not judge (verdicts.py) and turns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experts.journal import Journal
from experts.moe.health import Reading
from experts.moe.recorder import readings_of, sustained_of
from experts.moe.verdicts import Finding, Verdict, judge, overall

_COLOURS: dict[Verdict, str] = {"healthy": "green", "watch": "yellow", "alarm": "bold red"}
_LAYER_COLUMNS = ("top1_p_mean", "max_frac_max", "entropy_mean", "active_min", "drop_frac_mean", "collapsed")


class NoReadings(ValueError):
    """The run has no readings of a router."""


def report(run: Path, *, node: str | None = None) -> list[dict[str, Any]]:
    """One report a node, as plain data. Raises NoReadings when the run, or that node, has none."""
    with Journal(run / "journal.db", read_only=True) as journal:
        found = readings_of(journal, node=node)
        reports = [_of_node(name, readings, sustained=sustained_of(journal, node=name)) for name, readings in found.items() if readings]
    if not reports:
        whom = f"node {node!r} in {run}" if node is not None else str(run)
        raise NoReadings(f"no readings of a router for {whom}; train a recipe of architecture qwen3_moe there for moe.health_every_steps steps or more")
    return reports


def _of_node(node: str, readings: Sequence[Reading], *, sustained: int) -> dict[str, Any]:
    last = readings[-1]
    findings = judge(readings, sustained=sustained)
    whole = [finding for finding in findings if "/layer" not in finding.name]
    by_layer = [[finding for finding in findings if finding.name.startswith(f"router/layer{number}/")] for number in range(last.layers)]
    return {"node": node, "step": last.step, "experts": last.experts, "top_k": last.top_k, "layers": last.layers, "readings": len(readings),
            "stage": "exploring" if last.exploring else "settled", "verdict": overall(findings), "collapsed_readings": _collapsed(readings),
            "metrics": [asdict(finding) for finding in whole],
            "by_layer": [[asdict(finding) for finding in layer] for layer in by_layer],
            "dials": {name: value for name, value in last.metrics.items() if name.startswith("moe/")},
            "healed": [{"step": reading.step, "raised": list(reading.healed)} for reading in readings if reading.healed]}


def _collapsed(readings: Sequence[Reading]) -> int:
    return sum(bool(reading.metrics["router/collapsed"]) for reading in readings)


def show(reports: Sequence[dict[str, Any]], *, console: Console) -> None:
    """Print the reports."""
    for one in reports:
        console.print(f"{one['node']}: {one['experts']} experts, top {one['top_k']}, {one['layers']} layers, step {one['step']} ({one['stage']}), "
                      f"{one['readings']} readings", markup=False, highlight=False)
        console.print(_metrics_table([Finding(**row) for row in one["metrics"]]))
        console.print(_layers_table([[Finding(**row) for row in layer] for layer in one["by_layer"]]))
        for event in one["healed"]:
            console.print(f"auto-heal at step {event['step']}: {', '.join(event['raised'])}", markup=False, highlight=False)
        colour = _COLOURS[one["verdict"]]
        collapsed = f", collapsed in {one['collapsed_readings']} of {one['readings']} readings" if one["collapsed_readings"] else ""
        console.print(f"verdict: [{colour}]{one['verdict']}[/]{collapsed}", highlight=False)


def _metrics_table(findings: Sequence[Finding]) -> Table:
    table = Table("metric", "value", "healthy", "verdict", "for", "meaning", "lever", highlight=False)
    for finding in findings:
        table.add_row(finding.name, f"{finding.value:.4g}", escape(finding.healthy), f"[{_COLOURS[finding.verdict]}]{finding.verdict}[/]",
                      f"{finding.steps} steps", escape(finding.meaning), escape(finding.lever))
    return table


def _layers_table(layers: Sequence[Sequence[Finding]]) -> Table:
    table = Table("layer", *_LAYER_COLUMNS, "verdict", highlight=False)
    for number, findings in enumerate(layers):
        by_name = {finding.name.rpartition("/")[2]: finding for finding in findings}
        cells = [f"[{_COLOURS[by_name[name].verdict]}]{by_name[name].value:.4g}[/]" for name in _LAYER_COLUMNS]
        verdict = overall(findings)
        table.add_row(str(number), *cells, f"[{_COLOURS[verdict]}]{verdict}[/]")
    return table
