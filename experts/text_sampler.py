"""Continue a plain text with a model: no roles, no end token, any architecture that decoding.py writes with.

A text longer than the context is written in turns, each from the last half of what stands. Conversations are expert.py's work.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from experts import tokenizer as tokens
from experts.decoding import Task, writer
from experts.device import Device
from experts.tokenizer import Tokenizer


def continue_text(model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, *, device: Device, new_tokens: int, context_tokens: int, temperature: float,
                  seed: int) -> str:
    """What the model, which lies on the device, writes after the prompt, sampled; the same seed gives the same text, whatever else was drawn.

    context_tokens: longest sequence the model was trained on. Special tokens are never chosen. An empty prompt begins at a line end.
    """
    ids = tokens.text_ids(tokenizer, prompt) or tokens.text_ids(tokenizer, "\n")
    begun, never = len(ids), tuple(tokens.token_id(tokenizer, name) for name in tokens.SPECIAL_TOKENS)
    draws = torch.rand(1, new_tokens, generator=torch.Generator().manual_seed(seed))
    training = model.training
    model.eval()
    while (done := len(ids) - begun) < new_tokens:
        seen = ids[-max(1, context_tokens // 2):]
        room = min(new_tokens - done, context_tokens - len(seen))
        task = Task([seen], [room], end_id=None, pad_id=tokens.pad_id(tokenizer), temperature=temperature, draws=draws[:, done:done + room], never=never)
        written = writer(model, task, device=device)
        with device.turn():
            written.run(1)
        ids += written.answers[0]
    model.train(training)
    return tokens.decode(tokenizer, ids[begun:])
