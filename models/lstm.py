"""A recurrent language model: LSTM layers that pass states in and out, one dropout mask a sequence.

    tokens ── embed ── locked_in ── layers.0 ── locked.0 ── layers.1 ── locked.1 ── ... ── head ── logits
                                    ▲      │                ▲      │
                             state in      state out (detached: gradients stop at a segment's end)

Source: Merity et al., Regularizing and Optimizing LSTM Language Models, 2017 (https://arxiv.org/abs/1708.02182).
Shapes: B batch, T tokens, C width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "LSTMLanguageModel", "LockedDropout", "State", "build", "example", "loss", "make_batch"]

State = tuple[tuple[Tensor, Tensor], ...]
"""For each layer its hidden and cell state, each `[B, C]`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; `context` is the length of a segment."""

    vocab: int = 256
    width: int = 64
    n_layers: int = 4
    context: int = 24
    dropout: float = 0.2


class LockedDropout(nn.Module):
    """Dropout that drops the same channels at every time step of a sequence."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Drop channels in train mode and pass everything in eval mode."""
        if not self.training or self.p == 0:
            return x_BTC
        keep = x_BTC.new_empty(x_BTC.shape[0], 1, x_BTC.shape[2]).bernoulli_(1 - self.p)
        return x_BTC * keep / (1 - self.p)


class LSTMLanguageModel(nn.Module):
    """The language model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab, config.width)
        self.locked_in = LockedDropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.LSTM(config.width, config.width, batch_first=True) for _ in range(config.n_layers)
        )
        self.locked = nn.ModuleList(LockedDropout(config.dropout) for _ in range(config.n_layers))
        self.head = nn.Linear(config.width, config.vocab)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict each next token.

        Args:
            tokens: `[B, T]` integers below `vocab`.
            state: what the call for the segment before returned; None at the start of a text.

        Returns:
            Logits `[B, T, V]` and the state after the last token, without gradients.
        """
        x_BTC = self.locked_in(self.embed(tokens))
        after = []
        for index, (layer, locked) in enumerate(zip(self.layers, self.locked, strict=True)):
            before = None if state is None else (state[index][0].unsqueeze(0), state[index][1].unsqueeze(0))
            x_BTC, (hidden, cell) = layer(x_BTC, before)
            after.append((hidden.squeeze(0).detach(), cell.squeeze(0).detach()))
            x_BTC = locked(x_BTC)
        return self.head(x_BTC), tuple(after)


def build(**size: Any) -> LSTMLanguageModel:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> logits, state = build()(*args, **kwargs)
        >>> logits.shape, len(state), state[0][0].shape
        (torch.Size([3, 24, 256]), 4, torch.Size([3, 64]))
    """
    return LSTMLanguageModel(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` segments in the middle of a text; the target is each segment one token later.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Arguments `(tokens [n, T], state)` with the state a tuple of pairs, no keyword arguments, target
        `[n, T]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(config.vocab, (n, config.context + 1), generator=generator)
    drawn = torch.randn(config.n_layers, 2, n, config.width, generator=generator).tanh()
    state = tuple((hidden, cell) for hidden, cell in drawn)
    return Batch((text[:, :-1].contiguous(), state), {}, text[:, 1:].contiguous())


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: tuple[Tensor, State], target: Tensor) -> Tensor:
    """Mean cross entropy of the logits with next tokens `[B, T]`."""
    return F.cross_entropy(output[0].flatten(0, 1), target.flatten())
