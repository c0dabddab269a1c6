"""Loss of packed rows: documents can't see each other, and the vocabulary matrix is multiplied at target places only.

Works on any causal language model of transformers: what a model can't do is found by trying it on two short documents. Does not
build batches, does not step and does not choose between the ways that are right (execution.py does).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from experts.device import Device
from experts.device_rules import attention_mask, summed_cost
from experts.dropout import decoder_layers
from experts.reach import sees_everything
from training import document_attention
from training.batches import Batch
from training.document_attention import Groups, group_documents
from training.target_cost import target_cost

_log = logging.getLogger(__name__)

# documents: attention of each document by itself; mask: whole rows under a 4-D mask; alone: every document a row of its own, for
# models whose layers look back past any mask (convolutions, state spaces). rows: the model as it is, for rows of one document each.
Attention = Literal["documents", "mask", "alone", "rows"]


def document_mask(documents_BT: Tensor) -> Tensor:
    """True where a query place (third dimension) may see a key place (fourth): same document, not later. B x 1 x T x T."""
    length = documents_BT.size(1)
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=documents_BT.device).tril()
    return ((documents_BT[:, :, None] == documents_BT[:, None, :]) & causal_TT)[:, None]


class PackedLoss:
    """Sum of the target tokens' costs in nats for one batch; one object a model, device, precision and way of attention."""

    def __init__(self, model: PreTrainedModel, *, device: Device, bf16: bool, attention: Attention, compiled: bool = False,
                 again: bool = False) -> None:
        self._model, self._device, self._attention = model, device, attention
        self._layers = _compiled_forwards(model) if compiled else {}
        if again:
            self._layers = {layer: self._computed_again(layer.forward) for layer in _layers_to_compute_again(model)}
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._lean = _head_is_plain(model, device=device)
        self._names = {graph: document_attention.register(compiled=graph) for graph in {False, compiled}}
        self._compiled = compiled

    def __call__(self, batch: Batch) -> Tensor:
        """Differentiable sum over the batch's targets, fp32, on the device."""
        to = self._device.torch
        places, targets = batch.places_N.to(to), batch.targets_N.to(to)
        with self._device.autocast(self._dtype):
            outputs_ND = self.outputs(batch)
            if len(places) < len(outputs_ND):  # else every place is a target: plain text
                outputs_ND = outputs_ND[places]
        if not self._lean:
            return summed_cost(outputs_ND.float(), targets, rules=self._device.rules)
        head = self._model.get_output_embeddings()
        if self._device.rules.loss_form == "cross_entropy":
            return target_cost(outputs_ND, head.weight, targets, dtype=self._dtype)
        return summed_cost(head(outputs_ND).float(), targets, rules=self._device.rules)

    @torch.no_grad()
    def draw_targets(self, batch: Batch) -> Tensor:
        """A token a target place, drawn from the model's own distribution; on the CPU, as targets are."""
        with self._device.autocast(self._dtype):
            outputs_ND = self.outputs(batch)[batch.places_N.to(self._device.torch)]
            head = self._model.get_output_embeddings() if self._lean else torch.nn.Identity()
            drawn = [head(part).float().softmax(-1).multinomial(1)[:, 0] for part in torch.split(outputs_ND, 1024)]
        return torch.cat(drawn).cpu()

    def outputs(self, batch: Batch) -> Tensor:
        """What the model says at every place of the flat rows: hidden states where its head is plain, else logits."""
        to = self._device.torch
        tokens = batch.tokens_BT.to(to)
        if self._attention == "rows":
            return self._forward(tokens, None).flatten(0, 1)
        positions = batch.positions_BT.to(to)
        if self._attention == "mask":
            mask = attention_mask(document_mask(batch.documents_BT.to(to)), rules=self._device.rules)
            return self._forward(tokens, positions, attention_mask=mask).flatten(0, 1)
        groups = group_documents(batch.starts, batch.lengths).to(to)
        if self._attention == "documents":
            with _attention_implementation(self._model, self._names[self._compiled and torch.is_grad_enabled()]):
                return self._forward(tokens.view(1, -1), positions.view(1, -1), groups=groups)[0]
        return self._each_alone(tokens.flatten(), positions.flatten(), groups)

    def _each_alone(self, tokens_N: Tensor, positions_N: Tensor, groups: Groups) -> Tensor:
        sizes = [count * length for count, length in groups.shapes]
        found = [self._forward(tokens_N[take].view(shape), positions_N[take].view(shape)).flatten(0, 1)
                 for take, shape in zip(torch.split(groups.take, sizes), groups.shapes, strict=True)]
        return torch.cat(found)[groups.back]

    def _forward(self, tokens: Tensor, positions: Tensor | None, **more: object) -> Tensor:
        # Without gradients it is a validation, whose batches have other shapes: each would be compiled anew.
        with _forwards(self._layers if torch.is_grad_enabled() else {}):
            return self._said(tokens, positions, **more)

    def _computed_again(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's forward that keeps its inputs alone; the backward pass computes it again (arXiv 1604.06174), with the attention of the first time."""
        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _attention_implementation(self._model, self._model.config._attn_implementation)

        # torch 2.4's own checkpoint calls what it has deprecated, once a layer in every backward pass
        warnings.filterwarnings("ignore", message=r"`torch\.cpu\.amp\.autocast", category=FutureWarning)

        return partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)

    def _said(self, tokens: Tensor, positions: Tensor | None, **more: object) -> Tensor:
        if self._lean:
            hidden: Tensor = self._model.base_model(input_ids=tokens, position_ids=positions, use_cache=False, **more).last_hidden_state
            return hidden
        logits: Tensor = self._model(input_ids=tokens, position_ids=positions, use_cache=False, **more).logits
        return logits


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's layers when they are all of one class, else none."""
    found = decoder_layers(model)
    return found if len({type(layer) for layer in found}) == 1 else []


