"""settings.py: what is taken, what is refused and in which words, and that config.toml tells the truth."""

import subprocess
import sys
import tomllib

import pytest

import settings
from settings import SettingsError, load


def test_config_toml_holds_every_key_with_default_and_description():
    assert settings.DEFAULT_CONFIG.read_text(encoding="utf-8") == settings.to_toml(settings.Settings())


def test_to_toml_read_back_gives_the_same_settings():
    chosen = load(overrides=["run.seed=7", 'tree.branches.law_branch=["law"]', "run.threads=2"])
    assert settings.check(tomllib.loads(settings.to_toml(chosen))) == chosen


@pytest.mark.parametrize(("override", "words"), [
    ("train.lrr=1", r"unknown setting 'train\.lrr' \(value 1\), did you mean 'train\.lr'\?"),
    ("trian.lr=1", r"unknown setting 'trian'.*did you mean 'train'\?"),
    ("train.lr=-1", r"train\.lr = -1: input should be greater than 0"),
    ("run.seed=abc", r"run\.seed = 'abc': input should be a valid integer"),
    ("train.optimizer=adamv", r"train\.optimizer = 'adamv': input should be 'adamw', 'muon' or 'muon_sophia'"),
    ("model.heads=5", r"model\.width = 192 isn't a multiple of model\.heads = 5; change one of them"),
    ("train.row_tokens=4096", r"train\.row_tokens = 4096 is more than model\.context_tokens = 512"),
    ("loop.root_share=0.95", r"loop\.root_share \+ loop\.branch_share = 1\.07; at most 1"),
    ("loop.root_share=0", r"loop\.root_share = 0: input should be greater than 0; see its line in config\.toml"),
    ("loop.replay_share=1", r"loop\.replay_share = 1: input should be less than or equal to 0\.9"),
    ("train.lr=nan", r"train\.lr = nan: input should be a finite number"),
    ("run.seed", r"--set 'run\.seed' has no '='"),
    ("seed=1", r"--set 'seed=1': 'seed' names no section"),
])
def test_load_wrong_override_is_refused_with_key_value_and_repair(override, words):
    with pytest.raises(SettingsError, match=words):
        load(overrides=[override])


def test_load_later_layers_win(tmp_path):
    config, recipe = tmp_path / "c.toml", tmp_path / "r.toml"
    config.write_text("[train]\nlr = 0.1\nbatch_rows = 2\n[run]\nseed = 1\n", encoding="utf-8")
    recipe.write_text("[train]\nlr = 0.2\n[run]\nseed = 2\n", encoding="utf-8")
    chosen = load(config=config, recipe=str(recipe), overrides=["run.seed=3"], run_dir="elsewhere")
    assert (chosen.train.lr, chosen.train.batch_rows, chosen.run.seed, chosen.run.dir) == (0.2, 2, 3, "elsewhere")


def test_load_absent_files_are_named(tmp_path):
    with pytest.raises(SettingsError, match="no settings file at"):
        load(config=tmp_path / "absent.toml")
    with pytest.raises(SettingsError, match=r"no recipe named 'quik', did you mean 'quick'\?"):
        load(recipe="quik")


def test_load_takes_a_byte_order_mark_and_refuses_utf_16_with_the_repair(tmp_path):
    text = "[run]\nseed = 3\n"
    (tmp_path / "marked.toml").write_text(text, encoding="utf-8-sig")
    (tmp_path / "wide.toml").write_text(text, encoding="utf-16")
    assert load(config=tmp_path / "marked.toml").run.seed == 3
    with pytest.raises(SettingsError, match=r"wide\.toml is no UTF-8.*save it as UTF-8"):
        load(config=tmp_path / "wide.toml")


def test_load_broken_toml_is_named(tmp_path):
    (tmp_path / "c.toml").write_text("[train\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"c\.toml can't be read as TOML"):
        load(config=tmp_path / "c.toml")


def test_load_bare_word_is_a_string_and_toml_is_parsed():
    chosen = load(overrides=["run.dir=runs/other", "train.accumulate=3", "data.hub={}"])
    assert (chosen.run.dir, chosen.train.accumulate, chosen.data.hub) == ("runs/other", 3, {})


@pytest.mark.parametrize("script", ["continuous_loop.py", "fast_train.py", "test_all_experts.py", "demo.py"])
def test_command_wrong_setting_ends_with_code_2_before_torch(script):
    """A torch that can't be imported stands in the way: the refusal must come first."""
    code = (f"import sys, runpy; sys.modules['torch'] = None; sys.argv = ['{script}', '--set', 'train.lrr=1'] + "
            f"(['--expert', 'math'] if '{script}' == 'fast_train.py' else []); runpy.run_path('{script}', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], cwd=settings.HOME, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "did you mean 'train.lr'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_command_print_config_prints_settings_in_force():
    done = subprocess.run([sys.executable, "continuous_loop.py", "--print-config", "--set", "run.seed=11"], cwd=settings.HOME,
                          capture_output=True, text=True, timeout=60, check=True)
    assert settings.check(tomllib.loads(done.stdout)).run.seed == 11


@pytest.mark.parametrize(("override", "branches"), [
    ('tree.branches.legal=["law"]', {"analytical", "language", "technical", "legal"}),
    ('tree.branches={legal=["law"]}', {"legal"}),
    ('tree.branches={legal=["law"], technical=["code"]}', {"legal", "technical"}),
])
def test_load_branches_one_is_added_a_table_replaces_all(override, branches):
    assert set(load(overrides=[override]).tree.branches) == branches


def test_load_branches_of_a_recipe_replace_those_of_the_config(tmp_path):
    (tmp_path / "r.toml").write_text('[tree.branches]\nlegal = ["law"]\n', encoding="utf-8")
    assert set(load(recipe=str(tmp_path / "r.toml")).tree.branches) == {"legal"}


def test_changed_lays_overrides_over_settings_and_keeps_the_rest():
    first = settings.load(overrides=["run.seed=7", "train.lr=1e-3", "tree.branches.arts=[\"painting\"]"])
    again = settings.changed(first, ["run.dir=\"runs/1500\"", "train.lr=2e-3", "loop.root_share=1", "loop.branch_share=0"])
    assert (again.run.seed, again.run.dir, again.train.lr, again.loop.root_share) == (7, "runs/1500", 2e-3, 1.0)
    assert again.tree == first.tree
    with pytest.raises(settings.SettingsError, match=r"loop\.root_share"):
        settings.changed(first, ["loop.root_share=2"])
