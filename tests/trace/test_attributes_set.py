"""Attributes that a forward sets to sizes, which the graph sets, or to the very tensor that they are."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn

import autopipe
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Sized(nn.Module):
    """Sets the sizes that it met on itself and on an object, as position tables do, and another thing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.table, self.n_tokens = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            SimpleNamespace(length=None),
            0,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table.length = x.shape[1]
        self.n_tokens = x.shape[0] * x.shape[1]
        return self.b(self.a(x)) * self.table.length


def test_sizes_that_forward_sets_are_set_by_the_graph() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Sized(), nn.Linear(6, 3))
    pipe = autopipe.split(model, 3, (torch.randn(2, 5, 6),))
    traced = pipe._captures.first.traced
    assert not opaque_modules(traced)
    assert sorted(map(str, traced.sets)) == ["0.n_tokens = B*L5", "0.table.length = L5"]
    assert (model[0].table.length, model[0].n_tokens) == (None, 0)
    with mock.patch("autopipe.captures.capture", side_effect=AssertionError("captured again")):
        for batch, length in ((2, 5), (3, 7), (3, 7), (2, 5)):
            x = torch.randn(batch, length, 6)
            found = pipe(x)
            assert (model[0].table.length, model[0].n_tokens) == (length, batch * length)
            torch.testing.assert_close(found, model(x))


def test_a_size_that_turns_out_to_be_fixed_is_set_as_the_number_that_it_is() -> None:
    class Looping(Sized):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.table.length = x.shape[1]
            return self.b(self.a(x)) * len(range(x.shape[1]))

    model = nn.Sequential(Looping(), nn.Linear(6, 3))
    traced = assert_agrees(model, (torch.randn(2, 5, 6),), n_stages=(2,))
    assert not opaque_modules(traced)
    assert list(map(str, traced.sets)) == ["0.table.length = 5"]


def test_a_size_that_values_decide_keeps_who_sets_it_whole() -> None:
    class Selecting(Sized):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n_tokens = x[x > 0].shape[0]
            return self.b(self.a(x))

    torch.manual_seed(0)
    traced = assert_agrees(nn.Sequential(Selecting(), nn.Linear(6, 3)), (X,), n_stages=(2,))
    assert list(opaque_modules(traced)) == ["0"]


class Moving(nn.Module):
    """Moves what it holds to where its argument is, which is where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 6), torch.arange(6.0)
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table = self.table.to(x.device)
        self.scale = self.scale.to(x.device).to(x.dtype)
        return self.linear(x) * self.table + self.scale


def test_a_buffer_that_is_moved_to_where_it_is_is_no_change() -> None:
    model = nn.Sequential(Moving(), nn.Linear(6, 3))
    before = model[0].table, model[0].scale
    traced = assert_agrees(model, (X,), n_stages=(1, 2))
    assert not opaque_modules(traced)
    assert model[0].table is before[0]
    assert model[0].scale is before[1]


def test_a_buffer_that_is_of_another_dtype_afterwards_keeps_who_sets_it_whole() -> None:
    class Casting(Moving):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.table = self.table.double()
            return self.linear(x) * self.table.to(x.dtype)

    traced = assert_agrees(nn.Sequential(Casting(), nn.Linear(6, 3)), (X,), n_stages=(1, 2))
    assert list(opaque_modules(traced)) == ["0"]
