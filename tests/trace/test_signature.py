"""Calls whose graphs may differ have different signatures."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autopipe
from autopipe.trace import signature_of
from autopipe.trace.signature import Signature

X = torch.ones(2, 4)

USES_FLASH = False
LIMITS = {"length": 8}
n_calls = 0


def factor_of(x: torch.Tensor) -> float:
    global n_calls  # noqa: PLW0603 - this is what is tested
    n_calls += 1
    return 2.0 if USES_FLASH and LIMITS["length"] > x.shape[0] else Tables.SCALE


class Tables:
    """Stands for a file of settings."""

    SCALE = 1.0


class Slots:
    """An object without ``__dict__``."""

    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Model(nn.Module):
    """Reads flags from everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.1)
        self.scale, self.config = 1.0, SimpleNamespace(depth=2, rope={"theta": 1e4})
        self.activation, self.mask, self.sizes = F.gelu, torch.ones(4), [1, 2]
        self.slots, self.softmax = Slots(0.5), functools.partial(F.softmax, dim=-1)
        self.deep = {"a": [{"b": ({"c": SimpleNamespace(d=1)},)}]}

    kind = "plain"

    def forward(self, x: torch.Tensor, labels: Any = None, factor: float = 1.0) -> torch.Tensor:
        return self.linear(x) * (factor_of(x) if self.kind == "plain" else 1.0)


CHANGES = {
    "eval": lambda m: m.eval(),
    "eval of one leaf": lambda m: m.drop.eval(),
    "plain attribute": lambda m: setattr(m, "scale", 2.0),
    "attribute of a leaf": lambda m: setattr(m.drop, "p", 0.2),
    "config": lambda m: setattr(m.config, "depth", 3),
    "nested config": lambda m: m.config.rope.update(theta=1e5),
    "function": lambda m: setattr(m, "activation", F.relu),
    "another tensor": lambda m: setattr(m, "mask", torch.zeros(4)),
    "list": lambda m: m.sizes.append(3),
    "forward hook of a leaf": lambda m: m.drop.register_forward_hook(lambda *_: None),
    "slot": lambda m: setattr(m.slots, "rate", 0.6),
    "partial": lambda m: setattr(m, "softmax", functools.partial(F.softmax, dim=0)),
    "deep in a config": lambda m: setattr(m.deep["a"][0]["b"][0]["c"], "d", 2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_python_may_branch_on_is_signed(change: Any) -> None:
    model = Model()
    before = signature_of(model, (X,), {})
    assert signature_of(model, (X + 1,), {}) == before
    change(model)
    after = signature_of(model, (X,), {})
    assert after != before
    assert before.differences(after) != []


OUTSIDE = {
    "global of a function": (sys.modules[__name__], "USES_FLASH", True),
    "dict of settings": (sys.modules[__name__], "LIMITS", {"length": 4}),
    "attribute of another class": (Tables, "SCALE", 3.0),
    "class attribute": (Model, "kind", "other"),
    "method": (Model, "forward", lambda self, x: x),
}


@pytest.mark.parametrize(("holder", "name", "value"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_flags_outside_of_the_model_are_signed(
    holder: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    before = signature_of(model, (X,), {})
    monkeypatch.setattr(holder, name, value)
    assert signature_of(model, (X,), {}) != before


def test_a_global_that_forward_counts_up_is_no_flag() -> None:
    model = Model()
    before = signature_of(model, (X,), {})
    model(X)
    assert signature_of(model, (X,), {}) == before


def test_hooks_on_all_modules_are_signed() -> None:
    model = Model()
    before = signature_of(model, (X,), {})
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert signature_of(model, (X,), {}) != before
    finally:
        handle.remove()


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "labels given": ((X, X), {}),
    "another scalar": ((X,), {"factor": 2.0}),
    "another dtype": ((X.double(),), {}),
    "another rank": ((X[0],), {}),
    "by keyword": ((), {"x": X}),
    "another order in memory": ((torch.ones(4, 2).t(),), {}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_another_call_has_another_signature(call: Any) -> None:
    model = Model()
    assert signature_of(model, *call) != signature_of(model, (X,), {})


def test_sizes_and_values_are_not_signed() -> None:
    model = Model()
    assert signature_of(model, (torch.zeros(7, 4),), {}) == signature_of(model, (X,), {})


def test_a_branch_on_the_order_in_memory_takes_the_right_way() -> None:
    class Ordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            is_last = x.is_contiguous(memory_format=torch.channels_last)
            out: torch.Tensor = self.one(x) if is_last else self.other(x)
            return out

    model, images = Ordered(), torch.randn(4, 3, 5, 5)
    pipe = autopipe.split(model, 1, (images,))
    for given in (images, images.to(memory_format=torch.channels_last), images[:2]):
        assert torch.equal(pipe(given), model(given))


def test_modes_are_signed() -> None:
    model = Model()
    with torch.no_grad():
        no_grad = signature_of(model, (X,), {})
    with torch.autocast("cpu"):
        autocast = signature_of(model, (X,), {})
    assert len({signature_of(model, (X,), {}).region, no_grad.region, autocast.region}) == 3


def test_a_signature_prints_alike_for_models_that_are_built_alike() -> None:
    built = [signature_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (), {}) for _ in range(2)]
    assert built[0] != built[1]
    assert repr(built[0].state) == repr(built[1].state)


class Counted(tuple[int, ...]):
    """A tuple that has no length, as the irreducible representations of e3nn have."""

    def __len__(self) -> int:
        raise NotImplementedError


def test_a_tuple_without_a_length_is_looked_into() -> None:
    def of(*items: int) -> Signature:
        model = nn.Sequential(nn.Linear(2, 2))
        model.counted = Counted(items)
        return signature_of(model, (), {})

    assert dict(of(1, 2).state)[".counted.1"] == dict(of(3, 2).state)[".counted.1"]
    assert dict(of(1, 2).state)[".counted.0"] != dict(of(3, 2).state)[".counted.0"]
