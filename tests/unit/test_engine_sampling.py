"""The next token of a row, against transformers' own filters and by hand."""

import pytest
import torch
from transformers.generation.logits_process import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from serving.engines.interface import Sampling
from serving.engines.sampling import RowState, choose


def _draws(logits_V, sampling, count=4000):
    rows = [RowState(Sampling(**{**sampling, "seed": seed}), []) for seed in range(count)]
    return torch.tensor(choose(logits_V.repeat(count, 1), rows))


def test_choose_temperature_zero_takes_the_first_of_the_largest():
    assert choose(torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 0.0]]), [RowState(Sampling(), []), RowState(Sampling(), [])]) == [1, 0]


@pytest.mark.parametrize("sampling", [
    {"temperature": 0.7}, {"temperature": 1.3, "top_k": 5}, {"temperature": 1.0, "top_p": 0.6}, {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 0.9, "top_k": 12, "top_p": 0.8, "min_p": 0.05}])
def test_choose_frequencies_equal_the_distribution_of_transformers_filters(sampling):
    logits_V = torch.randn(20, generator=torch.Generator().manual_seed(3)) * 2
    scores = TemperatureLogitsWarper(sampling["temperature"])(None, logits_V[None])
    if "top_k" in sampling:
        scores = TopKLogitsWarper(sampling["top_k"])(None, scores)
    if "top_p" in sampling:
        scores = TopPLogitsWarper(sampling["top_p"])(None, scores)
    if "min_p" in sampling:
        scores = MinPLogitsWarper(sampling["min_p"])(None, scores)
    wanted = scores.softmax(-1)[0]
    counted = _draws(logits_V, sampling).bincount(minlength=20) / 4000
    assert set(counted.nonzero().flatten().tolist()) <= set(wanted.nonzero().flatten().tolist())
    assert (counted - wanted).abs().max() < 0.03  # nearly 4 standard errors of a share of 0.5


def test_choose_same_seed_gives_the_same_token_whatever_the_neighbours_are():
    logits_BV = torch.randn(16, 50, generator=torch.Generator().manual_seed(5))
    options = [Sampling(temperature=1.0 + row / 16, top_p=0.9, seed=row) for row in range(16)]
    together = choose(logits_BV.clone(), [RowState(option, []) for option in options])
    alone = [choose(logits_BV[row:row + 1].clone(), [RowState(option, [])])[0] for row, option in enumerate(options)]
    assert together == alone


def test_choose_greedy_rows_beside_drawn_rows_stay_greedy():
    logits_BV = torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    rows = [RowState(Sampling(), []), RowState(Sampling(temperature=2.0, seed=1), [])]
    assert choose(logits_BV, rows)[0] == 1


@pytest.mark.parametrize("temperature", [9e-6, 1e-38, 1e-45, 1e-46, 5e-324])
def test_choose_temperature_next_to_nothing_is_greedy_and_its_neighbour_is_drawn_as_alone(temperature):
    logits_BV = torch.randn(2, 50, generator=torch.Generator().manual_seed(7)) * 5
    drawn = Sampling(temperature=1.5, top_p=0.9, seed=3)
    alone = choose(logits_BV[1:].clone(), [RowState(drawn, [])])
    assert choose(logits_BV.clone(), [RowState(Sampling(temperature=temperature, top_p=0.5), []), RowState(drawn, [])]) == [int(logits_BV[0].argmax()), *alone]


@pytest.mark.parametrize("spoiled", [[0.0, torch.nan, 1.0], [torch.nan] * 3, [0.0, torch.inf, 1.0], [-torch.inf] * 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_choose_row_whose_logits_are_no_numbers_has_no_token_and_its_neighbours_have(spoiled, temperature):
    logits_BV = torch.tensor([[0.0, 90.0, -torch.inf], spoiled, [90.0, 0.0, 0.0]])
    assert choose(logits_BV, [RowState(Sampling(temperature=temperature, seed=seed), []) for seed in range(3)]) == [1, None, 0]


def test_choose_penalty_divides_positive_and_multiplies_negative_logits_of_recent_ids():
    logits = torch.tensor([[4.0, 3.0, -1.0, 0.5]])
    state = RowState(Sampling(repetition_penalty=2.0, repetition_window_tokens=2), [3, 0, 2])
    assert choose(logits, [state]) == [1]
    assert logits.tolist() == [[2.0, 3.0, -2.0, 0.5]]  # id 3 lies before the window of two


def test_choose_top_p_zero_probability_tail_is_never_drawn():
    logits_V = torch.tensor([5.0, 5.0, -40.0])
    assert set(_draws(logits_V, {"temperature": 1.0, "top_p": 1.0}, count=500).tolist()) == {0, 1}
