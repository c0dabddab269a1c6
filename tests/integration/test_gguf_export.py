"""A version as GGUF: llama.cpp reads the same ids and writes the same greedy text."""

import os
import random
import string

import pytest
from read_stream import last_event, whole_answer

import settings as configuration
from benchmarks.random_run import add_node, make_run, train_tokenizer
from experts import tokenizer as tokens
from experts.__main__ import main
from experts.device import cpu_device
from experts.expert import Expert
from experts.gguf_export import ExportError, export
from experts.registry import Registry
from serving.engines.interface import End, EngineLimits, Piece, Sampling, Work
from settings import DecodingSettings

pytest.importorskip("gguf", reason="the extra cpu isn't installed")
pytest.importorskip("xllamacpp", reason="the extra cpu isn't installed")

MODEL = configuration.ModelSettings(layers=2, width=64, heads=4, kv_heads=2, intermediate=96, context_tokens=256)
PIECES = ("def f(x):\n    return x + 1", "12 + 345 = 357", "it's \u00e9t\u00e9", "\u4f60\u597d", "\U0001f600\U0001f468\u200d\U0001f469", "  \t\n\n", "<|user|>",
          "A_b-C.d", "3.14159", "don't we'll I'M", "\u0661\u0662\u0663", "\x00\x7f", "x" * 30, "\u00a0\u2003", "\u00bd\u00b2")


