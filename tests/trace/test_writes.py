"""In-place operations, views and buffers: what is written is seen by later readers, and only by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Between(nn.Module):
    """Calls a function between two linears; they see each other's work."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function
        self.register_buffer("count", torch.zeros(6))
        self.register_buffer("table", torch.ones(3, 6), persistent=False)
        self.constant = torch.ones(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self, self.first(x), x))


def write_and_read(_self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    before = h * 2
    h = F.leaky_relu_(h.clone()) * 1
    h += before
    return h.mul_(3)


def write_through_a_view(_self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    h = h.clone()
    row = h[:, 1:3]
    row.mul_(5)
    other = h.T
    other[0] = 1.0
    return h + row.sum()


def write_into_an_input(self: Any, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 7.0
    return self.last(x) + h.detach()


def write_into_a_view_of_an_input(self: Any, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x[:, :2].fill_(3.0)
    return self.last(x.sin()) + h.detach()


def write_a_buffer(self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    h = h + self.count
    self.count.add_(h.detach().mean(0))
    return h * self.count


def write_a_view_of_a_buffer(self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    self.table[1].mul_(2)
    return h * self.table.sum(0)


def write_a_constant(self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    return h + self.constant.mul_(1)


def write_data(self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    self.count.data.add_(1)
    return h + self.count


def batch_norm(self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(h, self.count, self.table[0], training=True)


def out_argument(_self: Any, h: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
    made = torch.empty_like(h)
    with torch.no_grad():
        torch.add(h, 1, out=made)
    return h * made


def masked_fill(_self: Any, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(h.shape[0], 6, dtype=torch.bool)
    mask[:, ::2] = True
    mask[x > 0] = False
    return h.masked_fill(mask, 0.0)


FUNCTIONS = [write_and_read, write_through_a_view, write_into_an_input, write_into_a_view_of_an_input]
FUNCTIONS += [write_a_buffer, write_a_view_of_a_buffer, write_a_constant, write_data, batch_norm]
FUNCTIONS += [out_argument, masked_fill]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("n_stages", [1, 2, 5])
def test_writes(function: Any, n_stages: int) -> None:
    traced = assert_agrees(Between(function), (X,), n_stages=(n_stages,))
    assert opaque_modules(traced) == {}


def test_users_of_a_written_buffer_stay_together() -> None:
    traced = capture(Between(write_a_buffer), (X,))
    assert {"add", "add_1", "mul"} <= {name for group in traced.together for name in group}
    assert "count" in traced.info["add_1"].writes


def test_users_of_a_buffer_written_through_a_view_stay_together() -> None:
    traced = capture(Between(write_a_view_of_a_buffer), (X,))
    assert {"getitem", "mul", "sum_1"} <= {name for group in traced.together for name in group}


def test_reader_before_a_write_stays_before_it() -> None:
    traced = capture(Between(lambda _self, h, _x: (h * 2, h.add_(1))[0] + h), (X,))
    assert ("mul", "add") in traced.order


def test_batch_norm_counts_its_batches_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    traced = assert_agrees(model, (X,))
    assert traced.info["_1"].writes == ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def test_real_tensors_are_never_touched() -> None:
    model = Between(write_a_constant)
    model.constant.fill_(4)
    with torch.no_grad():
        model.first.weight.fill_(1)
    versions = [t._version for t in [model.constant, *model.parameters(), *model.buffers(), X]]
    capture(model, (X,))
    assert [t._version for t in [model.constant, *model.parameters(), *model.buffers(), X]] == versions


class Averaged(nn.Module):
    """A leaf that keeps a mean of what it sees, and clamps its weight, past autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("scale", torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.data.mul_(0.9).add_(x.detach().mean(0))
        with torch.no_grad():
            self.weight.clamp_(-1, 1)
        return x * self.weight * self.scale + self.mean


def test_writes_past_autograd_inside_a_leaf_are_seen() -> None:
    traced = capture(nn.Sequential(nn.Linear(6, 6), Averaged()), (X,))
    assert traced.info["_1"].writes == ("1.weight", "1.mean")
