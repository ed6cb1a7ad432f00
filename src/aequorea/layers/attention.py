"""Transformer blocks over groups of tokens.

After Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), normalised before each part; queries that are
pooled from one stage to the next are those of Ryali et al., "Hiera" (ICML 2023).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 32
"""Channels of one head."""
WIDER = 4
"""Hidden channels of the feed-forward part, in those of the block."""


class Block(nn.Module):
    """Attention within each group of tokens, then a feed-forward part.

    Parameters
    ----------
    inputs, outputs
        Channels. Where they differ the block begins a stage: it pools ``pooled`` tokens that follow each other.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.heads = max(1, outputs // HEAD)
        self.before = nn.LayerNorm(inputs)
        self.qkv = nn.Linear(inputs, 3 * outputs)
        self.out = nn.Linear(outputs, outputs)
        self.short = nn.Linear(inputs, outputs) if inputs != outputs else None
        self.between = nn.LayerNorm(outputs)
        self.up = nn.Linear(outputs, WIDER * outputs)
        self.down = nn.Linear(WIDER * outputs, outputs)

    def forward(self, x: Tensor, pooled: int = 1, allowed: Tensor | None = None) -> Tensor:
        """Return tokens for x_NLC.

        Parameters
        ----------
        x
            Groups, tokens of a group, channels.
        pooled
            So many tokens after each other give one, by their maximum.
        allowed
            Which keys may be seen: bool, axes N L, or N L L (queries, keys) without pooling. Every group has one.
        """
        groups, length, _ = x.shape
        y = self.before(x)
        q, k, v = self.qkv(y).view(groups, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        short = x if self.short is None else self.short(y)
        if pooled > 1:
            seen = None if allowed is None else allowed.view(groups, 1, length, 1)
            q = _largest(q, pooled, seen)
            short = _largest(short, pooled, None if seen is None else seen[:, 0])
        mask = allowed
        if mask is not None:
            mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = short + self.out(y.transpose(1, 2).reshape(groups, length // pooled, -1))
        wider: Tensor = self.down(F.gelu(self.up(self.between(x))))
        return x + wider


def _largest(x: Tensor, pooled: int, seen: Tensor | None) -> Tensor:
    """Return the maximum over tokens (last axis but one) that follow each other; of none that are seen, 0."""
    if seen is not None:
        x = x.masked_fill(~seen, -torch.inf)
    x = x.reshape(*x.shape[:-2], -1, pooled, x.shape[-1]).amax(-2)
    return x if seen is None else x.masked_fill(torch.isinf(x), 0.0)
