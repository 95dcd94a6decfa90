"""Branches on values: one with a way that refuses is checked in every run, a real one is opaque."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.rewrite.cutting import run, split
from tests.trace.agreement import assert_agrees, calls, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


def helper(condition: torch.Tensor, text: str) -> None:
    if not condition.all():
        raise RuntimeError(text)


class Checks(nn.Module):
    """Looks at its labels, its mask and its own numbers, and refuses in five manners."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("limit", torch.tensor(10))

    def forward(self, x: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if labels.max() >= self.limit:
            raise ValueError(f"label {labels.max()} is out of range")
        assert (labels >= 0).all(), "a label is negative"
        helper(mask, "padding is not supported")
        torch._check_tensor_all(labels < 9, lambda: "labels are below 9")
        x = self.linear(x)
        if x.isnan().any():
            raise FloatingPointError("not a number")
        return self.last(x)


ARGUMENTS = (X, torch.arange(4), torch.ones(4, dtype=torch.bool))


def test_checks_of_values_leave_a_model_captured() -> None:
    traced = assert_agrees(Checks(), ARGUMENTS)
    assert opaque_modules(traced) == {}
    assert calls(traced).count("decision") == 5


def test_checks_inside_a_module_leave_it_seen_through() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.checks, self.last = Checks(), nn.Linear(6, 6)

        def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
            return self.last(self.checks(*arguments))

    traced = assert_agrees(Outer(), ARGUMENTS)
    assert opaque_modules(traced) == {}
    assert "checks.linear" in calls(traced)


def test_example_without_values_is_captured_alike() -> None:
    real = capture(Checks(), ARGUMENTS)
    meta = capture(Checks().to("meta"), tuple(argument.to("meta") for argument in ARGUMENTS))
    assert str(meta.graph) == str(real.graph)


@pytest.mark.parametrize(
    ("argument", "value", "refusal", "line"),
    [
        (1, torch.tensor([11, 0, 0, 0]), "ValueError", "if labels.max() >= self.limit:"),
        (1, torch.tensor([-1, 0, 0, 0]), "AssertionError: a label is negative", "assert (labels >= 0).all()"),
        (1, torch.tensor([9, 0, 0, 0]), "RuntimeError: labels are below 9", "torch._check_tensor_all("),
        (
            2,
            torch.tensor([True, False, True, True]),
            "RuntimeError: padding is not supported",
            "if not condition.all():",
        ),
        (0, X / 0, "FloatingPointError: not a number", "if x.isnan().any():"),
    ],
)
def test_values_that_the_model_refuses_are_refused(
    argument: int, value: torch.Tensor, refusal: str, line: str
) -> None:
    staged = split(Checks(), ARGUMENTS, n_stages=2)
    arguments: list[Any] = list(ARGUMENTS)
    arguments[argument] = value
    with pytest.raises(CaptureError, match=f"the model refuses these values: {refusal}") as raised:
        run(staged, *arguments)
    assert line in str(raised.value)
    assert "test_decisions.py:" in str(raised.value)


class Real(nn.Module):
    """Computes one thing or another."""

    def __init__(self, other: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.last, self.other = nn.Linear(6, 6), nn.Linear(6, 6), other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1:
            return self.other(self.last, x)
        return self.linear(x)


def computes_then_raises(last: nn.Module, x: torch.Tensor) -> torch.Tensor:
    raise ValueError(str(last(x).shape))


def needs_numbers(last: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return last(x.new_tensor(x.tolist()))


@pytest.mark.parametrize(
    "other", [lambda _, x: x * 2, lambda last, x: last(x), computes_then_raises, needs_numbers]
)
def test_model_with_a_real_branch_is_explained(other: Any) -> None:
    with pytest.raises(CaptureError, match="branches on the values of a tensor") as raised:
        capture(Real(other), (X,))
    assert "if x.sum() > 1:" in str(raised.value)


def test_module_with_a_real_branch_is_opaque() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Real(lambda _, x: x * 2), nn.Linear(6, 6))
    assert list(opaque_modules(assert_agrees(model, (X,)))) == ["1"]


def test_one_line_may_refuse_for_one_caller_and_branch_for_another() -> None:
    def any_of(condition: torch.Tensor) -> bool:
        return bool(condition.any())

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Real(lambda _, x: x * 2 if any_of(x > 9) else x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if any_of(x > 8):
                raise ValueError("too large")
            return self.inner(x)

    traced = assert_agrees(Both(), (X,))
    assert calls(traced).count("decision") == 1
    assert list(opaque_modules(traced)) == ["inner"]


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_layers_that_are_dropped_with_probability_0_are_seen_through(probability: float) -> None:
    class LayerDrop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                skip = self.training and torch.rand([]) < probability
                x = x if skip else layer(x)
            return x

    traced = assert_agrees(nn.Sequential(nn.Linear(6, 6), LayerDrop(), nn.Linear(6, 6)), (X,))
    assert list(opaque_modules(traced)) == ([] if probability == 0 else ["1"])


def _prints_in_raise(x: torch.Tensor) -> None:
    if x.max() > 5:
        raise ValueError(f"{x.max().item():.1f} of {x.tolist()} and {int(x.max())} is too large")


def _prints_in_check(x: torch.Tensor) -> None:
    torch._check_tensor_all(x <= 5, lambda: f"{int(x.max())} is too large")


def _prints_in_a_trial(x: torch.Tensor) -> None:
    with contextlib.suppress(ValueError):
        _prints_in_raise(x)


def _prints_in_turns(x: torch.Tensor) -> None:
    if x.max() > 5:
        if int(x.max()) > 6:
            raise ValueError("too large")
        x.mul_(2)


class Tells(nn.Module):
    def __init__(self, tell: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.first, self.last, self.tell = nn.Linear(6, 6), nn.Linear(6, 6), tell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tell(x)
        return self.last(self.first(x))


@pytest.mark.parametrize("tell", [_prints_in_raise, _prints_in_check])
def test_a_refusal_may_print_the_values_that_it_refuses(tell: Callable[[torch.Tensor], None]) -> None:
    assert opaque_modules(assert_agrees(Tells(tell), (X,))) == {}
    staged = split(Tells(tell), (X,), n_stages=2)
    with pytest.raises(CaptureError, match="the model refuses these values: it raises"):
        run(staged, X + 9)


@pytest.mark.parametrize("tell", [_prints_in_a_trial, _prints_in_turns])
def test_values_that_may_not_end_in_a_refusal_are_a_real_branch(tell: Callable[[torch.Tensor], None]) -> None:
    with pytest.raises(CaptureError, match="branches on the values of a tensor"):
        capture(Tells(tell), (X,))
