"""Modules that are called with weights that are not their own: hypernetworks, meta-learning, ensembles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.kept_training import X, assert_kept
from tests.trace.agreement import calls, opaque_modules


class Inner(nn.Module):
    """Has leaves of several kinds. The norm comes first: of two rows it leaves but signs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(self.norm(x))
        return x + self.attention(x[None], x[None], x[None], need_weights=False)[0][0]


class Hyper(nn.Module):
    """Calls a module with weights that it computes, and with its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale, self.head = Inner(), nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = 1 + torch.tanh(self.scale(x).mean())
        weights = {name: weight * factor for name, weight in self.inner.named_parameters()}
        return self.head(torch.func.functional_call(self.inner, weights, (x,)) + self.inner(x))


class Adapted(nn.Module):
    """Takes a step of gradient descent inside of its forward, and goes on with the weights after it."""

    def __init__(self) -> None:
        super().__init__()
        self.learner, self.head = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3)
        self.rates = nn.ParameterList([nn.Parameter(torch.full((), 0.1)) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slow = dict(self.learner.named_parameters())
        step = x.mean()
        fast = {k: v - rate * step for (k, v), rate in zip(slow.items(), self.rates, strict=True)}
        return self.head(torch.func.functional_call(self.learner, fast, (x,)))


@pytest.mark.parametrize("build", [Hyper, Adapted])
@pytest.mark.parametrize("n_stages", [1, 3])
def test_a_module_called_with_other_weights_gives_what_it_gives_plain(
    build: type[nn.Module], n_stages: int
) -> None:
    assert not opaque_modules(capture(build(), (X,)))
    assert_kept(build, n_stages=n_stages)


def test_a_module_called_with_its_own_weights_stays_one_node() -> None:
    found = calls(capture(Hyper(), (X,)))
    assert [found.count(leaf) for leaf in ("inner.linear", "inner.norm", "inner.attention")] == [1, 1, 1]


def test_hooks_that_would_not_run_are_explained() -> None:
    model = Hyper()
    model.inner.linear.register_forward_hook(lambda module, args, out: out * 2)
    with pytest.raises(CaptureError, match=r"inner is called with weights that are not its.*it has hooks"):
        capture(model, (X,))
