"""Loss of packed rows: documents can't see each other, and the vocabulary matrix is multiplied at target places only.

Works on any decoder of transformers that takes a 4-D mask and position ids. Does not build batches and does not step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from experts.device import Device
from training.batches import Batch

_log = logging.getLogger(__name__)


def document_mask(documents_BT: Tensor) -> Tensor:
    """True where a query place (third dimension) may see a key place (fourth): same document, not later. B x 1 x T x T."""
    length = documents_BT.size(1)
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=documents_BT.device).tril()
    return ((documents_BT[:, :, None] == documents_BT[:, None, :]) & causal_TT)[:, None]


class PackedLoss:
    """Sum of the target tokens' costs in nats for one batch; one object a model, device and precision."""

    def __init__(self, model: nn.Module, *, device: Device, bf16: bool) -> None:
        self._model, self._device, self._bf16 = model, device, bf16
        self._decoder: Callable[..., Tensor] | None = self._lean_decoder()

    def __call__(self, batch: Batch) -> Tensor:
        """Differentiable sum over the batch's targets, fp32, on the device."""
        to = self._device.torch
        tokens, positions = batch.tokens_BT.to(to), batch.positions_BT.to(to)
        places, targets, mask = batch.places_N.to(to), batch.targets_N.to(to), self._mask(batch.documents_BT.to(to))
        with self._device.autocast(torch.bfloat16 if self._bf16 else torch.float32):
            logits_NV = self._logits(tokens, positions=positions, mask=mask, places=places)
        return self._cost(logits_NV.float(), targets)

    def _mask(self, documents_BT: Tensor) -> Tensor:
        allowed = document_mask(documents_BT)
        if self._device.rules.attention == "sdpa":
            return allowed
        return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)

    def _logits(self, tokens_BT: Tensor, *, positions: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        if self._decoder is None:
            logits: Tensor = self._model(input_ids=tokens_BT, attention_mask=mask, position_ids=positions, use_cache=False).logits
            return logits.flatten(0, 1)[places]
        hidden_BTD = self._decoder(tokens_BT, mask, positions)
        found: Tensor = self._model.get_output_embeddings()(hidden_BTD.flatten(0, 1)[places])  # type: ignore[operator]
        return found

    def _cost(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        # Never reduction="none": its gradient is all zero on DirectML (microsoft/DirectML 739).
        if self._device.rules.loss_form == "log_softmax":
            return -torch.log_softmax(logits_NV, dim=-1).gather(1, targets_N[:, None]).sum()
        return nn.functional.cross_entropy(logits_NV, targets_N, reduction="sum")

    def _lean_decoder(self) -> Callable[..., Tensor] | None:
        """The decoder without its head, if head(decoder(x)) gives the model's own logits (some models scale or cap them); else None."""
        model = self._model
        decoder = getattr(model, "base_model", model)
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if decoder is model or head is None:
            return None

        def hidden(tokens_BT: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
            found: Tensor = decoder(input_ids=tokens_BT, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
            return found

        tokens = torch.arange(8, device=self._device.torch)[None] % head.weight.size(0)
        positions = torch.arange(8, device=self._device.torch)[None]
        mask = self._mask(torch.zeros(1, 8, dtype=torch.int32, device=self._device.torch))
        training = model.training
        model.eval()
        with torch.no_grad():
            whole = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
            same = torch.allclose(head(hidden(tokens, mask, positions)).float(), whole.float(), rtol=1e-4, atol=1e-4)
        model.train(training)
        if not same:
            _log.info("%s changes its logits after the head: computing them at every place", type(model).__name__)
        return hidden if same else None
