"""Weights between a training's start and its end: where they come to lie, against the closed form of a parabola."""

import pytest
import torch
from torch import nn
from toy_corpus import toy_model

from training.interpolation import settle, weights_of


class Line(nn.Module):
    """A weight vector on the line from zeros (start) to ones (trained), a buffer beside it, and a tied weight."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), float(value)))
        self.tied = self.weight
        self.register_buffer("bias", torch.full((2,), 10.0 * value))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("own", torch.full((1,), float(value)), persistent=False)


def settled(lowest, *, floor=1.0, least_gain=0.0):
    """Share at which a parabola over the line with its lowest point there ends, and the model."""
    model, start = Line(1), Line(0)
    asked = []

    def cost():
        asked.append(model.weight[0].item())
        return floor + (asked[-1] - lowest) ** 2

    share = settle(model, start=start, end=weights_of(model), cost=cost, least_gain=least_gain, should_stop=lambda: False)
    assert torch.equal(start.weight, torch.zeros(3))
    assert (int(model.count), float(model.own)) == (7, 1.0)
    assert torch.equal(model.weight, torch.full((3,), share))
    assert torch.equal(model.bias, torch.full((2,), 10.0 * share))
    return share, asked


@pytest.mark.parametrize(("lowest", "share", "asked"), [
    (1.2, 1.0, [1.0, 0.75]), (0.9, 1.0, [1.0, 0.75]), (0.8, 0.75, [1.0, 0.75, 0.5]), (0.55, 0.5, [1.0, 0.75, 0.5, 0.25]),
    (0.2, 0.25, [1.0, 0.75, 0.5, 0.25, 0.0]), (-0.1, 0.0, [1.0, 0.75, 0.5, 0.25, 0.0])])
def test_interpolation_walks_back_while_held_out_answers_get_cheaper(lowest, share, asked):
    assert settled(lowest) == (share, asked)


def test_interpolation_keeps_trained_weights_bit_for_bit_where_little_is_gained():
    # 1 + 0.25**2 against 1 + 0: 5.9 % lower at 0.75
    assert settled(0.75, least_gain=0.05)[0] == 0.75
    assert settled(0.75, least_gain=0.06)[0] == 1.0


def test_interpolation_keeps_trained_weights_when_cost_is_not_a_number():
    model, start = nn.Linear(16, 16), nn.Linear(16, 16)
    trained = model.weight.detach().clone()
    assert settle(model, start=start, end=weights_of(model), cost=lambda: float("nan"), least_gain=0.0, should_stop=lambda: False) == 1.0
    assert torch.equal(model.weight, trained)


def test_interpolation_refuses_models_of_other_tensors():
    other = Line(0)
    other.register_buffer("more", torch.zeros(1))
    with pytest.raises(ValueError, match="other tensors"):
        settle(Line(1), start=other, end=weights_of(Line(1)), cost=lambda: 1.0, least_gain=0.0, should_stop=lambda: False)


@pytest.mark.parametrize("looks", range(5))
def test_interpolation_stops_between_two_looks(looks):
    """A walk that would look five times, told to stop after each of them."""
    model, asked = Line(1), []

    def cost():
        asked.append(model.weight[0].item())
        return asked[-1]

    assert settle(model, start=Line(0), end=weights_of(model), cost=cost, least_gain=0.0, should_stop=lambda: len(asked) == looks) is None
    assert asked == [1.0, 0.75, 0.5, 0.25, 0.0][:looks]


def test_interpolation_copies_tied_weights_once():
    model = Line(1)
    assert {"weight", "tied"} <= set(model.state_dict())
    copies = weights_of(model)
    assert copies["tied"] is copies["weight"]
    assert copies["bias"] is not copies["weight"]
    assert copies["weight"].data_ptr() != model.weight.data_ptr()


def test_interpolation_copies_the_tied_embeddings_of_a_transformer_once():
    model = toy_model()
    copies = weights_of(model)
    assert copies["lm_head.weight"] is copies["model.embed_tokens.weight"]
    assert sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in copies.values()}.values()) == sum(
        param.numel() for param in model.parameters())
