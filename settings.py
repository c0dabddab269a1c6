"""Settings of a run: what may be set, in which range, and where a value came from.

Reads TOML (config.toml, then a recipe, then --set) into frozen pydantic models. Imports neither torch nor any room,
so a wrong setting is refused before anything heavy is loaded. Does not know what the rooms do with a value.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from model_settings import DecodingSettings as DecodingSettings
from model_settings import ModelSettings as ModelSettings
from model_settings import MoeSettings as MoeSettings
from model_settings import Section as Section
from model_settings import TextSettings

HOME = Path(__file__).resolve().parent
DEFAULT_CONFIG = HOME / "config.toml"
RECIPES = HOME / "recipes"


class SettingsError(ValueError):
    """A setting that can't be taken. The message names the key, the value, what is allowed and what to do."""


class RunSettings(Section):
    dir: str = Field("runs/default", description="folder that holds everything of this run", min_length=1)
    device: str = Field("auto", description="auto, cpu, cuda[:n], directml[:n], xpu or mps",
                        pattern=r"^(auto|cpu|mps|xpu|cuda(:\d+)?|directml(:\d+)?)$")
    seed: int = Field(0, description="seed of every random choice", ge=0, le=2**31 - 1)
    threads: int | None = Field(None, description="CPU threads for training and exams; unset: all cores, fewer while other programs use them", ge=1, le=1024)
    tensorboard: bool = Field(True, description="write curves for TensorBoard under <run>/tensorboard (with the extra curves installed)")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="how much is logged")


