"""Texts that the encoding of the output lacks, or that look like markup: printed all the same, and as they stand."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

import settings
from experts.console import accept_any_text, plain_console
from training.progress import Reporter
from training.scorecard import Sample

RECORDS = "\u0437\u0430\u043f\u0438\u0441\u0438"  # "records" in Russian
TEXT = f"\ufffd \U0001f600 {RECORDS}"
ESCAPED = r"\ufffd \U0001f600 \u0437\u0430\u043f\u0438\u0441\u0438"
COMMANDS = [["continuous_loop.py"], ["fast_train.py"], ["test_all_experts.py"], ["demo.py"], ["-m", "data_prep", "report"], ["-m", "routing", "explain", "x"],
            ["-m", "serving"], ["-m", "training", "history", "--picture", "x.png"], ["-m", "experts", "doctor"]]


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="\n")


def written(output):
    output.flush()
    return output.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_accept_any_text_escapes_what_the_encoding_lacks(encoding, errors):
    output = stream(encoding, errors)
    with pytest.raises(UnicodeEncodeError):
        output.write(TEXT)
    accept_any_text(output)
    output.write(TEXT)
    assert written(output).decode(encoding) == ESCAPED


def test_accept_any_text_leaves_utf_8_as_it_is_but_for_half_an_emoji():
    output = stream("utf-8")
    accept_any_text(output)
    output.write(f"{TEXT} \ud83d")
    assert written(output).decode("utf-8") == TEXT + r" \ud83d"


def test_accept_any_text_leaves_another_choice_and_other_streams_alone():
    output = stream("cp1252", "replace")
    accept_any_text(output, io.StringIO(), None)
    output.write(RECORDS)
    assert written(output) == b"??????"


def test_reporter_prints_samples_that_the_code_page_lacks():
    output = stream("cp1252")
    accept_any_text(output)
    with Reporter(Console(file=output, soft_wrap=True)) as reporter:
        reporter.samples([Sample("math", RECORDS, "", "\ufffd \U0001f600", None)])
        reporter.note(TEXT)
    lines = written(output).decode("cp1252").splitlines()
    assert lines == [r"  math         \u0437\u0430\u043f\u0438\u0441\u0438 -> \ufffd \U0001f600", ESCAPED]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command))
def test_command_prints_a_text_that_the_code_page_lacks(command):
    """What a command prints into a file on Windows: the settings in force, with a folder in Cyrillic letters."""
    done = subprocess.run([sys.executable, *command, "--data", RECORDS, "--print-config"], cwd=settings.HOME, capture_output=True, timeout=100, check=False,
                          env={**os.environ, "PYTHONIOENCODING": "cp1252:strict"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb'path = "\u0437\u0430\u043f\u0438\u0441\u0438"' in done.stdout  # in TOML that is the same word


def test_plain_console_shows_texts_as_they_stand(capsys):
    plain_console().print("file.jsonl:100: a [bold]word[/] [/x] x[:top:2]")
    assert capsys.readouterr().out == "file.jsonl:100: a [bold]word[/] [/x] x[:top:2]\n"
