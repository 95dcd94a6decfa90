"""Which sizes stay open, and what a graph says about those that do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autopipe.trace import capture
from tests.trace.agreement import assert_agrees


class Net(nn.Module):
    """A linear before a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x))


def x(batch: int, length: int) -> torch.Tensor:
    return torch.linspace(-1, 1, batch * length * 4).reshape(batch, length, 4)


def test_batch_and_length_stay_open() -> None:
    model = Net(lambda h: h.reshape(h.shape[0] * h.shape[1], 4).view(*h.shape) * h.shape[1])
    traced = assert_agrees(model, (x(3, 5),))
    assert str(traced.inputs[0].spec) == "f32[B, L5, 4]"
    assert_agrees(model, (x(7, 2),), traced=traced)


def test_branch_on_a_size_is_a_condition() -> None:
    traced = capture(Net(lambda h: h * 2 if h.shape[1] > 3 else h), (x(3, 5),))
    assert traced.bind([(3, 4, 4)]) is not None
    assert traced.bind([(3, 3, 4)]) is None


def test_loop_over_a_length_fixes_it_and_nothing_else() -> None:
    model = Net(lambda h: torch.stack([h[:, i] * i for i in range(h.shape[1])], 1))
    traced = assert_agrees(model, (x(3, 5),))
    assert traced.bind([(8, 5, 4)]) is not None
    assert traced.bind([(8, 6, 4)]) is None


def test_example_with_batch_1_is_open() -> None:
    model = Net(torch.sin)
    traced = assert_agrees(model, (x(1, 5),))
    assert_agrees(model, (x(6, 5),), traced=traced)


def test_batch_equal_to_another_size_is_not_taken_for_it() -> None:
    model = Net(lambda h: h + torch.ones(4, 4))
    traced = assert_agrees(model, (x(4, 4),))
    assert "B" in traced.inputs[0].spec.shape


def test_fixed_sizes_keep_the_batch_and_open_lengths() -> None:
    model = Net(torch.sin)
    traced = capture(model, (x(1, 5),), fixed_sizes=True)
    assert str(traced.inputs[0].spec) == "f32[1, L5, 4]"
    assert traced.bind([(1, 9, 4)]) == {"L5": 9}
    assert traced.bind([(2, 5, 4)]) is None


@pytest.mark.parametrize("dims", [(None,), (1,)])
def test_batch_dimensions_may_be_given(dims: tuple[int | None]) -> None:
    traced = capture(Net(torch.sin), (x(3, 5),), batch_dims=dims)
    assert traced.inputs[0].batch_dim == dims[0]


def test_a_convolution_leaves_the_batch_free() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    traced = assert_agrees(model, (torch.ones(2, 3, 8, 8),))
    assert traced.guards == ()
