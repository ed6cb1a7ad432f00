"""Transformer blocks over windows of a plane, every other block over windows that are shifted by half of one.

Tokens stay in the order of the unshifted windows from the first block to the last. A shifted block takes its windows
out of that order, those that need no mask first, so that one table of logits serves all windows of a kind. Windows are
computed a few at a time: what they need stays in the cache.

After Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV 2021), grouped with
convolutions as in Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.layers.low_rank import LowRank

APART = -100.0
"""What is added to the logits of tokens of one shifted window that come from opposite borders of the plane."""
LANES = 8
"""Channels of a head are filled with zeros to multiples of this: products of 16 are three times as fast as of 15."""
TOKENS_AT_ONCE = {"cpu": 2048, "other": 131_072}

Kinds = list[tuple[Tensor | None, Tensor | None]]
"""Windows that are masked alike: the places of their tokens (``None``: as they lie), and the mask, axes query key."""


class Windows:
    """How the tokens of planes are ordered: plane, row and column of the window, row and column in it.

    Parameters
    ----------
    planes
        How many.
    size
        Pixels (y, x) of each, multiples of the window.
    window
        Pixels along an edge.
    device
        Of the places.
    """

    def __init__(self, planes: int, size: tuple[int, int], window: int, device: torch.device) -> None:
        self.planes, self.size, self.window = planes, size, window
        rows, columns = size[0] // window, size[1] // window
        self.plain: Kinds = [(None, None)]
        self.shifted: Kinds = []
        each = size[0] * size[1]
        for index, mask in _shifted(rows, columns, window, device):
            offsets = each * torch.arange(planes, device=device)
            self.shifted.append(((offsets[:, None] + index).flatten(), mask))

    def tokens(self, x: Tensor) -> Tensor:
        """Return tokens (N, C) of planes_BCYX."""
        w = self.window
        split = x.permute(0, 2, 3, 1).reshape(self.planes, self.size[0] // w, w, self.size[1] // w, w, -1)
        return split.transpose(2, 3).reshape(-1, x.shape[1])

    def image(self, tokens: Tensor) -> Tensor:
        """Return planes_BCYX of tokens (N, C), channels last in memory: convolutions are fastest so."""
        w = self.window
        split = tokens.view(self.planes, self.size[0] // w, self.size[1] // w, w, w, -1).transpose(2, 3)
        return split.reshape(self.planes, *self.size, -1).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _shifted(
    rows: int, columns: int, window: int, device: torch.device
) -> list[tuple[Tensor, Tensor | None]]:
    """Return, for windows shifted by half of one around one plane, places of tokens and masks: inner ones first."""
    shift = window // 2
    # Tensors made for inference alone could not be used in training afterwards.
    with torch.inference_mode(False):
        places = torch.arange(rows * columns * window**2, device=device)
        image = places.view(rows, columns, window, window).transpose(1, 2).reshape(rows * window, -1)
        rolled = image.roll((-shift, -shift), (0, 1)).view(rows, window, columns, window).transpose(1, 2)
        late = torch.arange(window, device=device) >= window - shift
        inside = torch.zeros_like(late)
        kinds: list[tuple[Tensor, Tensor | None]] = []
        for last_row in (False, True):
            for last_column in (False, True):
                part = rolled[-1:] if last_row else rolled[:-1]
                part = part[:, -1:] if last_column else part[:, :-1]
                if not part.numel():
                    continue
                mask = None
                if last_row or last_column:
                    y, x = (late if last else inside for last in (last_row, last_column))
                    band = (2 * y[:, None] + x[None]).flatten()
                    mask = APART * (band[:, None] != band).float()
                kinds.append((part.flatten(), mask))
        return kinds


@lru_cache(maxsize=8)
def relative_places(window: int) -> Tensor:
    """Return the row of the table of biases for each pair of tokens of a window (axes query key)."""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = y.flatten(), x.flatten()
        return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


class WindowBlock(nn.Module):
    """Attention within windows, then a feed-forward part.

    Parameters
    ----------
    width
        Channels.
    heads
        Of the attention; they divide the width.
    window
        Pixels along an edge.
    hidden
        Channels of the feed-forward part.
    shifted
        Whether windows are shifted by half of one.
    left_out
        Share of the planes of a training step for which the attention is left out, and of those for which the
        feed-forward part is (Huang et al., "Deep networks with stochastic depth", ECCV 2016).
    """

    def __init__(
        self, width: int, heads: int, window: int, hidden: int, shifted: bool, left_out: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shifted, self.left_out = heads, window, shifted, left_out
        self.before = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        for layer in (self.qkv, self.proj, self.up, self.down):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Return tokens (N, C); where no gradient is asked for, ``x`` is overwritten by them."""
        length = self.window**2
        at_once = TOKENS_AT_ONCE["cpu" if x.device.type == "cpu" else "other"]
        at_once = max(1, at_once // length) * length
        bias = self.bias[relative_places(self.window).to(x.device)].permute(2, 0, 1).contiguous()
        weights = self._weights()
        kinds = windows.shifted if self.shifted else windows.plain
        learning = torch.is_grad_enabled()
        counts = self._counts(len(x), windows.planes, x.device) if self.training and self.left_out else None
        done = []
        for index, mask in kinds:
            logits = bias if mask is None else bias + mask.to(bias.dtype)
            if index is None:
                parts: Iterable[Tensor | None] = (
                    repeat(None) if counts is None else torch.split(counts, at_once)
                )
                for part, own in zip(torch.split(x, at_once), parts):
                    made = self._inside(part, logits, weights, own)
                    done.append(made) if learning else part.copy_(made)
            else:
                for places in torch.split(index, at_once):
                    own = None if counts is None else counts.index_select(0, places)
                    made = self._inside(x.index_select(0, places), logits, weights, own)
                    done.append(made) if learning else x.index_copy_(0, places, made.to(x.dtype))
        if not learning:
            return x
        out = torch.cat(done)
        if not self.shifted:
            return out
        order = torch.cat([index for index, _ in kinds if index is not None])
        return out.index_select(0, order.argsort())

    def _counts(self, tokens: int, planes: int, device: torch.device) -> Tensor:
        """Return how much both parts count for each token (N, 2): nothing for some planes, more for the others."""
        kept = torch.rand(planes, 2, device=device) >= self.left_out
        return (kept / (1 - self.left_out)).repeat_interleave(tokens // planes, 0)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weight and bias of qkv and of the output, queries scaled and heads filled up with zeros."""
        weight, bias = _values(self.qkv)
        width = weight.shape[1]
        each = width // self.heads
        lack = -each % LANES
        scale = torch.tensor([each**-0.5, 1.0, 1.0], dtype=weight.dtype, device=weight.device)
        weight = F.pad(weight.view(3, self.heads, each, width) * scale.view(3, 1, 1, 1), (0, 0, 0, lack))
        bias = F.pad(bias.view(3, self.heads, each) * scale.view(3, 1, 1), (0, lack))
        out, out_bias = _values(self.proj)
        out = F.pad(out.view(width, self.heads, each), (0, lack)).flatten(1)
        return weight.flatten(0, 2), bias.flatten(), out, out_bias

    def _inside(
        self,
        x: Tensor,
        logits: Tensor,
        weights: tuple[Tensor, Tensor, Tensor, Tensor],
        counts: Tensor | None,
    ) -> Tensor:
        """Return the tokens of some windows (N, C); ``logits`` are added, axes head query key."""
        weight, bias, out, out_bias = weights
        length = self.window**2
        qkv = F.linear(self.before(x), weight, bias)
        q, k, v = qkv.view(-1, length, 3, self.heads, len(bias) // 3 // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1)
        scores += logits
        mixed = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(len(x), -1)
        attended = F.linear(mixed, out, out_bias)
        x = x + (attended if counts is None else attended * counts[:, :1].to(attended.dtype))
        wider: Tensor = self.down(F.gelu(self.up(self.between(x))))
        return x + (wider if counts is None else wider * counts[:, 1:].to(wider.dtype))


def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear map, with its low-rank update if it carries one."""
    if isinstance(layer, LowRank):
        bias = layer.layer.bias
        assert isinstance(bias, Tensor)
        return layer.updated(), bias
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


class WindowGroup(nn.Module):
    """Window blocks, plain and shifted in turn, and a convolution, around a shortcut.

    Parameters
    ----------
    width, heads, window, hidden
        As of :class:`WindowBlock`.
    shift
        Whether every other block is shifted.
    left_out
        Of each block.
    """

    def __init__(
        self, width: int, heads: int, window: int, hidden: int, shift: bool, left_out: Sequence[float]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            WindowBlock(width, heads, window, hidden, shift and number % 2 == 1, share)
            for number, share in enumerate(left_out)
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Return tokens (N, C)."""
        y = x if torch.is_grad_enabled() else x.clone()
        for block in self.blocks:
            y = block(y, windows)
        return x + windows.tokens(self.conv(windows.image(y)))


def whole_windows(x: Tensor, window: int) -> Tensor:
    """Return planes_BCYX grown to whole windows by mirror images beyond the far borders.

    The border itself is not repeated. A plane too thin for that is mirrored to and fro; one pixel is repeated.
    """
    for axis in (2, 3):
        n = x.shape[axis]
        if n % window:
            turn = max(1, 2 * (n - 1))
            places = torch.arange(math.ceil(n / window) * window, device=x.device) % turn
            x = x.index_select(axis, torch.where(places < n, places, turn - places))
    return x


def reach(depths: tuple[int, ...], window: int, shift: bool) -> int:
    """Return how many pixels a pixel sees to each side through groups, a convolution before and one after them."""
    furthest = 0
    for place in range(window):
        low, high = place - 1, place + 1
        for depth in reversed(depths):
            low, high = low - 1, high + 1
            for number in reversed(range(depth)):
                begin = window // 2 if shift and number % 2 else 0
                low = (low - begin) // window * window + begin
                high = (high - begin) // window * window + begin + window - 1
        furthest = max(furthest, place - low + 1, high + 1 - place)
    return furthest
