"""A translation model: every decoder block reads the encoder's output; one embedding works at four places.

    input_ids ── encoder.embed_tokens ── encoder.blocks.0 ── ... ── encoder.norm ── memory
                                                          ┌───────────────────┬───────┘
    decoder_input_ids ── decoder.embed_tokens ── decoder.blocks.0 ── decoder.blocks.1 ── ... ── lm_head
                                                                                                   │
    labels ────────────────────────────────────────────────────────────────────────────────────── loss

`shared`, `encoder.embed_tokens` and `decoder.embed_tokens` are one module; `lm_head.weight` is its weight.
Source: Vaswani et al., Attention Is All You Need, 2017 (https://arxiv.org/abs/1706.03762); tied and scaled
head: Raffel et al., T5, 2019 (https://arxiv.org/abs/1910.10683).
Shapes: B batch, S source tokens, T target tokens, C width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "EncoderDecoder", "Seq2SeqOutput", "build", "example", "loss", "make_batch"]

PAD = 0
"""The token that fills short sequences and starts the decoder's."""

IGNORED = -100
"""The label of padding; the default of `F.cross_entropy`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; source and target sequences are both `context` long at most."""

    vocab: int = 256
    width: int = 48
    n_blocks: int = 3
    n_heads: int = 4
    context: int = 24
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class Seq2SeqOutput:
    """What the model returns.

    Attributes:
        logits: `[B, T, V]`.
        memory: the encoder's output, `[B, S, C]`.
        loss: mean cross entropy over the labels that count; None where no labels were given.
    """

    logits: Tensor
    memory: Tensor
    loss: Tensor | None = None


torch.export.register_dataclass(Seq2SeqOutput)


class SinusoidalPositions(nn.Module):
    """Adds a fixed table of sines and cosines to the embedded tokens."""

    table: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        position = torch.arange(config.context).unsqueeze(-1)
        frequency = torch.exp(torch.arange(0, config.width, 2) * (-math.log(10_000.0) / config.width))
        angle = position * frequency
        self.register_buffer("table", torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Place the tokens."""
        out_BTC: Tensor = self.drop(x_BTC + self.table[: x_BTC.shape[1]])
        return out_BTC


def feed_forward(config: Config) -> nn.Sequential:
    """Make the feed-forward half of a block."""
    return nn.Sequential(
        nn.Linear(config.width, 4 * config.width),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(4 * config.width, config.width),
        nn.Dropout(config.dropout),
    )


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, pre-norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(config.width)
        self.self_attn = nn.MultiheadAttention(config.width, config.n_heads, config.dropout, batch_first=True)
        self.norm_ff = nn.LayerNorm(config.width)
        self.ff = feed_forward(config)

    def forward(self, x_BSC: Tensor, *, padding: Tensor | None) -> Tensor:
        """Refine the source; `padding` `[B, S]` is True where there is no token."""
        normed = self.norm_self(x_BSC)
        x_BSC = (
            x_BSC + self.self_attn(normed, normed, normed, key_padding_mask=padding, need_weights=False)[0]
        )
        out_BSC: Tensor = x_BSC + self.ff(self.norm_ff(x_BSC))
        return out_BSC


class DecoderBlock(nn.Module):
    """Causal self-attention, attention over the memory and feed-forward, pre-norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(config.width)
        self.self_attn = nn.MultiheadAttention(config.width, config.n_heads, config.dropout, batch_first=True)
        self.norm_cross = nn.LayerNorm(config.width)
        self.cross_attn = nn.MultiheadAttention(
            config.width, config.n_heads, config.dropout, batch_first=True
        )
        self.norm_ff = nn.LayerNorm(config.width)
        self.ff = feed_forward(config)

    def forward(self, x_BTC: Tensor, memory: Tensor, *, padding: Tensor | None, future: Tensor) -> Tensor:
        """Refine the target.

        `memory` is `[B, S, C]`, `padding` `[B, S]` True where the source has no token, and `future` `[T, T]`
        True where a query may not look.
        """
        normed = self.norm_self(x_BTC)
        x_BTC = x_BTC + self.self_attn(normed, normed, normed, attn_mask=future, need_weights=False)[0]
        normed = self.norm_cross(x_BTC)
        x_BTC = (
            x_BTC + self.cross_attn(normed, memory, memory, key_padding_mask=padding, need_weights=False)[0]
        )
        out_BTC: Tensor = x_BTC + self.ff(self.norm_ff(x_BTC))
        return out_BTC


class Encoder(nn.Module):
    """The source side."""

    def __init__(self, embed_tokens: nn.Embedding, config: Config) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.positions = SinusoidalPositions(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, input_ids: Tensor, *, padding: Tensor | None) -> Tensor:
        """Encode `[B, S]` tokens as memory `[B, S, C]`."""
        x_BSC = self.positions(self.embed_tokens(input_ids))
        for block in self.blocks:
            x_BSC = block(x_BSC, padding=padding)
        memory: Tensor = self.norm(x_BSC)
        return memory


class Decoder(nn.Module):
    """The target side."""

    def __init__(self, embed_tokens: nn.Embedding, config: Config) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.positions = SinusoidalPositions(config)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, decoder_input_ids: Tensor, memory: Tensor, *, padding: Tensor | None) -> Tensor:
        """Decode `[B, T]` tokens, each from those before it and the memory, to `[B, T, C]`."""
        n_tokens = decoder_input_ids.shape[1]
        future = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=decoder_input_ids.device).triu(1)
        x_BTC = self.positions(self.embed_tokens(decoder_input_ids))
        for block in self.blocks:
            x_BTC = block(x_BTC, memory, padding=padding, future=future)
        hidden: Tensor = self.norm(x_BTC)
        return hidden


