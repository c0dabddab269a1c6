"""Choice of experts, capacity, losses: values worked by hand; the sorted products against one expert at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from experts.moe.compute import sort_by_expert, swiglu_experts
from experts.moe.routing import Dials, balance_loss, capacity, counts, moved_bias, route, within_capacity, z_loss


def logits_of(probabilities):
    return torch.tensor(probabilities).log()


def test_route_of_one_expert_takes_the_most_probable_with_its_probability():
    found = route(logits_of([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), top_k=1, normalize=False)
    assert found.chosen_NK.tolist() == [[0], [2]]
    torch.testing.assert_close(found.weight_NK, torch.tensor([[0.7], [0.6]]))
    assert found.served_NK is None


def test_route_normalized_weights_of_two_experts_sum_to_one():
    found = route(logits_of([[0.5, 0.3, 0.2]]), top_k=2, normalize=True)
    torch.testing.assert_close(found.weight_NK, torch.tensor([[0.5 / 0.8, 0.3 / 0.8]]))


def test_route_temperature_flattens_the_choice_and_leaves_the_weights():
    # softmax(log p / 2) is proportional to sqrt(p): 0.8, 0.2 become 2/3, 1/3.
    found = route(logits_of([[0.8, 0.2]]), top_k=1, normalize=False, dials=Dials(temperature=2.0))
    torch.testing.assert_close(found.probability_NE, torch.tensor([[2 / 3, 1 / 3]]))
    torch.testing.assert_close(found.weight_NK, torch.tensor([[0.8]]))


def test_route_with_gumbel_noise_draws_experts_by_their_probability():
    torch.manual_seed(0)
    found = route(logits_of([[0.5, 0.3, 0.2]]).expand(60_000, 3), top_k=1, normalize=False, dials=Dials(noise="gumbel", noise_std=1.0))
    torch.testing.assert_close(counts(found.chosen_NK, experts=3) / 60_000, torch.tensor([0.5, 0.3, 0.2]), atol=0.01, rtol=0)


def test_route_with_normal_noise_turns_over_a_lead_as_often_as_the_normal_law_says():
    # Two experts one apart: the difference of two normals has standard deviation sqrt(2), so the second wins with Phi(-1 / sqrt 2) = 0.2398.
    torch.manual_seed(0)
    found = route(torch.tensor([[1.0, 0.0]]).expand(60_000, 2), top_k=1, normalize=False, dials=Dials(noise="normal", noise_std=1.0))
    assert float(counts(found.chosen_NK, experts=2)[1]) / 60_000 == pytest.approx(0.2398, abs=0.008)


def test_route_bias_moves_the_choice_and_no_weight():
    found = route(logits_of([[0.6, 0.4]]), top_k=1, normalize=False, bias_E=torch.tensor([0.0, 1.0]))
    assert found.chosen_NK.tolist() == [[1]]
    torch.testing.assert_close(found.weight_NK, torch.tensor([[0.4]]))


def test_route_drops_tokens_beyond_capacity_in_training_alone():
    logits = torch.tensor([[2.0, 0.0]] * 4)
    found = route(logits, top_k=1, normalize=False, dials=Dials(capacity_factor=1.0))  # ceil(1 x 4 / 2) = 2 each
    assert found.served_NK.tolist() == [[True], [True], [False], [False]]
    assert found.weight_NK[2:].tolist() == [[0.0], [0.0]]
    assert route(logits, top_k=1, normalize=False).served_NK is None


@pytest.mark.parametrize(("tokens", "experts", "top_k", "factor", "wanted"), [(100, 8, 1, 1.25, 16), (7, 4, 2, 1.0, 4), (3, 8, 1, 0.1, 1)])
def test_capacity_by_hand(tokens, experts, top_k, factor, wanted):
    assert capacity(tokens, experts, top_k, factor) == wanted


def test_within_capacity_serves_first_choices_before_second_ones():
    chosen = torch.tensor([[0, 1], [1, 0], [0, 1]])
    # Expert 0 is first choice of tokens 0 and 2, expert 1 of token 1 and then second of tokens 0 and 2.
    assert within_capacity(chosen, experts=2, capacity=2).tolist() == [[True, True], [True, False], [True, False]]


def test_balance_loss_is_one_when_balanced_and_the_number_of_experts_when_collapsed():
    even = torch.full((8, 4), 0.25)
    assert float(balance_loss(even, torch.tensor([2.0, 2.0, 2.0, 2.0]))) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 8)
    assert float(balance_loss(collapsed, torch.tensor([8.0, 0.0, 0.0, 0.0]))) == pytest.approx(4.0)


def test_balance_loss_by_hand_counts_used_tokens_and_pushes_down_the_busy_expert():
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.0, 1.0]], requires_grad=True)
    loss = balance_loss(p, torch.tensor([2.0, 0.0]), used_N=torch.tensor([1.0, 1.0, 0.0]))
    assert float(loss.detach()) == pytest.approx(2 * 1.0 * 0.75)
    loss.backward()
    assert p.grad.tolist() == [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]


def test_balance_loss_of_two_choices_is_balanced_at_one():
    assert float(balance_loss(torch.full((6, 3), 1 / 3), torch.tensor([4.0, 4.0, 4.0]))) == pytest.approx(1.0)


def test_balance_loss_is_transformers_divided_by_k():
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    found = route(logits, top_k=2, normalize=False)
    theirs = float(load_balancing_loss_func((logits,), 4, 2))
    assert float(balance_loss(found.probability_NE, counts(found.chosen_NK, experts=4))) == pytest.approx(theirs / 2, rel=1e-5)


def test_z_loss_by_hand():
    # logsumexp of (0, 0) is ln 2; of (ln 3, 0) is ln 4.
    assert float(z_loss(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]))) == pytest.approx((math.log(2)**2 + math.log(4)**2) / 2)


def test_moved_bias_raises_idle_experts_and_lowers_busy_ones():
    assert moved_bias(torch.zeros(3), torch.tensor([6.0, 3.0, 0.0]), rate=0.1).tolist() == pytest.approx([-0.1, 0.0, 0.1])


def one_at_a_time(x, chosen, weight, gate_up, down, served=None):
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for place in range(chosen.size(1)):
            if served is None or served[token, place]:
                gate, up = (gate_up[chosen[token, place]] @ x[token]).chunk(2)
                out[token] = out[token] + weight[token, place] * (down[chosen[token, place]] @ (F.silu(gate) * up))
    return out


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("limited", [False, True])
def test_swiglu_experts_equals_one_expert_at_a_time_with_all_gradients(top_k, limited):
    random = torch.Generator().manual_seed(3)
    x, gate_up, down = (torch.randn(shape, generator=random, requires_grad=True) for shape in ((12, 6), (4, 10, 6), (4, 6, 5)))
    chosen = torch.rand(12, 4, generator=random).topk(top_k).indices  # expert 3 may be left without a token
    weight = torch.rand(12, top_k, generator=random, requires_grad=True)
    served = within_capacity(chosen, experts=4, capacity=3) if limited else None
    masked = weight if served is None else weight * served
    ours = swiglu_experts(x, sort_by_expert(chosen, experts=4, served_NK=served), masked, gate_up_EID=gate_up, down_EDI=down, act=F.silu)
    theirs = one_at_a_time(x, chosen, weight, gate_up, down, served)
    torch.testing.assert_close(ours, theirs)
    slope = torch.randn(12, 6, generator=random)
    mine = torch.autograd.grad((ours * slope).sum(), (x, weight, gate_up, down))
    for got, wanted in zip(mine, torch.autograd.grad((theirs * slope).sum(), (x, weight, gate_up, down)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_sort_by_expert_lays_each_experts_tokens_together():
    order = sort_by_expert(torch.tensor([[2], [0], [2], [1]]), experts=4)
    assert order.from_S.tolist() == [1, 3, 0, 2]
    assert order.parts == [(0, 1), (1, 2), (2, 4), (4, 4)]
