"""Custom autograd functions under torch.vmap: an index into a mask is seen through, a backward is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from autopipe.errors import CaptureError
from autopipe.trace import capture
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


TORCH_WARNS = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*get_attr:UserWarning"
)
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


def squeezed(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: (row @ weights).tanh())(x)  # torch squeezes the product in place


def in_place(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: (row @ weights).mul_(2).tanh_())(x)


def of_a_module(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(module)(x)


def slopes(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(torch.func.grad(lambda row: (row @ weights).tanh().sum()))(x)


def jacobian(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(torch.func.jacrev(module))(x).sum(1)


def forward_jacobian(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(torch.func.jacfwd(lambda row: (row @ weights).tanh()))(x).sum(1)


def hessian(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(torch.func.hessian(lambda row: (row @ weights).tanh().sum()))(x).sum(1)


def dropped(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: F.dropout(row @ weights, 0.5), randomness="different")(x)


class Transforming(nn.Module):
    """Applies a function that transforms others."""

    def __init__(self, function: Callable[[Tensor, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.weights, self.function, self.head = nn.Parameter(torch.randn(6, 6)), function, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.weights, self.second, self.first(x)))


@TORCH_WARNS
@pytest.mark.parametrize(
    "function", [squeezed, in_place, of_a_module, slopes, jacobian, forward_jacobian, hessian, dropped]
)
def test_what_a_transform_runs_is_seen_operator_by_operator(function: Any) -> None:
    torch.manual_seed(0)
    model = Transforming(function)
    traced = assert_agrees(model, (X,), n_stages=(1, 3), exact=False)
    assert any(info.is_random for info in traced.info.values()) == (function is dropped)
    with torch.no_grad():
        assert_agrees(model, (X,), n_stages=(2,), exact=False)


def linearized(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    return torch.func.linearize(lambda y: (y @ weights).tanh(), x)[1](x)


def dual(weights: Tensor, module: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        made = forward_ad.make_dual(x, torch.ones_like(x))
        return forward_ad.unpack_dual((made @ weights).tanh()).tangent


@TORCH_WARNS
@pytest.mark.parametrize("function", [linearized, dual])
def test_other_ways_to_differentiate_are_explained(function: Any) -> None:
    with pytest.raises(CaptureError, match="cannot see through the module") as raised:
        capture(Transforming(function), (X,))
    assert "test_vectorized_functions.py:" in raised.value.where