class EncoderDecoder(nn.Module):
    """The translation model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab, config.width)
        self.encoder = Encoder(self.shared, config)
        self.decoder = Decoder(self.shared, config)
        self.lm_head = nn.Linear(config.width, config.vocab, bias=False)
        self.lm_head.weight = self.shared.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        decoder_input_ids: Tensor,
        labels: Tensor | None = None,
    ) -> Seq2SeqOutput:
        """Predict each next target token.

        Args:
            input_ids: source tokens `[B, S]`.
            attention_mask: `[B, S]` bool, True for a token and False for padding; None for no padding.
            decoder_input_ids: target tokens `[B, T]`, shifted right.
            labels: target tokens `[B, T]`, -100 where none counts; None for no loss.

        Returns:
            Logits, memory, and the loss if there are labels.
        """
        padding = None if attention_mask is None else ~attention_mask
        memory = self.encoder(input_ids, padding=padding)
        hidden = self.decoder(decoder_input_ids, memory, padding=padding)
        # The embedding has unit variance; as a head it would be too large by the square root of the width.
        logits = self.lm_head(hidden * self.config.width**-0.5)
        if labels is None:
            return Seq2SeqOutput(logits, memory)
        own_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return Seq2SeqOutput(logits, memory, own_loss)


def build(**size: Any) -> EncoderDecoder:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> output = build()(*args, **kwargs)
        >>> output.logits.shape, output.loss.shape
        (torch.Size([3, 24, 256]), torch.Size([]))
    """
    return EncoderDecoder(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` pairs of padded sequences; the labels are an argument, so there is no target.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Argument `input_ids [n, S]`, keywords `attention_mask` (bool), `decoder_input_ids` and `labels`,
        target None.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    shape, position = (n, config.context), torch.arange(config.context)
    source = torch.randint(1, config.vocab, shape, generator=generator)
    target = torch.randint(1, config.vocab, shape, generator=generator)
    source_length, target_length = torch.randint(
        config.context // 2, config.context + 1, (2, n, 1), generator=generator
    )
    attention_mask = position < source_length
    labels = target.masked_fill(position >= target_length, IGNORED)
    kwargs = {
        "attention_mask": attention_mask,
        "decoder_input_ids": F.pad(labels.masked_fill(labels == IGNORED, PAD)[:, :-1], (1, 0), value=PAD),
        "labels": labels,
    }
    return Batch((source.masked_fill(~attention_mask, PAD),), kwargs, None)


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: Seq2SeqOutput, target: None = None) -> Tensor:
    """Take the loss that the model computed; there is no target.

    Raises:
        ValueError: when the model was called without labels.
    """
    if output.loss is None:
        raise ValueError("the model returned no loss\n  Try: give it labels")
    return output.loss
