"""A plain tensor that a leaf holds and writes is the same number in a split model as in the whole one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.rewrite import rewrite
from autopipe.runtime.run_again import RunAgain
from autopipe.trace import capture
from tests.rewrite.cutting import evenly

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Counter(nn.Module):
    """Sums up what it has seen."""

    def __init__(self, seen: Tensor | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.seen = torch.zeros(6) if seen is None else seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().mean(0)
        return x * self.scale + self.seen


class LookingCounter(Counter):
    """Branches on values, so that it is learnt by trial."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.detach().mean(0) if x.sum() > -1e9 else 0)
        return x * self.scale + self.seen


class After(nn.Module):
    """Reads the sum after the leaf has moved it."""

    def __init__(self, leaf: Counter) -> None:
        super().__init__()
        self.leaf, self.linear = leaf, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.leaf(x)) * self.leaf.seen.sum()
        return out


class Before(After):
    """Reads it before."""

    def forward(self, x: Tensor) -> Tensor:
        first = x * self.leaf.seen.sum()
        out: Tensor = self.linear(self.leaf(x)) + first
        return out


class Twice(After):
    """Calls the leaf twice."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leaf(self.linear(self.leaf(x)))
        return out


class Shared(After):
    """Two leaves hold the same tensor."""

    def __init__(self, leaf: Counter) -> None:
        super().__init__(leaf)
        self.other = Counter(leaf.seen)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(self.linear(self.leaf(x)))
        return out


def build(around: type[After], leaf: type[Counter]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    counter = leaf()
    return nn.Sequential(nn.Linear(6, 6), around(counter), nn.Linear(6, 6), nn.Linear(6, 2)), counter.seen


@pytest.mark.parametrize("leaf", [Counter, LookingCounter])
@pytest.mark.parametrize("around", [After, Before, Twice, Shared])
def test_who_writes_a_plain_tensor_shares_a_stage_with_who_reads_it(
    around: type[After], leaf: type[Counter]
) -> None:
    (plain, expected), (model, seen) = build(around, leaf), build(around, leaf)
    pipe = autopipe.split(model, 3, (X,), n_microbatches=2)
    assert not seen.any(), "splitting leaves the model as it was"
    for x in (X, X + 1):
        torch.testing.assert_close(pipe(x), plain(x))
        torch.testing.assert_close(seen, expected)
    with pipe.engine() as engine:
        loss = engine.step(X, loss_fn=lambda out: out.square().mean()).loss
    losses = [plain(part).square().mean() / 2 for part in X.tensor_split(2)]
    for each in losses:
        each.backward()
    torch.testing.assert_close(loss, torch.stack(losses).sum().detach())
    torch.testing.assert_close(seen, expected)
    grads = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(grads, [parameter.grad for parameter in plain.parameters()])


def test_verify_leaves_plain_tensors_as_it_found_them() -> None:
    model, seen = build(Twice, Counter)
    pipe = autopipe.split(model, 3, (X,), n_microbatches=2)
    pipe(X)
    before = seen.clone()
    assert pipe.verify().is_equal
    assert torch.equal(seen, before)


def test_a_forward_that_runs_again_writes_a_plain_tensor_once() -> None:
    (plain, expected), (model, seen) = build(After, Counter), build(After, Counter)
    traced = capture(model, (X,))
    staged = rewrite(traced, model, evenly(traced, 1), 1)
    stage = staged.stages[0]
    again = RunAgain(stage, {"in_0": X, "B": 4})
    with again.hooks():
        out = stage.module(*[{"in_0": X, "B": 4}[argument.name] for argument in stage.arguments])
    again.run()
    out[0].sum().backward()
    plain(X).sum().backward()
    torch.testing.assert_close(seen, expected)
    grads = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(grads, [parameter.grad for parameter in plain.parameters()])