class TreeSettings(Section):
    root: str = Field("generalist", description="name of the root node", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    branches: dict[str, tuple[str, ...]] = Field(
        default={"analytical": ("math", "reasoning"), "language": ("conversation", "knowledge"), "technical": ("code",)},
        description="branch = its domains; add a domain by naming it here and putting records in a folder of that name")


class DataSettings(Section):
    path: str | None = Field(None, description="folder with one sub-folder a domain, or a text file for plain-text recipes")
    format: Literal["records", "text"] = Field("records", description="what data.path holds: records by domain, or one text file for a model of plain text")
    hub: dict[str, tuple[str, ...]] = Field(default={}, description="Hub data sets by domain: \"owner/name prompt=FIELD response=FIELD ...\" (docs/data.md)")
    curriculum: Literal["auto", "always", "never"] = Field("auto", description="embedded curriculum; auto: for domains without records of their own")
    curriculum_records: int = Field(32000, description="records a domain that the curriculum makes a cycle", ge=100, le=5_000_000)
    curriculum_level: int = Field(3, description="highest curriculum level made at the start", ge=1, le=9)
    min_chars: int = Field(1, description="shortest prompt or response kept, in characters", ge=1)
    max_prompt_chars: int = Field(6000, description="longest prompt kept, in characters", ge=16)
    max_response_chars: int = Field(12000, description="longest response kept, in characters", ge=16)
    validation_share: float = Field(0.02, description="share of records held out to measure bits per byte", gt=0, lt=0.5)
    exam_share: float = Field(0.03, description="share of records held out for exams, unless a *_test file is there", gt=0, lt=0.5)
    near_duplicate: float = Field(0.8, description="Jaccard similarity (MinHash) from which two prompts are near-duplicates", gt=0, le=1)
    max_exam_overlap: float = Field(0.05, description="share of exam rows with a near-duplicate in training that refuses the exam", ge=0, le=1)


class TokenizerSettings(Section):
    kind: Literal["bpe", "char", "byte"] = Field("bpe", description="byte-level BPE, characters, or bytes")
    vocab_size: int = Field(2048, description="entries of a BPE vocabulary, role tokens included", ge=300, le=262_144)


class TrainSettings(Section):
    row_tokens: int = Field(384, description="tokens a packed row; at most model.context_tokens", ge=16, le=1_048_576)
    batch_rows: int = Field(8, description="packed rows a step and accumulation phase", ge=1, le=65_536)
    accumulate: int = Field(1, description="batches a step (gradient accumulation)", ge=1, le=4096)
    optimizer: Literal["adamw", "muon", "muon_sophia"] = Field("muon", description="adamw, or muon for matrices and adamw or sophia (an extra) for the rest")
    lr: float | None = Field(None, description="peak rate of AdamW or Sophia; unset: AdamW 0.01 beside Muon and 0.002 alone, Sophia 0.003", gt=0, le=1)
    muon_lr: float = Field(0.02, description="peak learning rate of Muon", gt=0, le=1)
    beta1: float = Field(0.9, description="AdamW first moment", ge=0, lt=1)
    beta2: float = Field(0.95, description="AdamW second moment", ge=0, lt=1)
    weight_decay: float = Field(0.1, description="decay of matrices; norms and embeddings have none", ge=0, le=10)
    schedule: Literal["linear", "cosine", "constant_then_decay"] = Field("linear", description="shape after the warm-up")
    warmup_share: float = Field(0.03, description="share of the steps that warm up", ge=0, le=0.9)
    decay_share: float = Field(0.5, description="share of the steps that decay, for constant_then_decay", ge=0, le=1)
    final_lr_share: float = Field(0.02, description="learning rate at the end as a share of the peak", ge=0, le=1)
    clip_norm: float = Field(1.0, description="largest gradient norm", gt=0)
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast where it measures faster")
    compile: Literal["auto", "off"] = Field("auto", description="torch.compile where there is a compiler and the run is long enough")
    lora_rank: int | None = Field(None, description="rank of LoRA adapters, merged at promotion (extra pretrained); unset: all weights", ge=1, le=4096)
    lora_alpha: float = Field(32.0, description="LoRA adapters count lora_alpha / lora_rank", gt=0, le=4096)
    gradient_checkpointing: bool = Field(False, description="compute layers again in the backward pass: less memory, about a third slower")
    checkpoint_every_s: float = Field(60.0, description="seconds of training between saved states", gt=0)
    checkpoints_keep: int = Field(2, description="saved states kept a node", ge=1, le=100)
    validate_every_steps: int = Field(200, description="steps between validation losses", ge=1)
    validation_rows: int = Field(16, description="packed rows a domain in a validation loss", ge=1, le=100_000)
    max_rollbacks: int = Field(3, description="returns to the last good state after a non-finite loss before a node is set aside", ge=0, le=100)

    @model_validator(mode="after")
    def _adapters_have_their_optimizer(self) -> TrainSettings:
        if self.lora_rank is not None and self.optimizer != "adamw":
            raise ValueError(f"train.lora_rank with train.optimizer = {self.optimizer!r}: Muon isn't made for the thin matrices of adapters; "
                             "set train.optimizer = adamw")
        return self


class LoopSettings(Section):
    minutes: float = Field(10.0, description="training minutes of the first cycle, over the whole tree", gt=0, le=100_000)
    cycle_minutes: float = Field(5.0, description="training minutes of a later cycle", gt=0, le=100_000)
    steps: int | None = Field(None, description="steps of the first cycle in place of minutes (same numbers on every machine)", ge=1)
    cycle_steps: int | None = Field(None, description="steps of a later cycle in place of cycle_minutes", ge=1)
    first_answer_s: float = Field(60.0, description="seconds of root training before its first version is offered; data and router come before", gt=0)
    root_share: float = Field(0.4, description="the root's share of a long first cycle; a short one gives it more, see the next three", gt=0, le=1)
    root_reads: float = Field(3.5, description="tokens a weight that a root of new weights should read in the first cycle; 0: always root_share", ge=0, le=1000)
    root_share_most: float = Field(0.75, description="most of a first cycle on the curriculum that the root gets; a higher root_share stays", ge=0, lt=1)
    root_share_records: float = Field(0.9, description="the same on records; in between where some domains read the curriculum", ge=0, lt=1)
    branch_share: float = Field(0.12, description="share of the first cycle of all branches; less where the root gets more", ge=0, le=1)
    replay_share: float = Field(0.1, description="share of an expert's batches from the other domains", ge=0, le=0.9)
    root_final_lr_share: float = Field(0.2, description="rate at which the root's first training ends, as a share of its peak, at most", ge=0, le=1)
    leaf_lr_share: float = Field(0.2, description="peak learning rate of branches and experts as a share of the root's; less in a short cycle", gt=0, le=1)
    leaf_dropout: float = Field(0.1, description="share of what layers add that is set to 0 where an expert reads its records over 2.5 times", ge=0, lt=1)
    root_learns_prompts: bool = Field(True, description="a root of new weights learns from prompts of records, too; all else from responses")
    level_pass: float = Field(0.9, description="accuracy in 20 or more tasks of its hardest level from which a domain gets the next", ge=0, le=1)
    level_floor: float = Field(0.8, description="accuracy that easier levels must have for that, and below which no promotion surely takes a level", ge=0, le=1)

    @model_validator(mode="after")
    def _shares_leave_room(self) -> LoopSettings:
        if self.root_share + self.branch_share > 1:
            raise ValueError(f"loop.root_share + loop.branch_share = {self.root_share + self.branch_share:g}; at most 1, lower one of them")
        return self


class ExamSettings(Section):
    tasks: int = Field(200, description="tasks a domain in an exam; accuracy decides where 20 or more are graded", ge=10, le=100_000)
    root_tasks: int = Field(60, description="tasks a domain when the root or a branch is examined in the loop", ge=10, le=100_000)
    max_new_tokens: int = Field(192, description="longest answer in an exam", ge=1, le=100_000)
    batch_rows: int = Field(64, description="answers generated at once", ge=1, le=4096)
    bits_rows: int = Field(200, description="held-out rows a domain for bits per byte", ge=1, le=1_000_000)
    accuracy_floor: float = Field(0.0, description="lowest accuracy of an expert in its domain for exit code 0 of test_all_experts.py", ge=0, le=1)
    loop_rate_ceiling: float = Field(0.05, description="highest loop rate for exit code 0 of test_all_experts.py", ge=0, le=1)
    router_floor: float = Field(0.8, description="lowest router accuracy for exit code 0 of test_all_experts.py", ge=0, le=1)


class PromoteSettings(Section):
    confidence: float = Field(0.95, description="how sure the paired bootstrap must be that accuracy rose or fell; between: a tie, bits decide", gt=0.5, lt=1)
    bootstrap_samples: int = Field(2000, description="resamples of the paired bootstrap", ge=100, le=1_000_000)
    loop_rate_max: float = Field(0.05, description="loop rate above which no version is promoted that loops more than the served one", ge=0, le=1)
    guessing_accuracy: float = Field(0.05, description="when candidate and served version both are below it, accuracy says nothing and bits decide", ge=0, le=1)
    bits_ceiling: float = Field(1.25, description="bits per byte as a multiple of the served version's above which nothing is promoted", ge=1)
    bits_tolerance: float = Field(0.002, description="relative change of bits per byte that counts as a tie", ge=0, le=1)


class RegistrySettings(Section):
    keep: int = Field(3, description="versions kept a node, the served one included", ge=1, le=1000)


class RouterSettings(Section):
    rows: int = Field(10_000, description="prompts a domain that the loop fits a router on, at most", ge=10, le=10_000_000)
    curriculum_rows: int = Field(2000, description="curriculum prompts a domain that are fitted on beside the records", ge=0, le=1_000_000)
    words: int = Field(40_000, description="most words and word pairs in the router's vocabulary", ge=100, le=1_000_000)
    letter_groups: int = Field(50_000, description="most groups of 3 to 5 letters in the vocabulary", ge=100, le=1_000_000)
    forms: int = Field(15_000, description="most groups of words that say how something is asked in the vocabulary", ge=10, le=1_000_000)
    min_rows: int = Field(2, description="prompts that a term must stand in to enter the vocabulary", ge=1, le=1000)
    common_words: int = Field(5000, description="most frequent words that a word nobody wrote before may be a typo of; 0: none", ge=0, le=1_000_000)
    source_folds: int = Field(4, description="fits that each leave a part of the sources out and have a say beside the one on all; 0: none", ge=0, le=20)
    folds_share: float = Field(0.5, description="how much those fits count together in the mean with the one on all sources", ge=0, le=1)
    inverse_regularisation: float = Field(0.3, description="C of the linear classifiers; lower is smoother", gt=0, le=1000)
    everyday_rows: int = Field(3000, description="short everyday prompts a domain that the router's own phrases add", ge=0, le=100_000)
    everyday_weight: float = Field(3.0, description="how much an everyday prompt counts in the fit against a record", gt=0, le=100)
    none_rows: int = Field(5000, description="prompts of no domain that are added: other languages, gibberish, other tasks", ge=0, le=100_000)
    perturbed_share: float = Field(0.4, description="share of the rows that are fitted a second time with a typo or the like", ge=0, le=1)
    calibration_share: float = Field(0.12, description="share of the rows kept for temperatures and thresholds", gt=0, lt=0.5)
    false_rejection: float = Field(0.06, description="share of in-domain prompts that may be turned away by the thresholds", gt=0, lt=0.5)
    max_prompt_chars: int = Field(2000, description="characters read of a prompt: its first and its last half", ge=100, le=100_000)
    history_turns: int = Field(3, description="earlier user turns that have a say in an unsure follow-up", ge=0, le=20)
    history_decay: float = Field(0.5, description="weight of each earlier turn against the one after it", ge=0, le=1)
    feedback_a_client: int = Field(50, description="corrections of one client (API key or address) that a fit uses, the newest", ge=0, le=100_000)
    feedback_rows: int = Field(1000, description="corrections of all clients together that a fit uses, the newest", ge=0, le=1_000_000)
    feedback_weight: float = Field(1.0, description="how much a correction counts in the fit against a mean record", gt=0, le=10)


class ServeSettings(Section):
    host: str = Field("127.0.0.1", description="address to listen on; another than loopback needs an API key", min_length=1)
    port: int = Field(8080, description="port to listen on; 0: any free one", ge=0, le=65_535)
    device: str = Field("cpu", description="device of the gateway; the loop holds the card", pattern=r"^(auto|cpu|mps|xpu|cuda(:\d+)?|directml(:\d+)?)$")
    poll_s: float = Field(1.0, description="seconds between looks at the registry's pointer", gt=0, le=3600)
    engine: Literal["auto", "torch", "llamacpp"] = Field("auto", description="auto: llama.cpp on a CPU when the extra cpu is installed, else torch")
    compile: Literal["auto", "off"] = Field("auto", description="torch engine: steps of one stream compiled where there is a compiler and it pays")
    gguf: Literal["f32", "f16", "q8_0"] = Field("f32", description="numbers of the weights in llama.cpp; f32 gives the same greedy texts as torch")
    coalesce_ms: float = Field(20.0, description="shortest time between two events of a stream after the first", ge=0, le=1000)
    threads: int | None = Field(None, description="CPU threads of the gateway; unset: the engine's own choice", ge=1, le=1024)
    slots: int = Field(32, description="requests a node decodes at once", ge=1, le=1024)
    queue: int = Field(64, description="requests that may wait for a slot of a node; more are refused with 429", ge=0, le=4096)
    queue_wait_s: float = Field(30.0, description="longest wait for a slot", gt=0, le=3600)
    prefill_tokens: int = Field(256, description="prompt tokens read between two steps of the running streams", ge=8, le=1_048_576)
    default_new_tokens: int = Field(256, description="longest answer when the request doesn't say", ge=1, le=1_000_000)
    max_new_tokens: int = Field(2048, description="longest answer that may be asked for", ge=1, le=1_000_000)
    deadline_s: float = Field(120.0, description="seconds after which an answer ends as it stands", gt=0, le=86_400)
    drain_s: float = Field(30.0, description="seconds that running answers get at shutdown; a service manager must wait 10 s longer", ge=0, le=3600)
    body_kib: int = Field(256, description="largest request body", ge=1, le=65_536)
    loop_repeats: int | None = Field(8, description="an answer ends when its end repeats this often; unset: never", ge=3, le=1000)
    feedback: bool = Field(False, description="take POST /feedback; what clients judge is kept in the journal with its prompt")
    memory_mib: int | None = Field(None, description="memory for loaded nodes; the least used leave; unset: no limit", ge=16)
    api_key_file: str | None = Field(None, description="file with API keys, one a line; the variable BRANCHWISE_API_KEY adds one", min_length=1)
    upstream: dict[str, str] = Field(default={}, description="node = address of an OpenAI-compatible server that answers for it, as in http://host:8000/v1#model")


class Settings(Section):
    """Everything that can be set, one table of config.toml a field."""

    run: RunSettings = RunSettings()
    tree: TreeSettings = TreeSettings()
    data: DataSettings = DataSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    decoding: DecodingSettings = DecodingSettings()
    text: TextSettings = TextSettings()
    moe: MoeSettings = MoeSettings()
    loop: LoopSettings = LoopSettings()
    exam: ExamSettings = ExamSettings()
    promote: PromoteSettings = PromoteSettings()
    registry: RegistrySettings = RegistrySettings()
    router: RouterSettings = RouterSettings()
    serve: ServeSettings = ServeSettings()

    @model_validator(mode="after")
    def _rows_fit_the_model(self) -> Settings:
        if self.train.row_tokens > self.model.context_tokens:
            raise ValueError(f"train.row_tokens = {self.train.row_tokens} is more than model.context_tokens = {self.model.context_tokens}; "
                             "lower the first or raise the second")
        if self.train.lora_rank is not None and self.model.base is None:
            raise ValueError("train.lora_rank is set and model.base isn't: adapters beside untrained weights learn little; name a base, or unset the rank")
        if self.data.format == "text" and self.model.base is not None:
            raise ValueError("data.format = 'text' trains a new model, model.base names a pretrained one; unset one of them")
        return self


def known_keys() -> tuple[str, ...]:
    """Every settable key as section.key, in the order of config.toml."""
    return tuple(f"{section}.{key}" for section, table in Settings() for key in type(table).model_fields)


def load(*, config: Path | None = None, recipe: str | None = None, overrides: Sequence[str] = (),
         run_dir: str | None = None, data_path: str | None = None) -> Settings:
    """Merge defaults, a config file, a recipe and overrides, the later over the earlier, and check the result.

    config: None for the config.toml beside this file. recipe: a name under recipes/ or a TOML file.
    overrides: "section.key=value", value in TOML; a bare word is a string. Raises SettingsError.
    """
    tables: dict[str, Any] = {}
    if config is not None or DEFAULT_CONFIG.exists():
        _merge(tables, read_toml(config or DEFAULT_CONFIG))
    if recipe is not None:
        _merge(tables, read_toml(_recipe_file(recipe)))
    for section, key, value in (("run", "dir", run_dir), ("data", "path", data_path)):
        if value is not None:
            _merge(tables, {section: {key: value}})
    return _overridden(tables, overrides)


def changed(settings: Settings, overrides: Sequence[str]) -> Settings:
    """These settings with overrides as load() takes them. Raises SettingsError."""
    return _overridden(settings.model_dump(exclude_none=True), overrides)


def _overridden(tables: dict[str, Any], overrides: Sequence[str]) -> Settings:
    for override in overrides:
        _merge(tables, _parse_override(override), add_branches=override.startswith("tree.branches."))
    return check(tables)


def check(tables: Mapping[str, Any]) -> Settings:
    """Settings from nested tables; raises SettingsError that lists every fault with its key."""
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(fault) for fault in error.errors())) from None


