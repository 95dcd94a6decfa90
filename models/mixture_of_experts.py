"""A decoder whose feed-forward layers are mixtures of experts, with a balance loss beside the logits.

                 ┌─ experts.0 ─┐
    x ── router ─┼─ experts.1 ─┼─ weighted sum      weights are zero outside the k best, so no Python branch
           │     └─ experts.n ─┘                    depends on data: every expert sees every token
           └── balance ── + over the blocks ── aux_loss

Source: noisy gating: Shazeer et al., Outrageously Large Neural Networks, 2017 (https://arxiv.org/abs/1701.06538);
balance loss: Fedus et al., Switch Transformers, 2021, equation 4 (https://arxiv.org/abs/2101.03961).
Shapes: B batch, T tokens, C width, E experts, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "MixtureOfExperts", "MoEOutput", "build", "example", "loss", "make_batch"]

AUX_WEIGHT = 0.01
"""Weight of the balance loss; Switch Transformers, section 2.2."""


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; each token goes to the `top_k` best of `n_experts`."""

    vocab: int = 256
    width: int = 48
    n_blocks: int = 4
    n_heads: int = 4
    n_experts: int = 4
    top_k: int = 2
    context: int = 32
    dropout: float = 0.1
    noise: float = 0.1


@dataclass(frozen=True, slots=True)
class MoEOutput:
    """What the model returns.

    Attributes:
        logits: `[B, T, V]`.
        aux_loss: a scalar, 1 where every expert is used alike, more where some are preferred.
    """

    logits: Tensor
    aux_loss: Tensor


torch.export.register_dataclass(MoEOutput)


class Router(nn.Module):
    """Chooses the experts of each token and watches how evenly they are used."""

    load: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.noise = config.noise
        self.gate = nn.Linear(config.width, config.n_experts, bias=False)
        self.register_buffer("load", torch.full((config.n_experts,), config.top_k / config.n_experts))

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Give the weights `[B, T, E]`, of which k a token are not zero, and the balance loss.

        In train mode the choice is noisy and `load`, the running share of tokens that each expert gets, moves
        on.
        """
        logits = self.gate(x_BTC)
        if self.training:
            logits = logits + self.noise * torch.randn_like(logits)
        probability = logits.softmax(dim=-1)
        best, index = probability.topk(self.top_k, dim=-1)
        best = best / best.sum(dim=-1, keepdim=True)
        weights = torch.zeros_like(probability).scatter(-1, index, best)
        share = (weights > 0).to(probability.dtype).mean(dim=(0, 1))
        if self.training:
            with torch.no_grad():
                self.load.lerp_(share, 0.1)
        balance = (share * probability.mean(dim=(0, 1))).sum() * (share.shape[0] / self.top_k)
        return weights, balance


class Expert(nn.Module):
    """A feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform each token by itself."""
        out_BTC: Tensor = self.down(F.silu(self.up(x_BTC)))
        return out_BTC


class SparseFeedForward(nn.Module):
    """All experts on all tokens, weighed by the router."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = nn.ModuleList(Expert(config.width) for _ in range(config.n_experts))

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Give the mixed tokens and the balance loss."""
        weights, balance = self.router(x_BTC)
        outputs = torch.stack([expert(x_BTC) for expert in self.experts], dim=-1)
        return (outputs * weights.unsqueeze(-2)).sum(dim=-1), balance


class Block(nn.Module):
    """One pre-norm decoder block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.norm_attn = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.norm_moe = nn.LayerNorm(config.width)
        self.moe = SparseFeedForward(config)

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Give the residual stream after attention and experts, and the balance loss."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attn(x_BTC)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x_BTC = x_BTC + self.drop(self.proj(mixed))
        experts, balance = self.moe(self.norm_moe(x_BTC))
        return x_BTC + self.drop(experts), balance


class MixtureOfExperts(nn.Module):
    """The language model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab, config.width)
        self.embed_positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab)

    def forward(self, tokens: Tensor) -> MoEOutput:
        """Predict each next token.

        Args:
            tokens: `[B, T]` integers below `vocab`, T at most `context`.

        Returns:
            The logits and the balance loss, the mean over the blocks.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x_BTC = self.embed_tokens(tokens) + self.embed_positions(positions)
        balances = []
        for block in self.blocks:
            x_BTC, balance = block(x_BTC)
            balances.append(balance)
        return MoEOutput(logits=self.head(self.norm(x_BTC)), aux_loss=torch.stack(balances).mean())


def build(**size: Any) -> MixtureOfExperts:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> output = build(n_blocks=2)(*args, **kwargs)
        >>> output.logits.shape, output.aux_loss.shape
        (torch.Size([3, 32, 256]), torch.Size([]))
    """
    return MixtureOfExperts(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` token sequences; the target is each sequence one token later.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        No positional arguments, keyword `tokens [n, T]`, target `[n, T]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(config.vocab, (n, config.context + 1), generator=generator)
    return Batch((), {"tokens": text[:, :-1].contiguous()}, text[:, 1:].contiguous())


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: MoEOutput, target: Tensor) -> Tensor:
    """Mean cross entropy of the logits with next tokens `[B, T]`, plus the weighed balance loss."""
    return F.cross_entropy(output.logits.flatten(0, 1), target.flatten()) + AUX_WEIGHT * output.aux_loss
