"""Custom autograd functions under torch.vmap: an index into a mask is seen through, a backward is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.trace.agreement import assert_agrees, opaque_modules


class Doubled(torch.autograd.Function):
    """Twice the argument, and three times its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x + x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * grad


class Masked(nn.Module):
    """Makes a mask a row at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        weights = torch.vmap(Doubled.apply)(mask)
        out: Tensor = self.second(self.first(x) * weights)
        return out


class Trained(Masked):
    """Gives the function what wants a gradient."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.second(torch.vmap(Doubled.apply)(self.first(x)) * mask)
        return out


class Ensemble(nn.Module):
    """Gives one value, which its function closes over, to many layers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weights = nn.Linear(6, 6), nn.Parameter(torch.linspace(-1, 1, 180).reshape(5, 6, 6))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.first(x)
        each = torch.vmap(lambda weight: torch.tanh(x @ weight) * torch.sigmoid(x).detach())(self.weights)
        out: Tensor = each.mean(0) * mask
        return out


class Around(nn.Module):
    """A model with the module inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(6, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(x, mask))
        return out


X, MASK = torch.linspace(-2, 2, 24).reshape(4, 6), torch.linspace(0, 1, 24).reshape(4, 6)


def test_a_function_of_what_wants_no_gradient_is_seen_through() -> None:
    torch.manual_seed(0)
    traced = assert_agrees(Around(Masked()), (X, MASK), n_stages=(1, 3))
    assert not opaque_modules(traced)


def test_the_backward_of_a_function_is_its_own() -> None:
    torch.manual_seed(0)
    assert_agrees(Around(Trained()), (X, MASK), n_stages=(1, 3))


def test_a_gradient_comes_back_through_every_cut_inside_of_a_vectorized_function() -> None:
    torch.manual_seed(0)
    traced = assert_agrees(Around(Ensemble()), (X, MASK), n_stages=(1, 3, 8))
    assert not opaque_modules(traced)
    inside = [traced.info[node.name] for node in traced.compute_nodes() if "aten" in str(node.target)]
    wanting = {info.key.split("|")[1]: info.spec is not None and info.spec.requires_grad for info in inside}
    assert wanting["mm.default"]
    assert not wanting["detach.default"]