def read_toml(path: Path) -> dict[str, Any]:
    """One TOML file as tables; raises SettingsError when it is absent or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"no settings file at {path}; give --config or --recipe a file that exists") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no UTF-8 ({error}); save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise SettingsError(f"{path} can't be read as TOML: {error}") from None


def _recipe_file(recipe: str) -> Path:
    if recipe.endswith(".toml") or "/" in recipe or "\\" in recipe:
        return Path(recipe)
    file = RECIPES / f"{recipe}.toml"
    if not file.exists():
        names = sorted(path.stem for path in RECIPES.glob("*.toml"))
        raise SettingsError(f"no recipe named {recipe!r}{_nearest(recipe, names)}; known: {', '.join(names)}; or give a TOML file")
    return file


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals:
        raise SettingsError(f"--set {text!r} has no '='; write --set section.key=value, as in --set run.seed=1")
    if key.count(".") < 1:
        raise SettingsError(f"--set {text!r}: {key!r} names no section{_nearest(key, known_keys())}; write section.key=value")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _merge(into: dict[str, Any], tables: Mapping[str, Any], *, path: tuple[str, ...] = (), add_branches: bool = False) -> None:
    """Lay tables over others. The table tree.branches is replaced as a whole, unless add_branches changes or adds one of them."""
    for key, value in tables.items():
        whole = (*path, key) == ("tree", "branches") and not add_branches
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and not whole:
            _merge(into[key], value, path=(*path, key), add_branches=add_branches)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(fault: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        names = known_keys() if "." in key else tuple(Settings.model_fields)
        return f"unknown setting {key!r} (value {fault['input']!r}){_nearest(key, names)}; see config.toml for every key"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"{key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}; see its line in config.toml"


def _nearest(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    return f", did you mean {close[0]!r}?" if close else ""


def to_toml(settings: Settings, *, comments: bool = True) -> str:
    """Settings as the text of a config.toml, every key with its description as a comment."""
    return "\n".join(_toml_lines(settings, comments=comments)) + "\n"


def _toml_lines(settings: Settings, *, comments: bool) -> Iterator[str]:
    for section in Settings.model_fields:
        table = getattr(settings, section)
        yield f"[{section}]"
        nested: list[str] = []
        for key, field in type(table).model_fields.items():
            value, comment = getattr(table, key), f"  # {field.description}" if comments else ""
            if isinstance(value, dict):
                nested += ["", f"[{section}.{key}]{comment}", *(f"{name} = {_toml_value(item)}" for name, item in value.items())]
            elif value is None:
                yield f"# {key} ={comment or '  # unset'}"
            else:
                yield f"{key} = {_toml_value(value)}{comment}"
        yield from nested
        yield ""


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that every command has."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file in place of config.toml")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="recipe laid over the settings")
    parser.add_argument("--run", metavar="DIR", help="run folder (run.dir)")
    parser.add_argument("--data", metavar="PATH", help="folder of domains, or a text file for plain-text recipes (data.path)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="one setting, as in train.lr=1e-3")
    parser.add_argument("--print-config", action="store_true", help="print the settings in force and stop")


def from_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Settings:
    """Settings of a parsed command line; a wrong one ends the command with exit code 2 and the reason."""
    try:
        settings = load(config=arguments.config, recipe=arguments.recipe, overrides=arguments.overrides,
                        run_dir=arguments.run, data_path=arguments.data)
    except SettingsError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if arguments.print_config:
        sys.stdout.write(to_toml(settings))
        parser.exit(0)
    return settings


if __name__ == "__main__":
    print(to_toml(Settings()), end="")
