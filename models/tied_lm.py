"""A masked language model in the manner of ALBERT: blocks used several times, tied head, operations in place.

    tokens ── embed_tokens (narrow) ── embed_projection (wide) ──┐
    attention_mask ── bias, read by every block ─────────────────┴── blocks.0 ── blocks.1 ──┐
                                                                  ▲     n_repeats times     │
                                                                  └─────────────────────────┤
    logits ── F.linear(., embed_tokens.weight, head_bias) ── head_norm ── gelu ── head_dense┘

The same modules, and so the same parameters, work at several depths, and the embedding works at both ends.
Source: Lan et al., ALBERT, 2019, section 3.1 (https://arxiv.org/abs/1909.11942).
Shapes: B batch, T tokens, C width, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "TiedLM", "build", "example", "loss", "make_batch"]

IGNORED = -100
"""The target of a position that is not to be predicted; the default of `F.cross_entropy`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; the `n_blocks` distinct blocks run `n_repeats` times.

    The last token of the vocabulary is the mask.
    """

    vocab: int = 256
    embedding: int = 32
    width: int = 64
    n_blocks: int = 2
    n_repeats: int = 3
    n_heads: int = 4
    context: int = 32
    dropout: float = 0.1


class SelfAttention(nn.Module):
    """Attention written out: scores, bias added in place, softmax, functional dropout."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, x_BTC: Tensor, bias: Tensor) -> Tensor:
        """Mix the tokens; `bias` `[B, 1, 1, T]` is very negative where nobody may look."""
        q, k, v = (
            projection(x_BTC).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1)
        scores *= q.shape[-1] ** -0.5
        scores += bias
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        out_BTC: Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return out_BTC


class Block(nn.Module):
    """One post-norm encoder block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, 4 * config.width)
        self.fc2 = nn.Linear(4 * config.width, config.width)
        self.output_norm = nn.LayerNorm(config.width)

    def forward(self, x_BTC: Tensor, bias: Tensor) -> Tensor:
        """Attend, then transform each token; both branches take the residual in place."""
        attended = F.dropout(self.attention(x_BTC, bias), self.dropout, self.training)
        attended += x_BTC
        x_BTC = self.attention_norm(attended)
        expanded = self.fc2(F.relu_(self.fc1(x_BTC)))
        expanded = F.dropout(expanded, self.dropout, self.training)
        expanded += x_BTC
        out_BTC: Tensor = self.output_norm(expanded)
        return out_BTC


class TiedLM(nn.Module):
    """The masked language model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.embedding)
        self.embed_positions = nn.Parameter(torch.empty(config.context, config.embedding))
        self.embed_norm = nn.LayerNorm(config.embedding)
        self.embed_projection = nn.Linear(config.embedding, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.head_dense = nn.Linear(config.width, config.embedding)
        self.head_norm = nn.LayerNorm(config.embedding)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab))
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        nn.init.normal_(self.embed_positions, std=0.02)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Predict the token at each position.

        Args:
            tokens: `[B, T]` integers below `vocab`, T at most `context`.
            attention_mask: `[B, T]` integers, 1 for a token and 0 for padding.

        Returns:
            Logits `[B, T, V]`.
        """
        hidden = self.embed_tokens(tokens)
        hidden += self.embed_positions[: tokens.shape[1]]
        hidden = F.dropout(self.embed_norm(hidden), self.config.dropout, self.training)
        x_BTC = self.embed_projection(hidden)
        bias = torch.zeros(attention_mask.shape, dtype=x_BTC.dtype, device=x_BTC.device)
        bias.masked_fill_(attention_mask == 0, torch.finfo(bias.dtype).min)
        for _ in range(self.config.n_repeats):
            for block in self.blocks:
                x_BTC = block(x_BTC, bias[:, None, None, :])
        hidden = self.head_norm(F.gelu(self.head_dense(x_BTC)))
        return F.linear(hidden, self.embed_tokens.weight, self.head_bias)


def build(**size: Any) -> TiedLM:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> build()(*args, **kwargs).shape
        torch.Size([3, 32, 256])
    """
    return TiedLM(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` padded sequences in which every eighth position is masked; the target is what the mask hides.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Argument `tokens [n, T]`, keyword `attention_mask [n, T]` (int64), target `[n, T]` with -100 where
        nothing is hidden. The same positions are masked in each row, none of them padding, so that rows weigh
        the same.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    position = torch.arange(config.context)
    text = torch.randint(config.vocab - 1, (n, config.context), generator=generator)
    length = torch.randint(config.context // 2, config.context + 1, (n, 1), generator=generator)
    hidden = (position % 8 == 0) & (position < config.context // 2)
    tokens = text.masked_fill(hidden, config.vocab - 1)
    return Batch(
        (tokens,), {"attention_mask": (position < length).long()}, text.masked_fill(~hidden, IGNORED)
    )


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy of logits `[B, T, V]` with the hidden tokens in `[B, T]`."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
