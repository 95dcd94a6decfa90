"""A click and rating predictor: embedding tables, crossed features, and two answers.

    dense ── bottom ─────────────┐              ┌── cross.0 ── cross.1 ── ... ──┐
    ids ── tables.user, ... ─────┼── features ──┼── deep ───────────────────────┼── cat ── click, rating
    history ── history_bag ──────┘              └── dots ───────────────────────┘

Every cross layer reads `features` again.

Source: Naumov et al., DLRM, 2019 (https://arxiv.org/abs/1906.00091); cross layers: Wang et al., DCN V2, 2020,
equation 1 (https://arxiv.org/abs/2008.13535).
Shapes: B batch, N vectors a sample, E width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "Prediction", "Recommender", "build", "example", "loss", "make_batch"]

TABLES: dict[str, int] = {
    "user": 5000,
    "item": 2000,
    "advertiser": 300,
    "country": 60,
    "hour": 24,
    "device": 6,
}
"""Rows of each embedding table; tables of real systems differ as widely."""


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; item 0 of a history means no item."""

    n_dense: int = 13
    n_history: int = 10
    width: int = 16
    n_crosses: int = 3
    hidden: int = 128
    n_hidden: int = 3
    dropout: float = 0.1


class Prediction(NamedTuple):
    """What the model returns: the logit of a click `[B]` and the expected rating `[B]`."""

    click: Tensor
    rating: Tensor


class Cross(nn.Module):
    """Multiplies a linear map of its input with the first features: one degree more of interaction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Give `first * (W x + b) + x`."""
        out: Tensor = torch.addcmul(x, first, self.linear(x))
        return out


class PairwiseDots(nn.Module):
    """The dot product of each pair of vectors."""

    rows: Tensor
    columns: Tensor

    def __init__(self, n_vectors: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(n_vectors, n_vectors, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """Give `[B, N (N - 1) / 2]`."""
        return torch.bmm(x_BNE, x_BNE.transpose(1, 2))[:, self.rows, self.columns]


def perceptron(sizes: list[int], dropout: float) -> nn.Sequential:
    """Make linear layers of these sizes, each followed by an in-place ReLU and dropout."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class Recommender(nn.Module):
    """The predictor."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        n_vectors = len(TABLES) + 2
        flat = n_vectors * config.width
        self.bottom = perceptron([config.n_dense, config.hidden, config.width], dropout=0.0)
        self.tables = nn.ModuleDict({name: nn.Embedding(rows, config.width) for name, rows in TABLES.items()})
        self.history_bag = nn.EmbeddingBag(TABLES["item"], config.width, mode="mean", padding_idx=0)
        self.dots = PairwiseDots(n_vectors)
        self.cross = nn.ModuleList(Cross(flat) for _ in range(config.n_crosses))
        self.deep = perceptron([flat] + [config.hidden] * config.n_hidden, config.dropout)
        joined = flat + config.hidden + n_vectors * (n_vectors - 1) // 2
        self.click = nn.Linear(joined, 1)
        self.rating = nn.Linear(joined, 1)
        # As in DLRM: the more rows, the smaller, or the products of vectors start far too large.
        for weight in (*self.tables.parameters(), self.history_bag.weight):
            bound = weight.shape[0] ** -0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, dense: Tensor, ids: dict[str, Tensor], *, history: Tensor) -> Prediction:
        """Predict a click and a rating.

        Args:
            dense: `[B, n_dense]`.
            ids: for each table `[B]` integers below its rows.
            history: `[B, n_history]` integers, the items seen before, 0 for none.

        Returns:
            Logit and rating, each `[B]`.
        """
        vectors = [self.bottom(dense), *(table(ids[name]) for name, table in self.tables.items())]
        vectors.append(self.history_bag(history))
        x_BNE = torch.stack(vectors, dim=1)
        features = x_BNE.flatten(1)
        crossed = features
        for cross in self.cross:
            crossed = cross(features, crossed)
        joined = torch.cat((crossed, self.deep(features), self.dots(x_BNE)), dim=-1)
        return Prediction(self.click(joined).squeeze(-1), self.rating(joined).squeeze(-1))


def build(**size: Any) -> Recommender:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> prediction = build()(*args, **kwargs)
        >>> prediction.click.shape, prediction.rating.shape
        (torch.Size([3]), torch.Size([3]))
    """
    return Recommender(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` impressions; the target is whether they were clicked and how they were rated.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Arguments `dense` and the dict `ids`, keyword `history`, target a dict of `click [n]` and `rating
        [n]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(n, config.n_dense, generator=generator)
    ids = {name: torch.randint(rows, (n,), generator=generator) for name, rows in TABLES.items()}
    history = torch.randint(TABLES["item"], (n, config.n_history), generator=generator)
    length = torch.randint(config.n_history + 1, (n, 1), generator=generator)
    history = history.masked_fill(torch.arange(config.n_history) >= length, 0)
    target = {
        "click": torch.randint(2, (n,), generator=generator).float(),
        "rating": torch.randn(n, generator=generator),
    }
    return Batch((dense, ids), {"history": history}, target)


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: Prediction, target: dict[str, Tensor]) -> Tensor:
    """Mean log loss of the clicks plus mean squared error of the ratings."""
    clicked = F.binary_cross_entropy_with_logits(output.click, target["click"])
    return clicked + F.mse_loss(output.rating, target["rating"])
