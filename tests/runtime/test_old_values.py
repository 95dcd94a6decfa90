"""Buffers that a forward writes are other numbers in the next microbatch, while this one is in flight."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autopipe.errors import EngineError
from tests.runtime.training import assert_same, engine_of, gradients

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Average(nn.Module):
    """Multiplies with a running mean of what it saw; written in one of many ways."""

    def __init__(self, how: str, is_leaf: bool) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("mean", torch.ones(4))
        self.register_buffer("table", torch.ones(2, 4))
        self.register_buffer("row", self.table[0])
        self.plain = torch.ones(4)
        self.factor = nn.Parameter(torch.full((4,), 2.0))
        if not is_leaf:
            self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        new = 0.1 * x.detach().mean(0)
        return getattr(self, self.how)(x, new)

    def in_place(self, x: Tensor, new: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(new)
        return x * self.mean

    def without_grad(self, x: Tensor, new: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.copy_(0.9 * self.mean + new)
        return x * self.mean.view(1, 4)

    def past_autograd(self, x: Tensor, new: Tensor) -> Tensor:
        self.mean.data.mul_(0.9).add_(new)
        return x * self.mean

    def past_autograd_after(self, x: Tensor, new: Tensor) -> Tensor:
        out = x * self.mean
        self.mean.data.mul_(0.9).add_(new)
        return out

    def through_a_view(self, x: Tensor, new: Tensor) -> Tensor:
        self.table[0].mul_(0.9).add_(new)
        return x * self.table.mean(0) * self.table.view(-1)[:4]

    def through_another_buffer(self, x: Tensor, new: Tensor) -> Tensor:
        self.row.mul_(0.9).add_(new)
        return x * self.table[0].unsqueeze(0)

    def of_a_plain_tensor(self, x: Tensor, new: Tensor) -> Tensor:
        self.plain.mul_(0.9).add_(new)
        return x * self.plain

    def of_a_parameter(self, x: Tensor, new: Tensor) -> Tensor:
        with torch.no_grad():
            self.factor.add_(new)
        return x * self.factor

    def read_before(self, x: Tensor, new: Tensor) -> Tensor:
        out = x * self.mean
        self.mean.add_(new)
        return out


class Net(nn.Module):
    """Returns the mean too, which lies in an early stage."""

    def __init__(self, how: str, is_leaf: bool) -> None:
        super().__init__()
        self.a, self.average = nn.Linear(4, 4), Average(how, is_leaf)
        self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.average(self.a(x).tanh())
        return self.c(self.b(y).tanh()), self.average.mean.view(2, 2)


def judge(out: tuple[Tensor, Tensor]) -> Tensor:
    return out[0].square().mean() * out[1].square().sum()


def split(how: str, is_leaf: bool, n_microbatches: int = 4):
    torch.manual_seed(0)
    model = Net(how, is_leaf)
    stages = {"a": 0, "average": 0, "b": 1, "c": 2}
    return model, engine_of(model, (X,), n_stages=3, stages=stages, n_microbatches=n_microbatches)


WAYS = [
    "in_place",
    "without_grad",
    "past_autograd",
    "past_autograd_after",
    "through_a_view",
    "through_another_buffer",
    "of_a_parameter",
]


@pytest.mark.parametrize(
    ("how", "is_leaf"),
    [*((how, leaf) for how in WAYS for leaf in (True, False)), ("of_a_plain_tensor", False)],
)
def test_a_buffer_that_is_written_and_read_trains_as_in_the_plain_loop(how: str, is_leaf: bool) -> None:
    model, engine = split(how, is_leaf)
    plain = copy.deepcopy(model)
    plain.average.row = plain.average.table[0]
    loss = torch.zeros(())
    for part in X.tensor_split(4):
        each = judge(plain(part)) / 4
        each.backward()
        loss += each.detach()
    torch.testing.assert_close(engine.step(X, loss_fn=judge).loss, loss)
    assert_same(gradients(model), gradients(plain))
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_a_forward_sends_the_numbers_of_its_own_microbatch() -> None:
    model, engine = split("in_place", True)
    plain = copy.deepcopy(model)
    outs = [plain(part) for part in X.tensor_split(4)]
    out, mean = engine.forward(X)
    torch.testing.assert_close(out, torch.cat([each for each, _ in outs]).detach())
    torch.testing.assert_close(mean, plain.average.mean.view(2, 2))


@pytest.mark.parametrize("n_microbatches", [1, 4])
def test_what_fails_unsplit_fails(n_microbatches: int) -> None:
    model, engine = split("read_before", True, n_microbatches)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        judge(copy.deepcopy(model)(X)).backward()
    with pytest.raises(EngineError, match=r"modified (by an inplace|in place after it was read)"):
        engine.step(X, loss_fn=judge)


def test_what_only_torch_reads_needs_no_copies() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    engine = engine_of(model, (X,), n_stages=2)
    assert [stage.written for stage in engine._staged.stages] == [(), ()]
