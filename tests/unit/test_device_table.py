"""README's table of devices says "seen working" only where a healthy report of the doctor lies in docs/doctor, with that report's figures."""

import json
import re

import pytest

from experts.device_rules import RULES
from settings import HOME

TABLE = (HOME / "README.md").read_text("utf-8").partition("\n## Devices\n")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_readme_device_is_seen_working_only_with_a_healthy_report(row: list[str]) -> None:
    name, _, seen = row
    found = re.findall(r"\(docs/doctor/([a-z0-9-]+\.json)\): train ([\d,]+) tok/s, decode ([\d,]+) tok/s", seen)
    assert bool(found) != (seen == "no report yet")
    for file, train, decode in found:
        report = json.loads((HOME / "docs" / "doctor" / file).read_text("utf-8"))
        assert report["healthy"] is True
        assert report["chosen"]["kind"] == name.partition(" ")[0].lower()
        assert (f"{report['self_test']['train_tokens_per_s']:,.0f}", f"{report['self_test']['decode_tokens_per_s']:,.0f}") == (train, decode)


def test_readme_has_a_row_for_every_kind_of_device_with_the_precision_of_its_rules() -> None:
    assert [row[0].partition(" ")[0].lower() for row in ROWS] == list(RULES)
    both = "fp32 or bf16, whichever is faster"
    for (_, precision, _), (kind, rules) in zip(ROWS, RULES.items(), strict=True):
        assert precision == (both if rules.bf16 and (kind == "cpu" or rules.autocast_dtype is not None) else "fp32")


def test_every_report_of_the_doctor_stands_in_the_table() -> None:
    assert {file.name for file in (HOME / "docs" / "doctor").glob("*.json")} == set(re.findall(r"docs/doctor/([a-z0-9-]+\.json)", TABLE))
