"""A model of plain text from file to best version: examinations, resume, the best kept whatever comes after, errors that say what to do."""

import dataclasses
import io
import json
import math
import subprocess
import sys
import time

import pytest
from fake_clock import FakeClock
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fast_train
import settings
from data_prep.sources import DataError
from experts.device import choose
from experts.expert import Expert
from experts.journal import Journal
from experts.registry import Registry
from training import text_run
from training.plan import StateMismatch, TrainingDiverged
from training.progress import Reporter
from training.run_folder import open_run
from training.text_run import train_text
from training.trainer import _Run

TOY = ("data.format=text", "tokenizer.kind=char", "model.layers=1", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.intermediate=32",
       "model.context_tokens=32", "train.row_tokens=32", "train.batch_rows=4", "train.precision=fp32", "train.compile=off", "train.validate_every_steps=3",
       "train.lr=1e-2", "run.device=cpu", "run.threads=1", "loop.cycle_steps=12", "text.prompt_symbols=5", "text.sample_symbols=20")
TOY_HYBRID = ("model.layers=2", "model.attention_layers=[1]", "model.ssm_heads=4", "model.ssm_state=4", "model.ssm_chunk=8")
TEXT = "To be, or not to be, that is the question.\n" * 60


class Watching(Reporter):
    """Counts steps and keeps the notes."""

    def __init__(self):
        self.written = io.StringIO()
        super().__init__(Console(file=self.written, width=500), quiet=True)
        self.seen = 0

    def step(self, facts):
        self.seen = facts.step


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def chosen(run, data, *overrides):
    return settings.load(overrides=[*TOY, *overrides], run_dir=str(run), data_path=str(data))


def go(run, data, *overrides, stop_at=None):
    """Train in this process; the outcome and what was shown."""
    with open_run(chosen(run, data, *overrides)) as opened, Watching() as watching:
        outcome = train_text(opened, device=choose("cpu"), reporter=watching, should_stop=lambda: stop_at is not None and watching.seen >= stop_at)
    return outcome, watching.written.getvalue()


def card_in_force(run):
    registry = Registry(run)
    return registry.card("text", registry.pointer().nodes["text"])["text"]


