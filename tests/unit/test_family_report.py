"""The family's table: a column of the matrix compares nodes on the same tasks, whatever more one of them sat."""

import io

from rich.console import Console
from rich.table import Table

from training.report import FamilyReport, NodeReport, pooled, to_json, to_tables
from training.scorecard import Outcome, Sample, Scorecard


def card(domain, **scores):
    outcomes = tuple(Outcome(key, domain, "task", 1, score, looped=False) for key, score in scores.items())
    return Scorecard("exam", outcomes, bits_per_byte={domain: 1.0}, distinct_2={domain: 1.0}, seconds_per_answer=0.1)


def test_matrix_counts_the_tasks_that_all_nodes_answered_and_the_node_its_own_whole_exam():
    own = card("math", a=1.0, b=1.0, c=0.0, d=0.0, e=0.0)
    matrix = {"generalist": {"math": card("math", a=1.0, b=0.0)}, "math": {"math": own}}
    report = FamilyReport({"math": NodeReport("v000001", own, 10)}, matrix, {}, experts=("math",), answering={"math": "math"})
    assert report.accuracies == {"generalist": {"math": 0.5}, "math": {"math": 1.0}}
    figures = to_json(report)
    assert figures["matrix"]["math"]["math"] == 1.0
    assert figures["nodes"]["math"]["accuracy"] == 0.4


def test_matrix_of_ungraded_tasks_is_empty():
    matrix = {"chat": {"chat": card("chat", a=None)}}
    assert FamilyReport({}, matrix, {}, experts=("chat",), answering={"chat": "chat"}).accuracies == {"chat": {"chat": None}}


def test_each_task_of_an_expert_stands_beside_what_one_answer_to_all_scores():
    outcomes = [Outcome(f"{task}{number}", "math", task, 1, score, looped=False)
                for task, scores in (("add", (1.0, 1.0, 0.0, 1.0)), ("code", (0.0, None))) for number, score in enumerate(scores)]
    own = Scorecard("exam", tuple(outcomes), {"math": 1.0}, {"math": 1.0}, 0.1)
    report = FamilyReport({"math": NodeReport("v000001", own, 10)}, {"math": {"math": own}}, {}, experts=("math",), answering={"math": "math"},
                          constant={"math/add": 0.25})
    table = next(table for table in to_tables(report) if getattr(table, "title", "") == "experts by task")
    # Wilson's interval of 3 in 4 and of 0 in 1, by hand: 0.3006-0.9544 and 0-0.7935
    assert list(zip(*(map(str, column.cells) for column in table.columns), strict=True)) == [
        ("math/add", "4", "75.0%", "30%-95%", "", "25.0%"), ("math/code", "1", "0.0%", "0%-79%", "", "-")]
    assert to_json(report)["constant_answer"] == {"math/add": 0.25}


def test_each_level_of_an_expert_stands_with_its_interval():
    levels = [(1, 1.0), (3, 0.0), (1, 1.0), (1, 0.0), (1, 1.0), (None, 0.0), (2, None)]
    own = Scorecard("exam", tuple(Outcome(str(number), "math", "add", level, score, looped=False) for number, (level, score) in enumerate(levels)),
                    {"math": 1.0}, {"math": 1.0}, 0.1)
    report = FamilyReport({"math": NodeReport("v000001", own, 10)}, {"math": {"math": own, "code": own}}, {}, experts=("math", "code"),
                          answering={"math": "math"})
    table = next(table for table in to_tables(report) if getattr(table, "title", "") == "experts by level")
    assert list(zip(*(map(str, column.cells) for column in table.columns), strict=True)) == [  # Wilson's intervals as above
        ("math/1", "4", "75.0%", "30%-95%"), ("math/3", "1", "0.0%", "0%-79%")]


