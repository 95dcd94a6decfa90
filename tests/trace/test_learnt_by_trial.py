"""Modules that cannot run without numbers: what they return is learnt by trial, and checked in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.errors import AutopipeError, CaptureError
from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-1, 1, 12).reshape(3, 4)
COUNTS = torch.tensor([5, 2, 0])


class Inner(nn.Module):
    """A linear, and what is made of its output by the values of an argument."""

    def __init__(self, returned: Callable[[Tensor, float], Any]) -> None:
        super().__init__()
        self.linear, self.returned = nn.Linear(4, 4), returned

    def forward(self, x: Tensor, counts: Tensor) -> Any:
        return self.returned(self.linear(x), counts.sum().item())


class Outer(nn.Module):
    """A linear, the inner module, and Python that looks at what it returns."""

    def __init__(self, returned: Callable[[Tensor, float], Any], use: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 4), Inner(returned), nn.Linear(4, 2)
        self.use = use

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        return self.last(self.use(self.inner(self.first(x), counts)))


DEPENDENT: dict[str, tuple[Callable[[Tensor, float], Any], Callable[[Any], Tensor]]] = {
    "number": (lambda y, n: (y * n, n), lambda out: out[0] / out[1]),
    "place": (
        lambda y, n: (y, None) if n > 1 else (None, y),
        lambda out: out[1] if out[0] is None else -out[0],
    ),
    "dtype": (lambda y, n: y if n > 1 else y.double(), lambda y: y.float() * y.element_size()),
    "how many": (lambda y, n: (y,) if n > 1 else (y, y), sum),
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_model_that_uses_what_depends_on_values_is_explained(kind: str) -> None:
    with pytest.raises(CaptureError, match="depend") as raised:
        capture(Outer(*DEPENDENT[kind]), (X, COUNTS))
    assert "in Inner.forward" in raised.value.where


RARE: dict[str, tuple[Callable[[Tensor, float], Any], Callable[[Any], Tensor]]] = {
    "number": (lambda y, n: (y, n > 100), lambda out: out[0] * (2 if out[1] else 1)),
    "place": (
        lambda y, n: (y, None) if n < 100 else (None, y),
        lambda out: -out[1] if out[0] is None else out[0],
    ),
    "dtype": (lambda y, n: y if n < 100 else y.double(), lambda y: y.float() * y.element_size()),
    "size": (lambda y, n: y if n < 100 else y.repeat(2, 1), lambda y: y / y.shape[0]),
}


@pytest.mark.parametrize("kind", RARE)
def test_what_no_trial_showed_is_an_error_in_the_run_and_no_wrong_number(kind: str) -> None:
    model = Outer(*RARE[kind])
    pipe = autopipe.split(model, 3, (X, COUNTS))
    assert torch.equal(pipe(X, COUNTS), model(X, COUNTS))
    with pytest.raises(AutopipeError, match="what it returns depends on the values") as raised:
        pipe(X, COUNTS * 100)
    assert "in inner, kept whole: it depends on data at " in raised.value.where
    assert "test_learnt_by_trial.py:" in raised.value.where


def test_several_results_that_no_value_changes_go_on() -> None:
    model = Outer(lambda y, n: {"a": y * n, "b": (y, 3)}, lambda out: out["a"] + out["b"][0] * out["b"][1])
    traced = assert_agrees(model, (X, COUNTS), n_stages=(1, 3, 4))
    assert list(opaque_modules(traced)) == ["inner"]
    assert_agrees(model, (X, COUNTS * 100), traced=traced)


class Matching(nn.Module):
    """Refuses ids of which not two a row are marked, and goes by their values otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor, images: Tensor) -> Tensor:
        hidden = self.embed(ids)
        marked = ids == 8
        if int(marked.sum()) != images.shape[0] * 2:
            raise ValueError(f"{int(marked.sum())} marked")
        if bool((ids == 7).any()):
            hidden = hidden * 2
        return self.linear(hidden.masked_scatter(marked[..., None], images))


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.head = Matching(), nn.Linear(4, 9)

    def forward(self, ids: Tensor, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.model(ids, images)).logsumexp(-1).mean()
        return out


def test_module_that_refuses_made_up_values_is_tried_on_the_example() -> None:
    ids = torch.tensor([[8, 8, 1, 2], [8, 8, 3, 4]])
    images = torch.linspace(-1, 1, 16).reshape(2, 2, 4)
    traced = assert_agrees(Reading(), (ids, images), n_stages=(1, 2))
    assert list(opaque_modules(traced)) == ["model"]
    assert_agrees(Reading(), (torch.tensor([[8, 7, 8, 2, 1]] * 3), torch.ones(3, 2, 4)), n_stages=(2,))


class Remembering(nn.Module):
    """Branches on data, and appends to a list that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        x = self.linear(x)
        if bool(x.sum() > 0):
            x = x * 2
        seen.append(x)
        return sum(seen) / len(seen)


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Remembering(), Remembering()

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        return self.second(self.first(x, seen), seen)


def test_object_that_an_opaque_module_fills_stays_inside_of_a_module() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Memory(), nn.Linear(4, 2))
    traced = assert_agrees(model, (X,), n_stages=(1, 3))
    assert list(opaque_modules(traced)) == ["1"]
    assert "puts tensors into an object" in opaque_modules(traced)["1"]


class Writing(nn.Module):
    """Looks at its argument, then writes into it and into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        scale = 3 if x.detach().abs().max().item() > 0.01 else 2
        out: Tensor = self.linear(x.clone())
        self.count += 1
        x.detach().mul_(scale)
        return out + self.count


class Around(nn.Module):
    """Reads a value before and behind a module that writes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.writing, self.last = nn.Linear(4, 4), Writing(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).detach()
        before = hidden * 1.0
        made = self.writing(hidden)
        out: Tensor = self.last(made + hidden + before)
        return out


def test_what_an_opaque_module_writes_is_found_when_it_is_tried_out() -> None:
    traced = assert_agrees(Around(), (X,), n_stages=(1, 2, 4))
    assert "writing.count" in traced.info["writing"].writes
    assert len(traced.info["writing"].writes) == 2
    autopipe.split(Around(), 3, (X,)).verify().raise_if_different()