def command(*arguments, script="fast_train.py"):
    line = [sys.executable, str(settings.HOME / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_fast_train_with_the_recipe_of_a_hybrid_writes_losses_samples_and_a_best_version(tmp_path, text_file):
    toy = [f"--set={each}" for each in (*TOY, *TOY_HYBRID) if not each.startswith(("data.format", "tokenizer"))]
    done = command("--recipe", "nexus", "--data", text_file, "--run", tmp_path / "run", "--json", tmp_path / "out.json", *toy)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in facts["history"]] == [3, 6, 9, 12]
    assert set(facts["history"][0]) >= {"step", "val_loss", "train_loss", "train_s", "tokens", "bits_per_byte", "samples"}
    assert facts["best"]["val_loss"] == min(row["val_loss"] for row in facts["history"]) < math.log(262)
    assert facts["best"]["bits_per_byte"] == pytest.approx(facts["best"]["val_loss"] / math.log(2))  # bytes: one a token
    assert all(set(row["samples"]) == {"To be", "The king"} for row in facts["history"])
    assert (facts["history"][-1]["tokens"], len(facts["sample"]) <= 20, facts["tokens_per_s"] > 0) == (12 * 4 * 32, True, True)
    assert facts["version"] == Registry(tmp_path / "run").pointer().nodes["text"]
    assert facts["version"] in done.stdout
    assert "examined step     12  held-out" in done.stdout


def test_text_run_card_and_journal_hold_the_best_and_every_examination(tmp_path, text_file):
    outcome, shown = go(tmp_path / "run", text_file)
    best = min(outcome.examinations, key=lambda one: one.val_loss)
    card = card_in_force(tmp_path / "run")
    assert (card["val_loss"], card["step"], dict(card["samples"])) == (best.val_loss, best.step, dict(best.samples))
    with Journal(tmp_path / "run" / "journal.db", read_only=True) as journal:
        events = journal.events(kind="examined", node="text")
    assert [event.facts["val_loss"] for event in events] == [one.val_loss for one in outcome.examinations]
    assert shown.count("*") >= sum(bool(event.facts["best"]) for event in events) >= 1
    assert (len(outcome.sample), outcome.sample == go(tmp_path / "again", text_file)[0].sample) == (20, True)


def test_text_run_best_version_has_the_loss_of_its_card(tmp_path, text_file):
    go(tmp_path / "run", text_file)
    expert = Expert.load(Registry(tmp_path / "run").served("text"), device=choose("cpu"))
    corpus = text_run.prepare_text(chosen(tmp_path / "run", text_file))
    batches = text_run.held_out_batches(corpus, domain="text", row_tokens=32, batch_rows=64, rows=1000)
    logits = expert.model(batches[0].tokens_BT).logits.flatten(0, 1).log_softmax(-1)
    loss = -float(logits.gather(1, batches[0].targets_N[:, None]).detach().mean())
    assert len(batches) == 1
    assert loss == pytest.approx(card_in_force(tmp_path / "run")["val_loss"], rel=1e-5)


def test_text_run_bits_per_byte_of_bpe_count_the_bytes_of_the_targets(tmp_path, text_file):
    text_file.write_text("".join(f"{number} men sail {number * 7 % 50} ships\n" for number in range(300)), encoding="utf-8")
    overrides = ("tokenizer.kind=bpe", "tokenizer.vocab_size=300", "train.row_tokens=16", "train.validation_rows=3", "loop.cycle_steps=3")
    outcome, _ = go(tmp_path / "run", text_file, *overrides)
    corpus = text_run.prepare_text(chosen(tmp_path / "run", text_file, *overrides))
    last = (len(corpus.validation_tokens) - 1) // 16 - 1
    targets = [token for row in (0, round(last / 2), last) for token in corpus.validation_tokens[row * 16 + 1:row * 16 + 17].tolist()]
    size = len(corpus.tokenizer.decode(targets)) / len(targets)
    assert (last > 3, size > 1.5) == (True, True)
    assert outcome.examinations[0].bits_per_byte == pytest.approx(outcome.examinations[0].val_loss / math.log(2) / size)


def test_text_run_stopped_and_started_again_equals_the_straight_run(tmp_path, text_file):
    straight, _ = go(tmp_path / "straight", text_file)
    first, _ = go(tmp_path / "halved", text_file, stop_at=7)
    assert (first.trained.stopped, first.trained.step, first.sample) == (True, 7, "")
    resumed, _ = go(tmp_path / "halved", text_file)
    assert resumed.trained.losses == straight.trained.losses
    assert [dataclasses.replace(one, train_s=0) for one in resumed.examinations] == [dataclasses.replace(one, train_s=0) for one in straight.examinations]
    assert resumed.sample == straight.sample
    assert not (tmp_path / "halved" / "work" / "text").exists()


def test_text_run_killed_goes_on_from_its_last_saved_state_and_adds_no_version_twice(tmp_path, text_file, monkeypatch):
    straight, _ = go(tmp_path / "straight", text_file)

    def die(watching, facts):
        if facts.step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watching, "step", die)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", text_file)  # saved before its first step alone: steps 1 to 7 are made again
    versions = Registry(tmp_path / "run").versions("text")
    assert len(versions) == 2
    resumed, _ = go(tmp_path / "run", text_file)
    assert resumed.trained.losses == straight.trained.losses
    assert resumed.best["val_loss"] == straight.best["val_loss"]
    pointer = Registry(tmp_path / "run").pointer()
    assert [change.changes["text"][1] for change in pointer.history] == [*versions, "v000003", "v000004"]  # at steps 3, 6, 9, 12


def test_text_run_resumed_and_three_times_worse_keeps_the_best_of_before(tmp_path, text_file, monkeypatch):
    """Nexus forgot its best at a resume (2.6312 at step 1400) and overwrote it with 2.6472."""
    first, _ = go(tmp_path / "run", text_file, stop_at=4)
    before = card_in_force(tmp_path / "run")
    kept = (Registry(tmp_path / "run").served("text") / "model.safetensors").read_bytes()
    assert (before["step"], first.version) == (3, Registry(tmp_path / "run").served("text").name)
    honest = _Run.validate

    def worse(run):
        found = dataclasses.replace(honest(run), val_loss=before["val_loss"] + 0.01 * run.step)
        run.validations[-1] = found
        return found

    monkeypatch.setattr(_Run, "validate", worse)
    resumed, shown = go(tmp_path / "run", text_file)
    assert [one.step for one in resumed.examinations] == [3, 6, 9, 12]
    assert all(one.val_loss > before["val_loss"] for one in resumed.examinations[1:])
    assert " *" not in shown
    assert (resumed.best["step"], resumed.version) == (3, first.version)
    assert (Registry(tmp_path / "run").served("text") / "model.safetensors").read_bytes() == kept


