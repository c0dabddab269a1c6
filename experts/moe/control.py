"""Turns the dials of a routed model while it trains: schedules, losses beside the main one, readings of the router, auto-heal.

The trainer calls begin_step, begin_batch, cost and end_step; what a model without routed layers gets is no control at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experts.dropout import drop_outputs
from experts.moe.block import SUMS, MoeBlock, take_over
from experts.moe.health import LayerTally, Reading, metrics_of
from experts.moe.routing import Dials, moved_bias
from experts.moe.verdicts import is_sharp, judge
from settings import MoeSettings

log = logging.getLogger(__name__)
_NAME = "moe_control"
HEAL_BALANCE, HEAL_TEMPERATURE = 1.5, 1.25  # what an alarm multiplies by
HEAL_MOST = 16.0  # and the most that it comes to


def attach(model: Any, settings: MoeSettings) -> MoeControl | None:
    """Put our routed layers in the place of transformers', with the same weights, and give the model a control; None when it has none."""
    blocks = take_over(model)
    if not blocks:
        return None
    if settings.dropout:
        for layer in (layer for layer in model.model.layers if layer.mlp in blocks):
            for branch in (layer.mlp, layer.self_attn.o_proj):  # what a layer adds to the stream
                drop_outputs(branch, share=settings.dropout)
    control = MoeControl(blocks, settings)
    model.add_module(_NAME, control)  # so that its buffers travel with the model and its saved training state
    return control


def control_of(model: nn.Module) -> MoeControl | None:
    """The control that attach() gave a model."""
    found = getattr(model, _NAME, None)
    assert found is None or isinstance(found, MoeControl)
    return found


class MoeControl(nn.Module):
    """Of one model. Its buffers are no part of a model folder."""

    heal: Tensor
    beyond: Tensor

    def __init__(self, blocks: list[MoeBlock], settings: MoeSettings) -> None:
        super().__init__()
        self.settings = settings
        self._blocks = tuple(blocks)  # a tuple: they are parts of the model, not of this module
        self.dials = Dials(noise=settings.noise, z_weight=settings.z_weight, capacity_factor=settings.capacity_factor)
        for block in blocks:
            block.prepare_training(self.dials)
        self.register_buffer("heal", torch.ones(2), persistent=False)  # balance weight, temperature: multiplied by
        self.register_buffer("beyond", torch.zeros(2), persistent=False)  # readings in a row that asked for it
        self.begin_step(1)

    def facts(self) -> dict[str, Any]:
        """What changes the numbers of a run, for the identity of its saved state."""
        return {key: value for key, value in self.settings.model_dump().items() if key not in ("wandb_project",)}

    def begin_step(self, step: int) -> None:
        """Set the dials for a step (the first is 1) and forget the demand of the one before."""
        settings, done = self.settings, min(1.0, (step - 1) / self.settings.anneal_steps)
        balance, temperature = self.heal.cpu().tolist()
        self.dials.balance_weight = settings.balance_weight * balance
        self.dials.temperature = (settings.temperature + (settings.final_temperature - settings.temperature) * done) * temperature
        self.dials.noise_std = settings.noise_std * (1.0 - done)
        for block in self._blocks:
            block.step_demand_E.zero_()
            if (step - 1) % settings.health_every_steps == 0:
                block.forget()

    def begin_batch(self, used: Tensor | None) -> None:
        """Say which places of the flat rows hold a token; None: all of them."""
        for block in self._blocks:
            block.used_N = None if used is None else used.flatten()

    def cost(self) -> Tensor:
        """Balance loss and z-loss of the last forward, weighted and summed over layers: a mean a token, to be added to the mean cost."""
        losses: list[Tensor] = [self.dials.balance_weight * block.balance + self.dials.z_weight * block.z for block in self._blocks]
        return torch.stack(losses).sum()

    def end_step(self, step: int, *, clipped: int) -> Reading | None:
        """Move the choice biases; every settings.health_every_steps a reading. clipped: steps so far whose gradient was clipped."""
        for block in self._blocks:  # their graph has been used, and a model that holds one can't be copied
            block.balance, block.z = block.balance.detach(), block.z.detach()
        if self.settings.bias_rate:
            for block in self._blocks:
                if block.choice_bias is not None:
                    block.choice_bias.copy_(moved_bias(block.choice_bias, block.step_demand_E, rate=self.settings.bias_rate))
        if step % self.settings.health_every_steps:
            return None
        metrics = metrics_of([_tally(block) for block in self._blocks], top_k=self._blocks[0].top_k, balance_weight=self.dials.balance_weight)
        metrics |= {"grad/clipped_cum": float(clipped), "moe/temperature": self.dials.temperature, "moe/noise_std": self.dials.noise_std,
                    "moe/balance_weight": self.dials.balance_weight}
        reading = self._reading(step, metrics)
        return self._reading(step, metrics, healed=self._react(reading)) if self.settings.auto_heal else reading

    def _reading(self, step: int, metrics: Mapping[str, float], healed: tuple[str, ...] = ()) -> Reading:
        first = self._blocks[0]
        return Reading(step=step, experts=first.expert_count, top_k=first.top_k, layers=len(self._blocks), exploring=step <= self.settings.anneal_steps,
                       metrics=metrics, healed=healed)

    def _react(self, reading: Reading) -> tuple[str, ...]:
        """Raise the balance weight for crowded experts, the temperature for a sharp router, once the limit is passed for long enough."""
        worst = {finding.name: finding for finding in judge([reading], sustained=1)}
        crowded = any(worst[f"router/{name}"].verdict == "alarm" for name in ("max_frac_max", "active_min", "collapsed"))
        sharp = is_sharp(reading)
        done = []
        for place, (bad, factor, key) in enumerate(((crowded, HEAL_BALANCE, "balance_weight"), (sharp, HEAL_TEMPERATURE, "temperature"))):
            self.beyond[place] = float(self.beyond[place]) + 1 if bad else 0.0
            if self.beyond[place] >= self.settings.sustained_readings and self.heal[place] < HEAL_MOST:
                self.heal[place] = min(HEAL_MOST, float(self.heal[place]) * factor)
                self.beyond[place] = 0.0
                done.append(f"moe.{key} x {float(self.heal[place]):.3g}")
        if done:
            log.warning("step %d: router alarm for %d readings, raised: %s", reading.step, self.settings.sustained_readings, ", ".join(done))
        return tuple(done)


def _tally(block: MoeBlock) -> LayerTally:
    demand, served, sums = (values.cpu().tolist() for values in (block.demand_E, block.served_E, block.sums))
    return LayerTally(tuple(demand), tuple(served), **dict(zip(SUMS, sums, strict=True)))
