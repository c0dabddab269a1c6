"""experts/repetition.py against the definition read off all pairs of places, and what it does to answers of a model that would loop."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from experts.decoding import Task, writer
from experts.device import cpu_device
from experts.repetition import Repetition
from settings import DecodingSettings


def _by_definition(ids, settings):
    """For every earlier place in the window: how far the text that ends there equals the end of the whole text, within the window."""
    window = ids[-settings.dry_window_tokens:]
    longest = {}
    for place in range(len(window) - 1):
        length = 0
        while length <= place and window[place - length] == window[-1 - length]:
            length += 1
        if length >= settings.dry_allowed_tokens:
            longest[window[place + 1]] = max(length, longest.get(window[place + 1], 0))
    return {token: settings.dry_multiplier * settings.dry_base ** (length - settings.dry_allowed_tokens) for token, length in longest.items()}


@given(ids=st.lists(st.integers(0, 3), max_size=40), allowed=st.integers(1, 4), window=st.integers(2, 50))
def test_penalties_equal_the_definition_at_every_length(ids, allowed, window):
    settings = DecodingSettings(dry_multiplier=0.5, dry_base=1.5, dry_allowed_tokens=allowed, dry_window_tokens=window)
    followed = Repetition(settings)
    for count, token in enumerate(ids, start=1):
        followed.push(token)
        assert followed.penalties() == _by_definition(ids[:count], settings)


def test_penalties_by_hand():
    """1 2 3 4 5 then 1 2 3 4: the four repeated tokens were followed by 5. One more: 5 repeated too, and 1 followed it."""
    followed = Repetition(DecodingSettings(dry_multiplier=1.0, dry_base=2.0, dry_allowed_tokens=4), [1, 2, 3, 4, 5, 1, 2, 3])
    assert followed.penalties() == {}
    followed.push(4)
    assert followed.penalties() == {5: 1.0}
    followed.push(5)
    assert followed.penalties() == {1: 2.0}


def _greedy(model, prompts, decoding):
    task = Task(prompts, [60] * len(prompts), end_id=None, pad_id=0, repetition=decoding)
    written = writer(model, task, device=cpu_device())
    written.run(2)
    return written.answers


def _longest_repeated(ids):
    best = 0
    for end in range(1, len(ids)):
        for earlier in range(end):
            length = 0
            while length <= earlier and ids[earlier - length] == ids[end - length]:
                length += 1
            best = max(best, length)
    return best


def test_greedy_answers_of_a_model_that_loops_repeat_nothing_long():
    """New weights repeat themselves at once; the same weights under the rule don't, and alone or side by side write the same."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=50, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=16,
                                         num_key_value_heads=1, max_position_embeddings=128)).eval()
    prompts = [[3, 4, 5], [7, 8], [9]]
    free, ruled = _greedy(model, prompts, None), _greedy(model, prompts, DecodingSettings())
    assert min(map(_longest_repeated, free)) > 12
    assert max(map(_longest_repeated, ruled)) <= 6
    assert [_greedy(model, [prompt], DecodingSettings())[0] for prompt in prompts] == ruled