def test_text_run_anew_in_the_same_folder_must_beat_the_version_there(tmp_path, text_file):
    first, _ = go(tmp_path / "run", text_file)
    again, _ = go(tmp_path / "run", text_file, "loop.cycle_steps=3")
    assert again.examinations[0].val_loss > first.best["val_loss"]
    assert again.version == first.version
    better, _ = go(tmp_path / "run", text_file, "loop.cycle_steps=60")
    assert better.best["val_loss"] < first.best["val_loss"]
    assert better.version > first.version


def test_text_run_other_text_in_the_same_folder_is_refused(tmp_path, text_file):
    go(tmp_path / "run", text_file)
    text_file.write_text(TEXT.replace("question", "quest"), encoding="utf-8")
    with pytest.raises(StateMismatch, match=r"learned another text or tokenizer.*choose another folder with --run DIR"):
        go(tmp_path / "run", text_file)


def test_text_run_training_seconds_leave_out_examinations(tmp_path, text_file, monkeypatch):
    monkeypatch.setattr(text_run, "continue_text", lambda *arguments, **more: time.sleep(0.4) or "x")
    began = time.monotonic()
    outcome, _ = go(tmp_path / "run", text_file)
    assert outcome.trained.train_s < time.monotonic() - began - 8 * 0.4


@pytest.mark.parametrize(("promised", "pace", "steps"), [(2.0, 2.0, 9), (2.0, 2.25, 8), (1.0, 2.0, 9), (2.0, 1.5, 12)])
def test_text_run_minutes_are_filled_whatever_the_first_steps_promise(tmp_path, text_file, monkeypatch, promised, pace, steps):
    FakeClock(monkeypatch, lambda plan, step: promised if plan.seconds is None else pace)  # the steps that are measured have no time to fill
    settings_of_minutes = chosen(tmp_path / "run", text_file, "loop.cycle_minutes=0.3")
    settings_of_minutes = settings_of_minutes.model_copy(update={"loop": settings_of_minutes.loop.model_copy(update={"cycle_steps": None})})
    with open_run(settings_of_minutes) as opened, Watching() as watching:
        outcome = train_text(opened, device=choose("cpu"), reporter=watching, should_stop=lambda: False)
    assert (outcome.trained.step, outcome.trained.train_s) == (steps, 18.0)
    assert outcome.examinations[-1].step == steps


def test_text_run_writes_curves_of_losses_router_and_samples(tmp_path, text_file):
    outcome, _ = go(tmp_path / "run", text_file, "model.architecture=qwen3_moe", "model.experts=4", "moe.health_every_steps=6")
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "text"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/loss")] == list(range(1, 13))
    assert [event.step for event in reader.Scalars("router/layer0/entropy_mean")] == [6, 12]
    assert [event.value for event in reader.Scalars("validation/loss")] == pytest.approx([one.val_loss for one in outcome.examinations])
    assert [event.value for event in reader.Scalars("validation/bits_per_byte")] == pytest.approx([one.bits_per_byte for one in outcome.examinations])
    assert reader.Tensors("text/0/text_summary")[0].tensor_proto.string_val[0].decode() == f"To be\n\n---\n\n{outcome.examinations[0].samples['To be']}"
    go(tmp_path / "silent", text_file, "run.tensorboard=false")
    assert not (tmp_path / "silent" / "tensorboard").exists()