def _compiled_forwards(model: PreTrainedModel) -> dict[nn.Module, Callable[..., Any]]:
    """One layer is compiled, not the model: layers and later models of the same shape share the graph, so it takes seconds, once a process."""
    torch._dynamo.config.skip_nnmodule_hook_guards = False  # else they'd share it, too, where one has dropout (a hook) and the other none
    return {layer: torch.compile(layer.forward, dynamic=False) for layer in layers_of(model)}


def _layers_to_compute_again(model: PreTrainedModel) -> list[nn.Module]:
    if not layers_of(model):
        raise ValueError(f"train.gradient_checkpointing: {type(model).__name__} has no list of equal layers; set it to false")
    return layers_of(model)


def right_attentions(model: PreTrainedModel, *, device: Device) -> list[Attention]:
    """The ways in which this model computes two packed documents as it computes each alone, the usually fastest first."""
    batch = _two_documents(vocabulary=model.get_input_embeddings().weight.size(0))
    found: list[Attention] = []
    with _frozen(model):
        truth = PackedLoss(model, device=device, bf16=False, attention="alone").outputs(batch)
        for attention in _candidates(model, device=device):
            try:
                outputs = PackedLoss(model, device=device, bf16=False, attention=attention).outputs(batch)
            except (TypeError, ValueError) as error:  # a class that takes no such keyword or mask
                _log.debug("%s: no attention by %s: %s", type(model).__name__, attention, error)
                continue
            if torch.allclose(outputs, truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max())):
                found.append(attention)
    return [*found, "alone"]


def _candidates(model: PreTrainedModel, *, device: Device) -> tuple[Attention, ...]:
    if not sees_everything(model):  # a window is longer than the two documents that are tried
        return ()
    return ("documents", "mask") if not _attention_dropout(model) and device.rules.attention == "sdpa" else ("mask",)


def _two_documents(*, vocabulary: int) -> Batch:
    lengths = np.array([7, 5], dtype=np.int64)
    tokens = torch.arange(12) * 7 % vocabulary
    documents = torch.tensor([0] * 7 + [1] * 5, dtype=torch.int32)
    positions = torch.cat([torch.arange(7), torch.arange(5)])
    return Batch(tokens[None], positions[None], documents[None], torch.arange(12), tokens, 12, np.array([0, 7], dtype=np.int64), lengths)


def _attention_dropout(model: PreTrainedModel) -> float:
    config = model.config
    return float(getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0) or 0.0)


def _head_is_plain(model: PreTrainedModel, *, device: Device) -> bool:
    """Whether head(decoder(x)) gives the model's own logits; some models scale or cap them, or have a bias."""
    head, decoder = model.get_output_embeddings(), model.base_model
    if head is None or decoder is model or getattr(head, "bias", None) is not None:
        return False
    with _frozen(model):
        tokens = (torch.arange(8, device=device.torch) * 7 % head.weight.size(0))[None]
        same = torch.allclose(head(decoder(input_ids=tokens, use_cache=False).last_hidden_state), model(input_ids=tokens, use_cache=False).logits,
                              rtol=1e-4, atol=1e-4)
    if not same:
        _log.info("%s changes its logits after the head: they are computed by the model itself", type(model).__name__)
    return same


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No gradients, no dropout, no change of the random state."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextmanager
def _forwards(compiled: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Compiled forwards of layers within the block only."""
    for layer, forward in compiled.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer in compiled:
            del layer.forward  # the class's own again


@contextmanager
def _attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Attention of that name within the block only: whoever generates with the model in between finds its own."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before
