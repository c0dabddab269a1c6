"""The torch engine with several models: one pass for all of them, texts that don't depend on the rest, faults that stay where they are."""

import time

import pytest
import torch
from read_stream import last_event
from transformers import BambaConfig, BambaForCausalLM, GenerationConfig

from experts import architectures, tokenizer
from experts.device import cpu_device
from experts.expert import Expert
from serving.engines import sampling
from serving.engines.compiled_step import StepCompiler, can_compile
from serving.engines.interface import End, EngineClosed, EngineFull, EngineLimits, Failed, LoadFailed, Piece, Sampling, Work
from serving.engines.lean_qwen3 import JoinedQwen3
from serving.engines.rows import Row
from serving.engines.slots import Slots
from serving.engines.torch_engine import TorchEngine
from settings import DecodingSettings, ModelSettings, TokenizerSettings

MODEL = ModelSettings(layers=2, width=32, heads=4, kv_heads=2, intermediate=48, context_tokens=128)
LIMITS = EngineLimits(slots=3, queue=8, prefill_tokens=32, loop_repeats=None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four versions of one shape with answers that vary, and one of another shape."""
    made = []
    tokens = tokenizer.train([], settings=TokenizerSettings(kind="byte"))
    for seed in range(5):
        shape = MODEL if seed < 4 else MODEL.model_copy(update={"heads": 2})
        model = architectures.build(shape, vocab_size=len(tokens), end_id=tokenizer.end_id(tokens), pad_id=tokenizer.pad_id(tokens), seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8 if parameter.dim() > 1 else 1)
        made.append(tmp_path_factory.mktemp(f"version{seed}"))
        Expert(model, tokens, device=cpu_device()).save(made[-1])
    return made


@pytest.fixture
def engine():
    engine = TorchEngine(cpu_device(), limits=LIMITS)
    yield engine
    engine.close()


def _work(model, number, *, length=1, tokens=20):
    return Work(model.encode([{"role": "user", "content": f"What is {number}? " * length}]), tokens, Sampling(temperature=1.0, seed=number), ignore_end=True)


def test_texts_alone_equal_texts_among_rows_of_every_model(engine, folders):
    models = [engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders)]
    asks = [(model, _work(model, number + 10 * place, length=1 + (number + place) % 4)) for place, model in enumerate(models) for number in range(4)]
    alone = [last_event(model.submit(work)) for model, work in asks]  # more prompts than slots, some longer than a turn
    streams = [model.submit(work) for model, work in asks]
    together = [last_event(stream) for stream in streams]
    assert [text for text, _ in together] == [text for text, _ in alone]
    assert {end.completion_tokens for _, end in together} == {20}
    assert len({text for text, _ in alone}) > 15


@pytest.mark.parametrize("decoding", [None, DecodingSettings(), DecodingSettings(dry_multiplier=3.0, dry_allowed_tokens=1)])
def test_greedy_texts_equal_the_experts_however_repetition_is_kept_down(engine, folders, decoding):
    expert, model = Expert.load(folders[0], device=cpu_device()), engine.load(folders[0], name="node")
    talks = [[{"role": "user", "content": text}] for text in ("What is 3 + 4?", "again and again and again", "x")]
    streams = [model.submit(Work(model.encode(talk), 40, Sampling(dry=decoding))) for talk in talks]
    wanted = [answer.text for answer in expert.generate(talks, max_new_tokens=40, repetition=decoding)]
    assert [last_event(stream)[0] for stream in streams] == wanted
    assert decoding is None or wanted != [answer.text for answer in expert.generate(talks, max_new_tokens=40)]


def test_pass_is_shared_by_models_of_one_shape(engine, folders, monkeypatch):
    seen = []
    made = JoinedQwen3.__init__
    monkeypatch.setattr(JoinedQwen3, "__init__", lambda self, forwards: (seen.append(len(set(forwards))), made(self, forwards))[1])
    models = [engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:4])]
    with engine.lock:  # all of them before the thread looks
        streams = [model.submit(_work(model, 1)) for model in models]
    for stream in streams:
        assert isinstance(last_event(stream)[1], End)
    assert max(seen) == 4


def test_model_that_breaks_in_a_shared_pass_ends_its_requests_alone(engine, folders):
    models = [engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:3])]
    wanted = [last_event(model.submit(_work(model, 5, tokens=60)))[0] for model in models]
    streams = [model.submit(_work(model, 5, tokens=60)) for model in models]
    assert all(isinstance(stream.next(timeout_s=60), Piece) for stream in streams)
    models[1].forward.embed = None
    ends = [last_event(stream) for stream in streams]
    assert [type(end) for _, end in ends] == [End, Failed, End]
    assert wanted[0].endswith(ends[0][0])
    assert wanted[2].endswith(ends[2][0])
    assert [model.capacity().busy for model in models] == [0, 0, 0]
    assert last_event(models[0].submit(_work(models[0], 5, tokens=60)))[0] == wanted[0]


def test_row_whose_choosing_raises_ends_alone(engine, folders, monkeypatch):
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    asks = [(first, _work(first, 5, tokens=100)), (second, _work(second, 6, tokens=100))]
    wanted = [last_event(model.submit(work))[0] for model, work in asks]
    bad = _work(second, 7)

    def choose(logits_BV, rows):
        if any(row.sampling == bad.sampling for row in rows):
            raise IndexError("index 259 is out of bounds")
        return sampling.choose(logits_BV, rows)

    monkeypatch.setattr("serving.engines.batch.choose", choose)
    streams = [model.submit(work) for model, work in asks]
    heads = [stream.next(timeout_s=60).text for stream in streams]
    assert isinstance(last_event(second.submit(bad))[1], Failed)
    ends = [last_event(stream) for stream in streams]
    assert [type(end) for _, end in ends] == [End, End]
    assert [head + text for head, (text, _) in zip(heads, ends, strict=True)] == wanted
    assert [model.capacity().busy for model in (first, second)] == [0, 0]


def test_row_whose_text_cant_be_read_ends_alone(engine, folders, monkeypatch):
    model = engine.load(folders[0], name="node0")
    wanted = last_event(model.submit(_work(model, 5, tokens=100)))[0]
    take = Row.take

    def broken(row, token, logprobs_V):
        if row.work.sampling.seed == 7:
            raise ValueError("no such token")
        return take(row, token, logprobs_V)

    monkeypatch.setattr(Row, "take", broken)
    with engine.lock:
        streams = [model.submit(_work(model, 5, tokens=100)), model.submit(_work(model, 7))]
    (text, end), (_, failed) = [last_event(stream) for stream in streams]
    assert (text, type(end), type(failed)) == (wanted, End, Failed)


def test_temperature_next_to_nothing_is_greedy_and_the_others_go_on(engine, folders):
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    wanted = last_event(first.submit(_work(first, 5, tokens=100)))[0]
    prompt = second.encode([{"role": "user", "content": "x"}])
    greedy, tiny = (Work(prompt, 20, Sampling(temperature=value, seed=1), ignore_end=True) for value in (0.0, 1e-46))
    stream = first.submit(_work(first, 5, tokens=100))
    head = stream.next(timeout_s=60).text
    texts = [last_event(second.submit(work)) for work in (greedy, tiny)]
    assert texts[1][0] == texts[0][0]
    assert isinstance(texts[1][1], End)
    text, end = last_event(stream)
    assert (head + text, type(end)) == (wanted, End)


@pytest.fixture
def at_token(monkeypatch):
    """A function (work, number, act): the decode thread calls act when that request gets that token."""
    def plan(work, number, act):
        take = Row.take

        def counted(row, token, logprobs_V):
            if row.work is work and len(row.state.ids) == len(work.prompt_ids) + number - 1:
                act()
            return take(row, token, logprobs_V)

        monkeypatch.setattr(Row, "take", counted)
    return plan


def _no_numbers(model):
    model.forward.layers[0].qkv.fill_(torch.nan)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_model_whose_numbers_break_ends_its_requests_alone(engine, folders, at_token, temperature):
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    prompts = [first.encode([{"role": "user", "content": f"What is {number}?"}]) for number in range(3)]
    asks = [(model, Work(ids, 60, Sampling(temperature=temperature, seed=seed), ignore_end=True)) for seed, ids in enumerate(prompts)
            for model in (second, first)]
    wanted = [last_event(model.submit(work))[0] for model, work in asks]
    at_token(asks[4][1], 3, lambda: _no_numbers(second))
    with engine.lock:
        streams = [model.submit(work) for model, work in asks]
    ends = [last_event(stream) for stream in streams]
    assert [type(end) for _, end in ends] == [Failed, End] * 3
    assert [text for text, _ in ends[1::2]] == wanted[1::2]
    assert [model.capacity().busy for model in (first, second)] == [0, 0]


@pytest.mark.parametrize("broken", [(1, 8), (8, 1)])
@pytest.mark.parametrize("after", [(1, 8), (8, 1)])
def test_model_whose_numbers_break_spoils_no_slot(engine, folders, at_token, broken, after):
    """Of two rows side by side the shorter one has masked columns over what lay in its slot before."""
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    wanted = [last_event(first.submit(_work(first, 3, length=length)))[0] for length in after]
    works = [_work(second, 3, length=length, tokens=100) for length in broken]
    at_token(works[1], 3, lambda: _no_numbers(second))
    with engine.lock:
        streams = [second.submit(work) for work in works]
    assert [type(last_event(stream)[1]) for stream in streams] == [Failed, Failed]
    with engine.lock:
        streams = [first.submit(_work(first, 3, length=length)) for length in after]
    assert [last_event(stream)[0] for stream in streams] == wanted


def test_row_that_moves_into_the_slot_of_one_without_numbers_goes_on(engine, folders, at_token):
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    short, long, bad = _work(first, 3, tokens=100), _work(first, 4, length=8), _work(second, 3, length=8, tokens=100)
    wanted = [last_event(first.submit(work))[0] for work in (short, long)]
    streams = []
    at_token(bad, 1, lambda: streams.append(first.submit(short)))
    at_token(bad, 3, lambda: (_no_numbers(second), streams.append(first.submit(long))))
    assert isinstance(last_event(second.submit(bad))[1], Failed)
    assert [last_event(stream)[0] for stream in streams] == wanted


def test_model_unloaded_in_mid_answer_fails_its_streams_and_the_others_go_on(engine, folders):
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    streams = [model.submit(_work(model, 3, tokens=100)) for model in (first, second)]
    assert all(isinstance(stream.next(timeout_s=60), Piece) for stream in streams)
    first.close()
    assert isinstance(last_event(streams[0])[1], Failed)
    assert last_event(streams[1])[1].completion_tokens == 100
    with pytest.raises(EngineClosed, match="node0 was unloaded"):
        first.submit(_work(first, 3))


def test_model_that_gets_no_slots_is_a_failed_load_and_the_others_go_on(engine, folders, monkeypatch):
    first = engine.load(folders[0], name="node0")

    def no_memory(slots, count, filled):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Slots, "grown", no_memory)
    with pytest.raises(LoadFailed, match=r"node1 got no slots: RuntimeError: out of memory"):
        engine.load(folders[1], name="node1")
    assert last_event(first.submit(_work(first, 1)))[1].completion_tokens == 20
    monkeypatch.undo()
    second = engine.load(folders[1], name="node1")
    assert last_event(second.submit(_work(second, 1)))[1].completion_tokens == 20


def test_slots_and_queue_of_one_model_are_its_own(engine, folders):
    first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
    with engine.lock:
        streams = [first.submit(_work(first, number, tokens=100)) for number in range(LIMITS.slots + LIMITS.queue)]
        with pytest.raises(EngineFull, match="3 slots and 8 waiting"):
            first.submit(_work(first, 99))
        streams.append(second.submit(_work(second, 1)))
    for stream in streams:
        assert isinstance(last_event(stream)[1], End)
    assert (first.capacity().busy, first.capacity().waiting) == (0, 0)


def test_cancelled_rows_leave_within_a_step_and_free_their_slots(engine, folders):
    models = [engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2])]
    streams = [model.submit(_work(model, number, tokens=100)) for model in models for number in range(5)]
    for stream in streams:
        stream.cancel()
    assert {last_event(stream)[1].finish_reason for stream in streams} == {"cancelled"}
    until = time.monotonic() + 5
    while any(model.capacity().busy + model.capacity().waiting for model in models) and time.monotonic() < until:
        time.sleep(0.01)
    assert [model.capacity().busy + model.capacity().waiting for model in models] == [0, 0]


def test_hybrid_answers_equal_generate_for_prompts_side_by_side(engine, tmp_path):
    tokens = tokenizer.train([], settings=TokenizerSettings(kind="byte"))
    torch.manual_seed(0)
    model = BambaForCausalLM(BambaConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=3, attn_layer_indices=[1], num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=16, max_position_embeddings=128, tie_word_embeddings=True)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(6 if "proj" in name or "embed" in name else 1)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.end_id(tokens), pad_token_id=tokenizer.pad_id(tokens))
    Expert(model, tokens, device=cpu_device()).save(tmp_path)
    served = engine.load(tmp_path, name="hybrid")
    prompts = [served.encode([{"role": "user", "content": "What is 2? " * count}]) for count in (1, 4, 2, 3)]  # one longer than prefill_tokens
    streams = [served.submit(Work(ids, 16, ignore_end=True)) for ids in prompts]
    for ids, stream in zip(prompts, streams, strict=True):
        with torch.no_grad():
            whole = model.generate(torch.tensor([ids]), attention_mask=torch.ones((1, len(ids)), dtype=torch.int64), max_new_tokens=16, min_new_tokens=16,
                                   do_sample=False)
        assert last_event(stream)[0] == tokenizer.decode(tokens, whole[0, len(ids):].tolist())


def test_step_is_asked_for_once_a_model_decoded_alone_for_long_enough(folders, monkeypatch):
    asked = []
    monkeypatch.setattr(StepCompiler, "want", lambda compiler, forward: asked.append(forward))
    monkeypatch.setattr("serving.engines.torch_engine.can_compile", lambda device: True)
    engine = TorchEngine(cpu_device(), limits=LIMITS, compile_after_s=0.0)
    try:
        first, second = (engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2]))
        with engine.lock:  # two rows from the first pass to the last
            streams = [second.submit(_work(second, number)) for number in range(2)]
        assert [last_event(stream)[1].completion_tokens for stream in streams] == [20, 20]
        assert asked == []
        for _ in range(2):
            last_event(first.submit(_work(first, 1)))
        assert asked == [first.forward]
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(cpu_device()), reason="no C++ compiler here")
def test_compiled_step_writes_the_eager_steps_text(folders, monkeypatch):
    """With the real compiler: the texts of one stream before and after, of two versions of one shape."""
    monkeypatch.setattr("serving.engines.compiled_step._WORTHWHILE", 100.0)  # a toy's step may take as long compiled
    engine = TorchEngine(cpu_device(), limits=LIMITS, compile_after_s=1e9)
    try:
        models = [engine.load(folder, name=f"node{number}") for number, folder in enumerate(folders[:2])]
        asks = [(model, Work(model.encode([{"role": "user", "content": f"What is {number}?"}]), 60, Sampling(temperature=temperature, seed=number),
                             ignore_end=True)) for model in models for number in range(3) for temperature in (0.0, 1.0)]
        eager = [last_event(model.submit(work))[0] for model, work in asks]
        for model in models:
            engine._compiler.want(model.forward)
        engine.wait_compiled()
        assert all(model.forward.compiled is not None for model in models)
        assert [last_event(model.submit(work))[0] for model, work in asks] == eager
    finally:
        engine.close()
