"""What a forward changes in its arguments a pipeline changes in the caller's own, as the model does."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.errors import ArgumentError

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def fill(kept: Any, h: Tensor) -> None:
    kept["h"], kept["n"] = h, kept.get("n", 0) + 1


def write_inside(kept: Any, h: Tensor) -> None:
    kept["t"].add_(h.detach())
    kept["list"].append(kept.pop("t"))


def put_first(kept: Any, h: Tensor) -> None:
    kept.insert(0, h)
    kept[1].mul_(2)


def set_attributes(kept: Any, h: Tensor) -> None:
    kept.h, kept.inner["count"] = h, 3
    del kept.old


CHANGES: dict[str, tuple[Callable[[Any, Tensor], None], Callable[[], Any]]] = {
    "fills a dict": (fill, dict),
    "appends to a list": (lambda kept, h: kept.append(h), list),
    "puts a tensor in front": (put_first, lambda: [torch.ones(2, 4), 1]),
    "appends to a deque": (lambda kept, h: kept.append(2), lambda: deque([1])),
    "writes into a tensor": (lambda kept, h: kept.add_(h.detach()), lambda: torch.ones(2, 4)),
    "writes through a view": (lambda kept, h: kept[0].zero_(), lambda: torch.ones(2, 4)),
    "writes into a tensor inside, and moves it": (write_inside, lambda: {"t": torch.ones(2, 4), "list": []}),
    "removes": (lambda kept, h: kept.clear(), lambda: {"t": torch.ones(2, 4)}),
    "sets attributes": (set_attributes, lambda: SimpleNamespace(old=1, inner={})),
}


class Keeping(nn.Module):
    """Changes its second argument in the middle, and returns it or not."""

    def __init__(self, change: Callable[[Any, Tensor], None], returns: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.change, self.returns = change, returns

    def forward(self, x: Tensor, kept: Any) -> Any:
        h = self.first(x)
        self.change(kept, h)
        out = self.last(h)
        return (out, kept) if self.returns else out


def split(model: nn.Module, kept: Any) -> autopipe.Pipeline:
    return autopipe.split(model, 2, (X, kept), pin={"first": 0, "last": 1})


def shown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist(), value.requires_grad
    if isinstance(value, dict):
        return {key: shown(each) for key, each in value.items()}
    if isinstance(value, list | deque):
        return [shown(each) for each in value]
    return shown(vars(value)) if isinstance(value, SimpleNamespace) else value


@pytest.mark.parametrize("name", CHANGES)
def test_the_callers_own_argument_is_changed_as_the_model_changes_it(name: str) -> None:
    change, make = CHANGES[name]
    model = Keeping(change)
    pipe = split(model, make())
    expected, found = make(), make()
    tensors = [
        part for part in (found.values() if isinstance(found, dict) else []) if isinstance(part, Tensor)
    ]
    for _ in range(2 if name == "fills a dict" else 1):
        assert pipe(X, found).equal(model(X, expected))
    assert shown(found) == shown(expected)
    if name.startswith("writes into a tensor inside"):
        assert found["list"][0] is tensors[0]


def test_gradients_flow_through_what_was_put_there() -> None:
    gradients = []
    model = Keeping(fill)
    pipe = split(model, {})
    for run in (model, pipe):
        model.zero_grad()
        kept: dict[str, Any] = {}
        (run(X, kept).sum() + kept["h"].square().sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(one.equal(other) for one, other in zip(*gradients, strict=True))


def test_arguments_that_the_forward_leaves_alone_are_not_touched() -> None:
    model = Keeping(lambda kept, h: None)
    kept = {"t": torch.ones(2, 4), "deep": [{"n": 1}]}
    before = copy.copy(kept)
    pipe = split(model, kept)
    pipe(X, kept)
    assert pipe._captures.first.traced.changed is None
    assert all(kept[key] is before[key] for key in before)


def test_an_engine_refuses_a_forward_whose_change_it_would_lose() -> None:
    pipe = split(Keeping(fill), {})
    with (
        pipe.engine(n_microbatches=1) as engine,
        pytest.raises(ArgumentError, match=r"^the forward changes kept, and an engine would lose that\."),
    ):
        engine.step(X, {}, loss_fn=torch.mean)


def test_an_engine_warns_of_a_tensor_that_the_forward_writes_and_leaves_yours() -> None:
    change, make = CHANGES["writes into a tensor"]
    kept = make()
    with (
        split(Keeping(change), make()).engine(n_microbatches=2) as engine,
        pytest.warns(UserWarning, match="The forward writes into kept"),
    ):
        engine.step(X, kept, loss_fn=torch.mean)
    assert kept.equal(make())


def test_an_engine_takes_a_forward_that_returns_what_it_changes() -> None:
    model = Keeping(fill, returns=True)
    with split(model, {}).engine(n_microbatches=2) as engine:
        _, kept = engine.forward(X, {})
    torch.testing.assert_close(kept["h"], model(X, {})[1]["h"].detach())


def test_verify_proves_a_model_that_changes_its_arguments() -> None:
    assert split(Keeping(fill), {}).verify().is_equal