@pytest.mark.parametrize(("setting", "package"), [("train.optimizer=muon_sophia", "pytorch_optimizer"), ("moe.wandb_project=routers", "wandb")])
def test_fast_train_asked_for_a_package_that_is_not_installed_ends_with_the_repair(tmp_path, text_file, monkeypatch, capsys, setting, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        fast_train.main(["--data", str(text_file), "--run", str(tmp_path / "run"), *(f"--set={each}" for each in (*TOY, setting))])
    assert ended.value.code == 2
    assert f"needs the package {package}, which can't be imported" in capsys.readouterr().err


def test_text_run_absent_file_leaves_no_model(tmp_path):
    with pytest.raises(DataError, match=r"no text at .*put a UTF-8 text file there"):
        go(tmp_path / "run", tmp_path / "missing.txt")
    assert Registry(tmp_path / "run").pointer().nodes == {}


def test_fast_train_absent_text_is_named_without_a_traceback(tmp_path):
    done = command("--recipe", "nexus", "--data", tmp_path / "missing.txt", "--run", tmp_path / "run")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"no text at {tmp_path / 'missing.txt'}; put a UTF-8 text file there" in done.stderr


def test_fast_train_training_that_diverges_ends_with_the_reason(tmp_path, text_file, monkeypatch, capsys):
    def diverge(*arguments, **more):
        raise TrainingDiverged("step 3: loss isn't finite; lower train.lr")

    monkeypatch.setattr(text_run, "train", diverge)
    with pytest.raises(SystemExit) as ended:
        fast_train.main(["--data", str(text_file), "--run", str(tmp_path / "run"), *(f"--set={each}" for each in TOY)])
    assert ended.value.code == 2
    assert "fast_train.py: step 3: loss isn't finite; lower train.lr" in capsys.readouterr().err


def test_training_that_diverged_begins_again_with_the_rate_that_is_set_then(tmp_path, text_file, monkeypatch):
    plans, train = [], text_run.train

    def diverge(*arguments, **more):
        raise TrainingDiverged("step 5: loss isn't finite; lower train.lr")

    def watched(*arguments, plan, **more):
        plans.append(plan)
        return train(*arguments, plan=plan, **more)

    minutes = ("loop.cycle_minutes=5", "train.checkpoint_every_s=0.001")
    file = tmp_path / "minutes.toml"
    tables = chosen(tmp_path / "run", text_file, *minutes).model_dump(exclude_none=True)
    del tables["loop"]["cycle_steps"]
    file.write_text(settings.to_toml(settings.check(tables)), encoding="utf-8")

    def turn(*overrides, stop_at=None):
        with open_run(settings.load(config=file, overrides=overrides)) as opened, Watching() as watching:
            return train_text(opened, device=choose("cpu"), reporter=watching, should_stop=lambda: stop_at is not None and watching.seen >= stop_at)

    assert turn(stop_at=4).trained.stopped
    with monkeypatch.context() as patched:
        patched.setattr(text_run, "train", diverge)
        with pytest.raises(TrainingDiverged):
            turn()
    monkeypatch.setattr(text_run, "train", watched)
    turn("train.lr=1e-4", stop_at=2)
    assert [plan.lr for plan in plans] == [1e-4]


def test_stopped_training_of_steps_with_another_rate_is_refused_with_the_difference(tmp_path, text_file):
    go(tmp_path / "run", text_file, stop_at=4)
    with pytest.raises(StateMismatch, match=r"plan\.lr was 0\.01, is 0\.0001"):
        go(tmp_path / "run", text_file, "train.lr=1e-4")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--recipe", "nexus", "--expert", "math"], "--expert and --epochs are for records"),
    (["--recipe", "nexus", "--epochs", "2"], "--expert and --epochs are for records"),
    ([], "--expert NODE is missing, as in --expert math; or give a recipe for plain text"),
    (["--recipe", "nexus", "--set=model.ssm_heads=7"], "model.width x model.ssm_expand = 256 x 2 = 512 isn't a multiple of model.ssm_heads = 7"),
])
def test_fast_train_wrong_arguments_are_refused_before_anything_is_loaded(arguments, words):
    done = command(*arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def test_continuous_loop_with_a_recipe_for_plain_text_names_the_command_for_it(tmp_path, text_file):
    done = command("--recipe", "nexus", "--data", text_file, "--run", tmp_path / "run", "--no-serve", "--cycles=1", script="continuous_loop.py")
    assert done.returncode == 2
    assert "train it with python fast_train.py --recipe NAME --data FILE" in done.stderr
