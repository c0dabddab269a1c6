"""The chart of losses, worked by hand, and its command."""

import json

import pytest
from PIL import Image

from training.__main__ import main
from training.curve import chart


def test_chart_puts_points_where_they_belong():
    assert chart([(0, 3.0), (1, 2.0), (2, 1.0)], width=5, height=3) == "3 |*\n  |  *\n1 |    *\n  +-----\n   0   2"


def test_chart_leaves_out_what_is_not_finite():
    assert chart([(0, 3.0), (1, float("nan")), (2, 1.0)], width=5, height=3) == "3 |*\n  |\n1 |    *\n  +-----\n   0   2"


def test_chart_of_one_point_is_drawn():
    assert "*" in chart([(5, 2.0)], width=5, height=3)


def test_chart_without_a_finite_point_says_what_to_do():
    with pytest.raises(ValueError, match="none of 1 points is finite; train first"):
        chart([(0, float("inf"))])


def test_curve_command_draws_the_history_and_names_the_lowest(tmp_path, capsys):
    losses = {10: 3.0, 20: 1.5, 30: 2.0}
    history = [{"step": step, "val_loss": loss, "train_loss": loss + 1, "train_s": step / 2, "tokens": 10 * step} for step, loss in losses.items()]
    file = tmp_path / "trained.json"
    file.write_text(json.dumps({"history": history}), encoding="utf-8")
    assert main(["curve", str(file), "--over", "train_s"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("val_loss over train_s\n")
    assert printed.endswith("lowest 1.5000 at train_s 10, last 2.0000\n")
    assert printed.count("*") == 3


@pytest.mark.parametrize("content", ["{}", "no json", '{"history": []}'])
def test_curve_command_on_another_file_ends_with_2_and_the_repair(tmp_path, capsys, content):
    file = tmp_path / "other.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["curve", str(file)])
    assert "can't be drawn" in capsys.readouterr().err


def test_curve_command_with_picture_writes_a_png_that_shows_the_line(tmp_path, capsys):
    file, drawn = tmp_path / "trained.json", tmp_path / "curve.png"
    history = [{"step": step, "val_loss": 3.0 / step, "train_loss": 1.0, "train_s": 1.0, "tokens": 10} for step in range(1, 9)]
    file.write_text(json.dumps({"history": history}), encoding="utf-8")
    assert main(["curve", str(file), "--picture", str(drawn)]) == 0
    pixels = Image.open(drawn).convert("RGB")
    assert pixels.size == (800, 450)
    blue = sum(count for count, colour in pixels.getcolors(800 * 450) if colour[2] > 150 > colour[0])
    assert blue > 500
    with pytest.raises(SystemExit, match="2"):
        main(["curve", str(file), "--picture", str(tmp_path / "curve.doc")])
    assert "can't be written" in capsys.readouterr().err
