"""Numbers that a forward takes out of tensors: those that are only checked, and all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.errors import AutopipeError, CaptureError
from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, calls, opaque_modules

IDS = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
LENGTHS = torch.tensor([3, 2])


class Trunk(nn.Module):
    """Two blocks behind what is done with the longest length."""

    def __init__(self, check: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.check = check

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        scale = self.check(ids, lengths)
        x: Tensor = self.embed(ids)
        for block in self.blocks:
            x = block(x).relu()
        return x if scale is None else x * scale


class Model(nn.Module):
    def __init__(self, check: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.trunk, self.head = Trunk(check), nn.Linear(6, 2)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(ids, lengths))
        return out


def asserts(ids: Tensor, lengths: Tensor) -> None:
    assert lengths.max().item() <= ids.shape[1]


def raises(ids: Tensor, lengths: Tensor) -> None:
    if not 0 < lengths.min().item() < 100:
        raise ValueError("lengths are wrong")


@pytest.mark.parametrize("check", [asserts, raises])
def test_number_that_is_only_checked_is_seen_through(check: Callable[[Tensor, Tensor], Any]) -> None:
    traced = assert_agrees(Model(check), (IDS, LENGTHS), n_stages=(1, 2, 4))
    assert opaque_modules(traced) == {}
    assert "trunk.blocks.1" in calls(traced)


def test_numbers_that_the_model_refuses_are_refused_in_the_stage() -> None:
    pipe = autopipe.split(Model(asserts), 2, (IDS, LENGTHS))
    pipe(IDS, LENGTHS)
    with pytest.raises(AutopipeError, match="the model refuses these values"):
        pipe(IDS, LENGTHS + 7)


def branches(ids: Tensor, lengths: Tensor) -> Any:
    return 2.0 if lengths.max().item() > 2 else 0.5


def computes(ids: Tensor, lengths: Tensor) -> Any:
    return 0.5 + lengths.max().item()


def hands_on(ids: Tensor, lengths: Tensor) -> Any:
    return torch.full((), lengths.max().item(), dtype=torch.float32)


def formats(ids: Tensor, lengths: Tensor) -> Any:
    return {"3": 2.0}.get(f"{lengths.max().item()}", 0.5)


def looks_up(ids: Tensor, lengths: Tensor) -> Any:
    return {3: 2.0}.get(lengths.max().item(), 0.5)


def compares_with_a_fraction(ids: Tensor, lengths: Tensor) -> Any:
    return 2.0 if lengths.max().item() > 2.5 else 0.5


EVERYTHING_ELSE = [branches, computes, hands_on, formats, looks_up, compares_with_a_fraction]


@pytest.mark.parametrize("use", EVERYTHING_ELSE)
def test_number_that_is_used_keeps_its_module_whole(use: Callable[[Tensor, Tensor], Any]) -> None:
    traced = assert_agrees(Model(use), (IDS, LENGTHS), n_stages=(1, 2))
    assert list(opaque_modules(traced)) == ["trunk"]


@pytest.mark.parametrize("use", EVERYTHING_ELSE)
def test_number_that_the_model_itself_uses_is_explained(use: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(CaptureError, match="DataDependent") as caught:
        capture(Trunk(use), (IDS, LENGTHS))
    assert use.__name__ in str(caught.value)
