"""router_lab_small on a made-up text: without balance and noise its router collapses and the report says so; as written it stays well."""

import json
import random

import fast_train
from experts.moe.__main__ import main as moe

QUICK = ("model.layers=2", "model.width=32", "model.intermediate=32", "model.context_tokens=64", "train.row_tokens=64", "train.batch_rows=8",
         "train.optimizer=muon", "train.lr=1e-2", "train.clip_norm=100", "train.compile=off", "train.precision=fp32", "loop.cycle_steps=60",
         "train.validate_every_steps=60", "train.validation_rows=4", "text.prompt_symbols=2", "text.sample_symbols=2", "run.device=cpu", "run.threads=1",
         "run.tensorboard=false")
OFF = ("moe.balance_weight=0", "moe.z_weight=0", "moe.noise_std=0", "moe.temperature=1", "moe.final_temperature=1")


def report_of(tmp_path, *overrides):
    words = [f"{a}{b}{c}" for a in ("ba", "do", "ki", "lu", "me") for b in ("r", "n", "st") for c in ("a", "ing", "o", "ent")]
    draw = random.Random(0)
    text = tmp_path / "text.txt"
    lines = (f"{draw.choice(words)}{draw.choice('    ,.')}{draw.choice(words).capitalize()} {draw.choice(words)}" for _ in range(3000))
    text.write_text("\n".join(lines), encoding="utf-8")
    run = tmp_path / "run"
    sets = [part for override in (*QUICK, *overrides) for part in ("--set", override)]
    assert fast_train.main(["--recipe", "router_lab_small", "--data", str(text), "--run", str(run), "--quiet", *sets]) == 0
    code = moe(["report", str(run), "--json", str(tmp_path / "report.json")])
    return code, json.loads((tmp_path / "report.json").read_text())[0]


def test_router_without_balance_and_noise_collapses_and_is_reported(tmp_path, capsys):
    code, found = report_of(tmp_path, *OFF)
    by_name = {row["name"]: row for row in found["metrics"]}
    assert (code, found["verdict"], by_name["router/collapsed"]["verdict"]) == (1, "alarm", "alarm")
    assert by_name["router/max_frac_max"]["value"] >= 0.9
    assert "collapsed in" in capsys.readouterr().out


def test_router_as_the_recipe_has_it_is_well(tmp_path):
    code, found = report_of(tmp_path)
    by_name = {row["name"]: row["value"] for row in found["metrics"]}
    assert (code, found["collapsed_readings"]) == (0, 0)
    assert by_name["router/max_frac_max"] < 0.25
    assert by_name["router/active_min"] == 8
    assert all(0.1 < by_name[f"router/frac_dem_e{expert}"] < 0.15 for expert in range(8))
