"""A retrieval model of two towers that meet only in a dot product.

    tokens, token_mask ── query.embed ── masked mean ── query.blocks ── normalise ──┐
    item_ids ─────── item.embed ──┐                                                dot ── scale ── scores
                                  + ── item.blocks ── normalise ────────────────────┘
    item_features ── item.dense ──┘                                       scale = exp(logit_scale)

The item tower takes its inputs late in the order of the program, and nothing of the query tower.
Source: Huang et al., Learning Deep Structured Semantic Models, 2013; learned temperature: Radford et al.,
CLIP, 2021, section 2.4 (https://arxiv.org/abs/2103.00020).
Shapes: B batch, T tokens, K candidate items a query, C width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "TwoTower", "build", "example", "loss", "make_batch"]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; each query comes with `n_items` candidates, of which one is right."""

    vocab: int = 1000
    catalogue: int = 2000
    n_features: int = 12
    n_items: int = 8
    n_tokens: int = 16
    width: int = 64
    n_blocks: int = 4
    dropout: float = 0.1


class ResidualMLP(nn.Module):
    """A normalised two-layer perceptron beside a shortcut."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform the last dimension, of size C."""
        out: Tensor = x + self.drop(self.fc2(F.gelu(self.fc1(self.norm(x)))))
        return out


class QueryTower(nn.Module):
    """Text to one vector."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.Sequential(
            *(ResidualMLP(config.width, config.dropout) for _ in range(config.n_blocks))
        )

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Embed queries `[B, T]`, of which `token_mask` is True at real tokens, as unit vectors `[B, C]`."""
        weight = token_mask.unsqueeze(-1).to(self.embed.weight.dtype)
        mean = (self.embed(tokens) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
        return F.normalize(self.blocks(mean), dim=-1)


class ItemTower(nn.Module):
    """An item's identity and its features to one vector."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.catalogue, config.width)
        self.dense = nn.Linear(config.n_features, config.width)
        self.blocks = nn.Sequential(
            *(ResidualMLP(config.width, config.dropout) for _ in range(config.n_blocks))
        )

    def forward(self, item_ids: Tensor, item_features: Tensor) -> Tensor:
        """Embed items `[B, K]` with features `[B, K, n_features]` as unit vectors `[B, K, C]`."""
        return F.normalize(self.blocks(self.embed(item_ids) + self.dense(item_features)), dim=-1)


class TwoTower(nn.Module):
    """The retrieval model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.query = QueryTower(config)
        self.item = ItemTower(config)
        # CLIP starts at a temperature of 0.07 and never lets the scale exceed 100.
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, tokens: Tensor, item_ids: Tensor, *, token_mask: Tensor, item_features: Tensor
    ) -> dict[str, Tensor]:
        """Score each candidate of each query.

        Args:
            tokens: `[B, T]` integers below `vocab`.
            item_ids: `[B, K]` integers below `catalogue`.
            token_mask: `[B, T]` bool, True for a token and False for padding.
            item_features: `[B, K, n_features]`.

        Returns:
            `scores [B, K]`, and the unit vectors `query [B, C]` and `item [B, K, C]` that an index stores.
        """
        query = self.query(tokens, token_mask)
        item = self.item(item_ids, item_features)
        scale = self.logit_scale.exp().clamp(max=100.0)
        return {"scores": scale * (item @ query.unsqueeze(-1)).squeeze(-1), "query": query, "item": item}


def build(**size: Any) -> TwoTower:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> output = build()(*args, **kwargs)
        >>> {name: tuple(value.shape) for name, value in output.items()}
        {'scores': (3, 8), 'query': (3, 64), 'item': (3, 8, 64)}
    """
    return TwoTower(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` queries with their candidates; the target is the place of the right one.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Arguments `(tokens [n, T], item_ids [n, K])`, keywords `token_mask` and `item_features`, target `[n]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab, (n, config.n_tokens), generator=generator)
    length = torch.randint(1, config.n_tokens + 1, (n, 1), generator=generator)
    item_ids = torch.randint(config.catalogue, (n, config.n_items), generator=generator)
    features = torch.randn(n, config.n_items, config.n_features, generator=generator)
    target = torch.randint(config.n_items, (n,), generator=generator)
    mask = torch.arange(config.n_tokens) < length
    return Batch((tokens, item_ids), {"token_mask": mask, "item_features": features}, target)


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Mean cross entropy of the scores with the place `[B]` of the right item."""
    return F.cross_entropy(output["scores"], target)
