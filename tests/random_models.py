"""Models put together at random from parts that are hard to split: writes, views, ties, odd modules.

A model holds a list of values; each part of its program reads two of them and appends one, so that values
skip over stages, are read by several, or are returned early.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, N_CLASSES = 8, 5


class MovingMean(nn.Module):
    """Writes a buffer, then reads it for autograd."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(WIDTH))
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.detach().mean(0) * 0.1)
        out: Tensor = self.linear(x) * self.mean
        return out


class Routed(nn.Module):
    """Branches on data: which rows go to which expert."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).softmax(-1)
        out = x * scores[:, :1]
        for index, expert in enumerate(self.experts):
            rows = (scores.argmax(-1) == index).nonzero().squeeze(-1)
            if rows.numel():
                out = out.index_add(0, rows, expert(x[rows]))
        return out


class Accumulating(nn.Module):
    """Sets an attribute in its forward."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("total", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total + x.detach().mean(0)
        out: Tensor = self.linear(x) + self.total
        return out


class Square(torch.autograd.Function):
    """Has a backward of its own, which is not the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * 0.1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * 0.3 * x


class RandomModel(nn.Module):
    """Runs a program of parts.

    Args:
        seed: Chooses the program, what is tied, and the form of the output.
        drops: Whether random operations are among the parts.
    """

    table: Tensor
    steps: Tensor

    def __init__(self, seed: int, *, drops: bool = False) -> None:
        super().__init__()
        choose = random.Random(seed)
        self.embed = nn.Embedding(N_CLASSES, WIDTH)
        self.head = nn.Linear(WIDTH, N_CLASSES, bias=False)
        if choose.random() < 0.6:
            self.head.weight = self.embed.weight
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(WIDTH, WIDTH) / 3) for _ in range(3))
        self.moving, self.routed, self.accumulating = MovingMean(), Routed(), Accumulating()
        self.batch_norm, self.inplace = nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True)
        self.attention = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True)
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))
        self.lstm = nn.LSTM(WIDTH, WIDTH)
        self.block = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))
        self.hooked = nn.Linear(WIDTH, WIDTH)
        self.hooked.register_forward_hook(lambda _module, _given, out: out * 1.5)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("table", torch.randn(N_CLASSES, WIDTH), persistent=False)
        self.register_buffer("steps", torch.zeros(()))
        names = [*PARTS, *(RANDOM_PARTS if drops else ())]
        self.program = [
            (choose.choice(names), choose.random(), choose.random(), choose.randrange(3))
            for _ in range(choose.randint(4, 18))
        ]
        # A plain model cannot call it twice either: autograd refuses the second write.
        once = [part for part in self.program if part[0] != "moving mean"]
        self.program = [("moving mean", 0.5, 0.5, 0), *once] if len(once) < len(self.program) else once
        self.form = choose.choice(["tensor", "tuple", "dict"])

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Any:
        values = [x * scale, self.embed(ids)]
        for name, first, second, index in self.program:
            p, q = (values[-1 - int(place**2 * len(values))] for place in (first, second))
            made = (
                p * mask
                if name == "masked" and mask is not None
                else (PARTS | RANDOM_PARTS)[name](self, p, q, index)
            )
            values.append(F.layer_norm(made, (WIDTH,)))
        logits = self.head(values[-1])
        if self.form == "tensor":
            return logits
        if self.form == "tuple":
            return logits, values[len(values) // 2], ids + 1
        return {"logits": logits, "early": values[2:4], "nothing": None, "number": 3}


def loss_fn(output: Any, target: Tensor) -> Tensor:
    """Cross entropy of the logits, in whatever form they are returned."""
    logits = (
        output["logits"] if isinstance(output, dict) else output[0] if isinstance(output, tuple) else output
    )
    return F.cross_entropy(logits, target)


Part = Callable[[RandomModel, Tensor, Tensor, int], Tensor]


def _under_no_grad(_m: RandomModel, p: Tensor, q: Tensor, _i: int) -> Tensor:
    with torch.no_grad():
        mean = p.mean(1, keepdim=True)
    return q - mean


def _autocast(m: RandomModel, p: Tensor, _q: Tensor, _i: int) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        out = m.block(p)
    return out.float() + p


def _write_through_view(_m: RandomModel, p: Tensor, q: Tensor, _i: int) -> Tensor:
    whole = p * 1.0
    part = whole.view(-1, 2, 4)[:, 0]
    part.mul_(2).add_(1.0)
    return whole + torch.cat([part, part], 1) + q


def _write_part(_m: RandomModel, p: Tensor, q: Tensor, _i: int) -> Tensor:
    whole = p.clone()
    whole[:, [0, 2]] = q[:, [1, 3]]
    whole[:, 1] = 0
    return whole


def _count(m: RandomModel, p: Tensor, _q: Tensor, _i: int) -> Tensor:
    m.steps += 1
    return p / (1 + m.steps.detach())


def _chosen(m: RandomModel, p: Tensor, q: Tensor, _i: int) -> Tensor:
    best = p.max(dim=1)
    rows: Tensor = m.embed(best.indices % N_CLASSES)
    return q * best.values[:, None] + rows


def _top(_m: RandomModel, p: Tensor, _q: Tensor, _i: int) -> Tensor:
    values, places = p.topk(4, dim=1)
    return torch.zeros_like(p).scatter(1, places, values) + p


def _pieces(_m: RandomModel, p: Tensor, q: Tensor, _i: int) -> Tensor:
    a, b, c = torch.split(p, [2, 3, 3], 1)
    u, v = q.view(-1, 2, 4).unbind(1)
    return torch.cat([c, a, b], 1) + torch.cat([v, u], 1)


def _complex(_m: RandomModel, p: Tensor, q: Tensor, _i: int) -> Tensor:
    z = torch.complex(p, q)
    return (z * z.conj()).real + z.imag


def _sizes(_m: RandomModel, p: Tensor, _q: Tensor, _i: int) -> Tensor:
    width = p.size(1)
    return p.reshape(p.shape[0], width // 2, 2).sum(-1).repeat(1, 2) / width + torch.arange(width)


PARTS: dict[str, Part] = {
    "linear": lambda m, p, _q, i: m.linears[i](p),
    "shared": lambda m, p, _q, _i: m.linears[0](p).tanh(),
    "weight": lambda m, p, _q, i: F.linear(p, m.weights[i]),
    "row of a weight": lambda m, p, _q, i: p + m.weights[i][1],
    "add": lambda _m, p, q, _i: p + q,
    "gate": lambda _m, p, q, _i: p * q.sigmoid(),
    "add in place": lambda _m, p, q, _i: p.clone().add_(q).mul_(0.5),
    "relu in place": lambda m, p, _q, _i: m.inplace(p * 1.5),
    "write through a view": _write_through_view,
    "write a part": _write_part,
    "pieces": _pieces,
    "moving mean": lambda m, p, _q, _i: m.moving(p),
    "routed": lambda m, p, _q, _i: m.routed(p),
    "accumulating": lambda m, p, _q, _i: m.accumulating(p),
    "batch norm": lambda m, p, _q, _i: m.batch_norm(p),
    "attention": lambda m, p, _q, _i: m.attention(p.unsqueeze(1)).squeeze(1),
    "spectral norm": lambda m, p, _q, _i: m.normed(p),
    "lstm": lambda m, p, _q, _i: m.lstm(p.unsqueeze(0))[0][0],
    "checkpoint": lambda m, p, _q, _i: checkpoint(m.block, p, use_reentrant=False),
    "inside of a block": lambda m, p, _q, _i: m.block[2](F.silu(m.block[0](p))),
    "autocast": _autocast,
    "no grad": _under_no_grad,
    "detached": lambda _m, p, q, _i: p.detach() + q,
    "hooked": lambda m, p, _q, _i: m.hooked(p),
    "frozen": lambda m, p, _q, _i: m.frozen(p),
    "own backward": lambda _m, p, _q, _i: Square.apply(p.clamp(-3, 3)),
    "count": _count,
    "table": lambda m, p, q, _i: p + m.table[(q > 0).sum(1) % N_CLASSES],
    "chosen": _chosen,
    "top": _top,
    "complex": _complex,
    "double": lambda m, p, _q, i: (p.double() @ m.weights[i].double()).float(),
    "bfloat16": lambda _m, p, q, _i: (p.bfloat16() * 2).float() + q,
    "where": lambda _m, p, q, _i: torch.where(p > q, p, q.neg()),
    "sizes": _sizes,
    "training flag": lambda m, p, _q, _i: p * 2 + 1 if m.training else p,
    "masked": lambda _m, p, _q, _i: p + 1,
}
RANDOM_PARTS: dict[str, Part] = {
    "dropout": lambda m, p, _q, _i: m.drop(p),
    "functional dropout": lambda m, p, _q, _i: F.dropout(p, 0.3, m.training),
    "noise": lambda _m, p, _q, _i: p + torch.rand_like(p),
}