def test_a_domain_without_an_expert_shows_levels_tasks_and_samples_of_what_answers_there():
    def own(domain, task, *scores):
        outcomes = tuple(Outcome(str(number), domain, task, 1, score, looped=False) for number, score in enumerate(scores))
        return Scorecard("exam", outcomes, {domain: 1.0}, {domain: 1.0}, 0.1, samples=tuple(Sample(domain, f"{task}?", "yes", "no", score) for score in scores))

    language = {"talk": own("talk", "greet", 1.0, 1.0, 1.0), "knowledge": own("knowledge", "seas", 1.0, 1.0, 0.0)}
    matrix = {"generalist": {domain: own(domain, "wrong", 0.0, 0.0) for domain in language}, "language": language}
    report = FamilyReport({name: NodeReport("v000001", pooled(list(row.values())), 10) for name, row in matrix.items()}, matrix, {},
                          experts=("talk", "knowledge"), answering={"talk": "generalist", "knowledge": "language"})
    shown = to_tables(report)
    rows = {table.title: [str(cell) for cell in next(iter(table.columns)).cells] for table in shown if isinstance(table, Table)}
    assert rows["experts by level"] == ["talk/1", "knowledge/1"]
    assert rows["experts by task"] == ["talk/wrong", "knowledge/seas"]
    samples = [text.plain.splitlines()[1] for text in shown if "expected: " in getattr(text, "plain", "")]
    assert samples == ["[talk, answered by generalist] wrong?"] * 2 + ["[knowledge, answered by language] seas?"] * 3


def test_exact_match_and_length_of_answers_stand_beside_the_score():
    outcomes = tuple(Outcome(str(number), "knowledge", "nq_open", None, score, False, score == 1) for number, score in enumerate((1.0, 0.5, 0.5, 0.0)))
    own = Scorecard("exam", outcomes, {"knowledge": 1.0}, {"knowledge": 1.0}, 0.1, mean_words={"knowledge": 2.25})
    report = FamilyReport({"knowledge": NodeReport("v000001", own, 10)}, {"knowledge": {"knowledge": own}}, {}, experts=("knowledge",),
                          answering={"knowledge": "knowledge"})
    tables = {table.title: {column.header: list(column.cells) for column in table.columns} for table in to_tables(report) if getattr(table, "title", None)}
    assert (tables["experts by task"]["accuracy"], tables["experts by task"]["exact\nmatch"]) == (["50.0%"], ["25.0%"])
    assert tables["promoted nodes"]["words"] == ["2.2"]
    node = to_json(report)["nodes"]["knowledge"]
    assert (node["exact_match"], node["mean_words"], node["accuracy"]) == ({"knowledge/nq_open": 0.25}, {"knowledge": 2.25}, 0.5)


def test_nodes_show_how_many_answers_never_ended():
    outcomes = tuple(Outcome(str(number), "math", "gsm8k", None, 1.0, False, True, number < 1) for number in range(8))
    own = Scorecard("exam", outcomes, {"math": 1.0}, {"math": 1.0}, 0.1)
    report = FamilyReport({"math": NodeReport("v000001", own, 10)}, {"math": {"math": own}}, {}, experts=("math",), answering={"math": "math"})
    columns = {column.header: list(column.cells) for column in to_tables(report)[0].columns}
    assert (columns["never\nended"], columns["loop\nrate"]) == (["12.5%"], ["0.0%"])
    node = to_json(report)["nodes"]["math"]
    assert (node["never_ended"], node["loop_rate"], node["per_level"]) == (0.125, 0.0, {})


def test_names_of_tasks_stand_as_they_are_whatever_marks_they_hold():
    names = ("[/x]", "wiki[en]", "[red]", ":smile:", "back\\")
    own = Scorecard("exam", tuple(Outcome(name, "math", name, None, 1.0, False, True) for name in names), {"math": 1.0}, {"math": 1.0}, 0.1)
    report = FamilyReport({"math": NodeReport("v000001", own, 10)}, {"math": {"math": own}}, {}, experts=("math",), answering={"math": "math"})
    written = io.StringIO()
    console = Console(file=written, width=80)
    for table in to_tables(report):
        console.print(table)
    assert all(f"math/{name} " in written.getvalue() for name in names)


def test_a_console_of_eighty_columns_shows_every_name_and_figure_whole():
    outcomes = tuple(Outcome(str(number), "conversation", "remember_favourite", 1, 1.0, True, True, True) for number in range(1000))
    own = Scorecard("exam", outcomes, {"conversation": 12.345}, {"conversation": 0.5}, 12.345, mean_words={"conversation": 123.4})
    domains = ("math", "reasoning", "conversation", "knowledge", "code")
    report = FamilyReport({name: NodeReport("v000123", own, 10) for name in domains}, {"generalist": dict.fromkeys(domains, own)}, {},
                          experts=domains, answering=dict.fromkeys(domains, "generalist"), constant={"conversation/remember_favourite": 1.0})
    written = io.StringIO()
    console = Console(file=written, width=80)
    for table in to_tables(report):
        console.print(table)
    shown = written.getvalue()
    assert "…" not in shown
    assert all(whole in shown for whole in ("conversation/remember_favourite", "v000123", "12.345", "100%-100%", *domains))
