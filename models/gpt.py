"""A decoder-only language model in the manner of GPT-2: causal attention, learned positions, tied head.

    tokens ── wte ──┐
                    + ── drop ── blocks.0 ── ... ── blocks.7 ── ln_f ── head ── logits
    0..T-1 ── wpe ──┘                                           (head.weight is wte.weight)

Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3.
Shapes: B batch, T tokens, C width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["GPT", "Config", "build", "example", "loss", "make_batch"]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; an example has `context` tokens, and the model takes any number up to it."""

    vocab: int = 256
    width: int = 64
    n_blocks: int = 8
    n_heads: int = 4
    context: int = 32
    dropout: float = 0.1


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and those before it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Mix the tokens: `[B, T, C]` to `[B, T, C]`."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in self.qkv(x_BTC).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        out_BTC: Tensor = self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out_BTC


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fc = nn.Linear(config.width, 4 * config.width)
        self.act = nn.GELU(approximate="tanh")
        self.proj = nn.Linear(4 * config.width, config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform each token by itself."""
        out_BTC: Tensor = self.drop(self.proj(self.act(self.fc(x_BTC))))
        return out_BTC


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Add attention, then the MLP, to the residual stream."""
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC))
        out_BTC: Tensor = x_BTC + self.mlp(self.ln_2(x_BTC))
        return out_BTC


class GPT(nn.Module):
    """The language model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.ln_f = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        self.apply(_initialise)
        # Residual branches add up: GPT-2 shrinks their last layers by the number of additions.
        for name, parameter in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(parameter, std=0.02 / (2 * config.n_blocks) ** 0.5)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict each next token.

        Args:
            tokens: `[B, T]` integers below `vocab`, T at most `context`.

        Returns:
            Logits `[B, T, V]`.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x_BTC = self.drop(self.wte(tokens) + self.wpe(positions))
        for block in self.blocks:
            x_BTC = block(x_BTC)
        logits: Tensor = self.head(self.ln_f(x_BTC))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def build(**size: Any) -> GPT:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> model = build(n_blocks=2)
        >>> args, kwargs = example(batch=3)
        >>> model(*args, **kwargs).shape
        torch.Size([3, 32, 256])
    """
    return GPT(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` token sequences; the target is each sequence one token later.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Arguments `(tokens [n, T],)`, no keyword arguments, target `[n, T]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(config.vocab, (n, config.context + 1), generator=generator)
    return Batch((text[:, :-1].contiguous(),), {}, text[:, 1:].contiguous())


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy of logits `[B, T, V]` with next tokens `[B, T]`."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())