@pytest.fixture(scope="module", params=["bpe", "byte"])
def served(request, tmp_path_factory):
    """Folder of a version and its GGUF file."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = configuration.check({"run": {"dir": str(folder)}, "tokenizer": {"kind": request.param, "vocab_size": 420}})
    registry = Registry(folder)
    version = add_node(registry, "math", train_tokenizer(settings.tokenizer), model=MODEL, seed=3)
    return registry.path("math", version), export(registry.path("math", version), folder / "math.gguf", name="math")


def _server(file, slots=4):
    from serving.engines.llamacpp_engine import _start_server
    return _start_server(file, context_tokens=256, slots=slots, threads=1, exact=True)


def _strings(count):
    numbers = random.Random(0)
    for _ in range(count):
        parts = [numbers.choice(PIECES) if numbers.random() < 0.6 else "".join(chr(numbers.choice((
            numbers.randrange(32, 127), numbers.randrange(0xa0, 0x2000), numbers.randrange(0x4e00, 0x9fff), numbers.randrange(0x1f300, 0x1f700))))
            for _ in range(numbers.randrange(1, 8))) for _ in range(numbers.randrange(1, 6))]
        yield numbers.choice(("", " ", "\n")).join(parts)


def _check_ids(served, count):
    """llama.cpp reports how many tokens a text has through its own listener; ids by /tokenize."""
    import requests
    import xllamacpp

    folder, file = served
    tokenizer = tokens.load(folder)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.port, params.warmup, params.verbosity = str(file), 256, 0, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    with requests.Session() as session:
        for text in _strings(count):
            answer = session.post(f"{server.listening_address}/tokenize", json={"content": text, "add_special": False, "parse_special": False}, timeout=30)
            assert answer.json()["tokens"] == tokens.text_ids(tokenizer, text), repr(text)


def test_gguf_ids_of_random_and_real_strings_equal_ours(served):
    _check_ids(served, 400)


@pytest.mark.slow
def test_gguf_ids_of_ten_thousand_strings_equal_ours(served):
    _check_ids(served, 10_000)


@pytest.mark.parametrize("decoding", [None, DecodingSettings(), DecodingSettings(dry_multiplier=0.5, dry_base=1.2, dry_allowed_tokens=2, dry_window_tokens=16)])
def test_gguf_greedy_texts_equal_the_experts(served, decoding):
    from serving.engines.llamacpp_engine import LlamaCppModel
    folder, file = served
    expert = Expert.load(folder, device=cpu_device())
    talks = [[{"role": "user", "content": text}] for text in ("What is 3 + 4?", "def f(x):", "Hello! " * 12, "12345", string.punctuation)]
    wanted = [answer.text for answer in expert.generate(talks, max_new_tokens=60, repetition=decoding)]
    assert decoding is None or wanted != [answer.text for answer in expert.generate(talks, max_new_tokens=60)]
    model = LlamaCppModel(file, expert.tokenizer, name="math", context_tokens=256, limits=EngineLimits(slots=4, loop_repeats=None), threads=1,
                          exact=True, on_close=bool)
    try:
        texts = [whole_answer(model.submit(Work(model.encode(talk), 60, Sampling(dry=decoding))))[0] for talk in talks]
    finally:
        model.close()
    cut = "\ufffd"  # half a character at the end of a text that was cut: llama.cpp leaves it out
    assert [text.rstrip(cut) for text in texts] == [text.rstrip(cut) for text in wanted]


@pytest.mark.parametrize("temperature", [1e-40, 1e-46])
def test_llamacpp_temperature_next_to_nothing_is_greedy(served, temperature):
    from serving.engines.llamacpp_engine import LlamaCppModel
    folder, file = served
    model = LlamaCppModel(file, tokens.load(folder), name="math", context_tokens=256, limits=EngineLimits(slots=4, loop_repeats=None), threads=1,
                          exact=True, on_close=bool)
    try:
        ids = model.encode([{"role": "user", "content": "What is 3 + 4?"}])
        texts = [whole_answer(model.submit(Work(ids, 40, Sampling(temperature=value, seed=5), ignore_end=True)))[0] for value in (0.0, temperature)]
    finally:
        model.close()
    assert texts[1] == texts[0]


def test_llamacpp_cancelled_request_ends_and_frees_its_slot(served):
    from serving.engines.llamacpp_engine import LlamaCppModel
    folder, file = served
    model = LlamaCppModel(file, tokens.load(folder), name="math", context_tokens=256, limits=EngineLimits(slots=1, queue=0, loop_repeats=None), threads=1,
                          exact=True, on_close=bool)
    try:
        work = Work(model.encode([{"role": "user", "content": "count"}]), 240, Sampling(temperature=1.0, seed=1), ignore_end=True)
        stream = model.submit(work)
        assert isinstance(stream.next(timeout_s=60), Piece)
        stream.cancel()
        _, end = last_event(stream)
        assert isinstance(end, End)
        assert (end.finish_reason, end.completion_tokens < 240) == ("cancelled", True)
        while model.capacity().busy:
            pass
        assert last_event(model.submit(work))[1].completion_tokens == 240
    finally:
        model.close()


def test_llamacpp_files_of_versions_that_left_are_removed_once_they_are_old(tmp_path):
    from serving.engines.llamacpp_engine import LlamaCppEngine

    settings = configuration.check({"run": {"dir": str(tmp_path)}, "tokenizer": {"vocab_size": 420}})
    registry, tokenizer = Registry(tmp_path), train_tokenizer(settings.tokenizer)
    versions = [add_node(registry, "math", tokenizer, model=MODEL, seed=seed) for seed in (1, 2, 3)]
    engine = LlamaCppEngine(tmp_path / "gguf", limits=EngineLimits(slots=2))
    first, second, third = (engine.load(registry.path("math", version), name="math") for version in versions)
    for model in (first, second):
        os.utime(model.file, (0, 0))
    third.close()  # young: a version that is taken back soon needs no second export
    assert sorted((tmp_path / "gguf").iterdir()) == sorted([second.file, first.file, third.file])
    first.close()
    assert sorted((tmp_path / "gguf").iterdir()) == sorted([second.file, third.file])
    engine.close()  # the next start wants the same files
    assert sorted((tmp_path / "gguf").iterdir()) == sorted([second.file, third.file])


@pytest.mark.parametrize(("weight_bytes", "cores", "models", "threads"), [
    (23 << 20, 2, 8, 1), (23 << 20, 16, 8, 2), (23 << 20, 8, 1, 8), (1 << 30, 8, 8, 8)])
def test_threads_of_small_models_share_the_cores_and_a_large_one_takes_all(weight_bytes, cores, models, threads):
    from serving.engines.llamacpp_engine import threads_of

    assert threads_of(weight_bytes, cores=cores, models=models) == threads


def test_export_of_a_char_tokenizer_is_refused_with_what_can_be_exported(tmp_path):
    settings = configuration.check({"run": {"dir": str(tmp_path)}, "tokenizer": {"kind": "char"}, "model": MODEL.model_dump(), "train": {"row_tokens": 64}})
    registry = make_run(settings, nodes=("generalist",), with_router=False)
    with pytest.raises(ExportError, match=r"isn't byte-level BPE; only tokenizer\.kind"):
        export(registry.served("generalist"), tmp_path / "out.gguf", name="x")
    assert not (tmp_path / "out.gguf").exists()


def test_export_command_writes_the_version_in_force(tmp_path, capsys):
    settings = configuration.check({"run": {"dir": str(tmp_path)}, "tokenizer": {"vocab_size": 420}, "model": MODEL.model_dump(), "train": {"row_tokens": 64}})
    make_run(settings, nodes=("generalist",), with_router=False)
    out = tmp_path / "out.gguf"
    assert main(["export", "--run", str(tmp_path), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
    assert out.read_bytes()[:4] == b"GGUF"
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--run", str(tmp_path), "--node", "math"])
    assert "math has no promoted version" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_export_smaller_kinds_are_smaller_and_still_answer(served, kind, tmp_path):
    folder, file = served
    small = export(folder, tmp_path / "small.gguf", name="x", kind=kind)
    assert small.stat().st_size < 0.75 * file.stat().st_size
    reply = _server(small).handle_completions({"prompt": [1, 2, 3], "n_predict": 4, "ignore_eos": True})
    assert reply["usage"]["completion_tokens"] == 4
