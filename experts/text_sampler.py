"""Continue a plain text with a model: no roles, no end token, any architecture of transformers with a cache.

A text longer than the context is written in turns, each from the last half of what stands. Conversations are expert.py's work.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from experts import tokenizer as tokens
from experts.tokenizer import Tokenizer


@torch.no_grad()
def continue_text(model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, *, new_tokens: int, context_tokens: int, temperature: float, seed: int) -> str:
    """What the model writes after the prompt, sampled; the same seed gives the same text, and the caller's random state stays.

    context_tokens: longest sequence the model was trained on. Special tokens are never chosen. An empty prompt begins at a line end.
    """
    ids = tokens.text_ids(tokenizer, prompt) or tokens.text_ids(tokenizer, "\n")
    begun, special = len(ids), [tokens.token_id(tokenizer, name) for name in tokens.SPECIAL_TOKENS]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        while len(ids) - begun < new_tokens:
            seen = ids[-max(1, context_tokens // 2):]
            room = min(new_tokens - (len(ids) - begun), context_tokens - len(seen))
            row = torch.tensor([seen], device=device)
            written = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=room, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                                     suppress_tokens=special, eos_token_id=None, pad_token_id=tokens.pad_id(tokenizer))
            ids += written[0, len(seen):].tolist()
    model.train(training)
    return tokens.decode(tokenizer, ids[begun:])
