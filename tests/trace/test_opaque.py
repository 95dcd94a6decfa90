"""Modules that cannot be seen through become one node, the smallest; what has no graph is explained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autopipe
from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, calls, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Routed(nn.Module):
    """Two experts, each for its own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 2)
        self.experts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        choice = self.gate(x).argmax(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero().squeeze(-1)
            if rows.numel() > 0:
                out = out.index_add(0, rows, expert(x[rows]))
        return out


class Block(nn.Module):
    """A linear, then what branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.routed = nn.Linear(6, 6), Routed()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.routed(self.linear(x))


def test_smallest_module_is_opaque() -> None:
    traced = assert_agrees(nn.Sequential(Block(), Block(), nn.Linear(6, 3)), (X,), n_stages=(1, 3))
    assert list(opaque_modules(traced)) == ["0.routed", "1.routed"]
    assert "0.linear" in calls(traced)
    because = opaque_modules(traced)["0.routed"]
    assert because.startswith("it depends on data at ")
    assert "test_opaque.py:" in because
    assert "if rows.numel() > 0:" in because
    assert traced.info["_0_routed"].parameters == tuple(
        f"0.routed.{name}" for name, _ in Routed().named_parameters()
    )


class NestedExperts(Routed):
    """Experts that hold experts of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([Block(), Block()])


def test_of_nested_experts_the_outermost_that_branches_is_one_node_and_nothing_around_it() -> None:
    inner = nn.Sequential(nn.Linear(6, 6), Block())
    outer = Block()
    outer.routed = NestedExperts()
    traced = assert_agrees(nn.Sequential(nn.Sequential(inner), outer, nn.Linear(6, 3)), (X,), n_stages=(3,))
    assert list(opaque_modules(traced)) == ["0.0.1.routed", "1.routed"]
    assert {"0.0.0", "0.0.1.linear", "1.linear", "2"} <= set(calls(traced))
    held = traced.info["_1_routed"].parameters
    assert held == tuple(f"1.routed.{name}" for name, _ in NestedExperts().named_parameters())


def test_opaque_argument_keeps_a_module_whole() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3))
    traced = assert_agrees(model, (X,), opaque=lambda fqn: fqn == "0")
    assert opaque_modules(traced) == {"0": "opaque= names it"}


class Top(nn.Module):
    """Branches on data itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        if x.sum() > 0:
            return x * 2
        return x


def test_model_that_branches_on_data_is_explained() -> None:
    with pytest.raises(CaptureError) as raised:
        capture(Top(), (X,))
    text = str(raised.value)
    assert "branches on the values of a tensor" in text
    assert "test_opaque.py:" in text
    assert "in Top.forward" in text
    assert "if x.sum() > 0:" in text
    assert "torch.where" in text


class Found(nn.Module):
    """Returns as many rows as are positive, and how many these are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rows = self.inner(x)[x[:, 0] > 0]
        return rows, rows.shape[0]


def test_a_number_of_rows_that_depends_on_data_is_explained() -> None:
    with pytest.raises(CaptureError, match="the sizes of what the model returns depend on the val"):
        capture(Found(), (X,))


def test_random_branch_over_children_is_random_and_whole() -> None:
    class LayerDrop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                if torch.rand([]) > 0.5:
                    x = layer(x)
            return x

    traced = assert_agrees(nn.Sequential(nn.Linear(6, 6), LayerDrop(), nn.Linear(6, 6)), (X,))
    assert list(opaque_modules(traced)) == ["1"]
    assert traced.info["_1"].is_random
    assert opaque_modules(traced)["1"].startswith("it branches on random numbers at ")
    assert opaque_modules(traced)["1"].endswith("if torch.rand([]) > 0.5:")
    with pytest.raises(CaptureError, match="the model branches on random numbers") as raised:
        capture(LayerDrop(), (X,))
    assert "if torch.rand([]) > 0.5:" in raised.value.where


class Skipping(nn.Module):
    """A layer that decides for itself whether it is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and torch.rand([]) < 0.5:
            return x
        out: torch.Tensor = self.layer(x)
        return out


def test_layers_that_decide_for_themselves_are_cut_apart_and_drop_as_in_one_stage() -> None:
    def trained(n_stages: int) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(*(Skipping() for _ in range(4)), nn.Linear(6, 2))
        pipe = autopipe.split(model, n_stages, (X,))
        assert len(pipe) == n_stages
        with pipe.engine(n_microbatches=2, seed=5) as engine:
            loss = engine.step(X, loss_fn=lambda out: out.square().mean()).loss
        return [loss, *(parameter.grad for parameter in model.parameters())]

    one, four = trained(1), trained(4)
    assert any(grad is None for grad in one), "nothing was dropped in both microbatches"
    for found, expected in zip(four, one, strict=True):
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected)


def test_backward_inside_forward_is_opaque() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Linear(6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                y = x.detach().requires_grad_()
                (grad,) = torch.autograd.grad(self.energy(y.sin()).sum(), y, create_graph=True)
            return grad + x

    traced = assert_agrees(nn.Sequential(nn.Linear(6, 6), Force(), nn.Linear(6, 6)), (X,))
    assert list(opaque_modules(traced)) == ["1"]


def test_operator_without_a_fake_kernel_runs_on_stand_ins() -> None:
    with torch.library._scoped_library("autopipe_test", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: x * 2, "CPU")

        class Doubles(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.linear(x) + torch.ops.autopipe_test.double(x)

        traced = assert_agrees(nn.Sequential(Doubles(), nn.Linear(6, 6)), (X,))
        assert traced.info["double"].spec.shape == ("B", 6)


class Holder(nn.Module):
    """Hands a list to a module that fills it."""

    def __init__(self) -> None:
        super().__init__()
        self.filler = Filler()
        self.last = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: dict[str, Any] = {}
        self.filler(x, found)
        return self.last(found["x"])


class Filler(nn.Module):
    """A leaf that returns through its argument."""

    def forward(self, x: torch.Tensor, found: dict[str, Any]) -> None:
        found["x"] = x * 2


def test_leaf_that_returns_through_its_argument_is_kept_inside_its_caller() -> None:
    traced = assert_agrees(nn.Sequential(nn.Linear(6, 6), Holder()), (X,))
    assert list(opaque_modules(traced)) == ["1"]


class Collected(nn.Module):
    """Reads what hooks of the kind of transformers collected from its children, and branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.seen = nn.Linear(6, 6), nn.Linear(6, 6), Seen()

        def collect(_module: nn.Module, _args: object, out: torch.Tensor) -> None:
            self.seen.found.append(out)

        collect.__module__ = "transformers.utils.output_capturing"
        self.first.register_forward_hook(collect)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.found.clear()
        x = self.second(self.first(x))
        hidden = self.seen.found.pop()
        return x + hidden if x.sum() > 0 else x - hidden


class Seen:
    """What was collected; a copy of it is the same."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def __deepcopy__(self, _memo: object) -> Seen:
        return self


def test_hooks_that_collect_results_run_inside_an_opaque_module_during_capture() -> None:
    traced = assert_agrees(nn.Sequential(Collected(), nn.Linear(6, 3)), (X,), n_stages=(1, 2))
    assert list(opaque_modules(traced)) == ["0"]
