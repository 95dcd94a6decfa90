"""Arguments and outputs of any form, and modules called in any way."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, calls

X = torch.linspace(-2, 2, 24).reshape(4, 6)
IDS = torch.arange(12).reshape(4, 3)


@dataclasses.dataclass
class Unregistered:
    """A dataclass that torch knows nothing of."""

    hidden: torch.Tensor
    note: str
    others: list[torch.Tensor]


class Named(NamedTuple):
    """A tuple with names."""

    hidden: torch.Tensor
    nothing: None
    inner: dict[str, Any]


class Cache:
    """An object that holds tensors."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def add(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return sum(self.seen, torch.zeros(()))


class Forward(nn.Module):
    """Runs a function with two linears at hand."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def dataclass(self: Any, x: torch.Tensor) -> Any:
    h = self.first(x)
    return Unregistered(self.last(h), "fine", [h, x])


def named(self: Any, x: torch.Tensor) -> Any:
    h = self.first(x)
    return Named(self.last(h), None, {"h": (h, [h * 2, None]), "n": 3})


def same_twice(self: Any, x: torch.Tensor) -> Any:
    h = self.last(self.first(x))
    return h, h, x


def detached_complex(self: Any, x: torch.Tensor) -> Any:
    h = torch.complex(self.first(x), x)
    return {"fft": torch.fft.fft(h), "argmax": self.last(h.real).argmax(-1), "flag": x > 0}


def batched_sizes(self: Any, x: torch.Tensor) -> Any:
    return self.last(self.first(x)), x.shape[0], x.shape[0] * x.shape[1]


def module_called_twice(self: Any, x: torch.Tensor) -> Any:
    return self.last(self.first(self.first(x)))


@pytest.mark.parametrize(
    "function",
    [dataclass, named, same_twice, detached_complex, batched_sizes, module_called_twice],
    ids=lambda function: function.__name__,
)
def test_outputs(function: Any) -> None:
    assert_agrees(Forward(function), (X,))


def test_ordinals_tell_calls_of_one_module_apart() -> None:
    traced = capture(Forward(module_called_twice), (X,))
    keys = [traced.info[node.name].key for node in traced.compute_nodes()]
    assert keys == ["first|@first|0", "first|@first|1", "last|@last|0"]


def test_shared_module_goes_by_its_first_name() -> None:
    model = Forward(lambda self, x: self.again(self.first(x)))
    model.again = model.first
    assert calls(assert_agrees(model, (X,))) == ["first", "first"]


def test_object_in_and_out() -> None:
    def with_cache(self: Any, x: torch.Tensor, cache: Cache) -> Any:
        h = cache.add(self.first(x))
        return self.last(cache.add(h)), cache

    cache = Cache()
    cache.add(X * 2)
    assert_agrees(Forward(with_cache), (X, cache))


def test_keyword_only_and_variadic_arguments() -> None:
    def variadic(self: Any, *xs: torch.Tensor, scale: float, **more: Any) -> Any:
        return self.last(self.first(xs[0]) + sum(xs) * scale), more["mask"]

    model = Forward(variadic)
    assert_agrees(model, (X, X + 1), {"scale": 0.5, "mask": X > 0, "unused": None})


def test_nested_arguments() -> None:
    def nested(self: Any, batch: dict[str, Any], *, rest: Any) -> Any:
        return self.last(self.first(batch["x"]) + rest[0][1]) * batch["scale"]

    assert_agrees(Forward(nested), ({"x": X, "scale": 2, "none": None},), {"rest": [(None, X + 1)]})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.rnn = nn.Embedding(12, 6), kind(6, 5, num_layers=2, batch_first=True, dropout=0.1)
            self.head = nn.Linear(5, 4)

        def forward(self, ids: torch.Tensor) -> Any:
            out, state = self.rnn(self.emb(ids))
            return self.head(out), state

    assert_agrees(Recurrent(), (IDS,))


def test_nn_transformer_is_seen_through() -> None:
    model = nn.Transformer(6, 2, 1, 1, 8, batch_first=True)
    x = torch.randn(2, 3, 6)
    traced = assert_agrees(model, (x, x + 1), n_stages=(1,))
    assert "encoder.layers.0.self_attn" in calls(traced)


def test_fake_arguments_do() -> None:
    mode = torch._subclasses.FakeTensorMode()
    model = Forward(module_called_twice)
    traced = capture(model, (mode.from_tensor(X),))
    assert_agrees(model, (X,), traced=traced)


def test_meta_model_gives_the_same_graph() -> None:
    with torch.device("meta"):
        meta = Forward(module_called_twice)
    real = Forward(module_called_twice)
    assert str(capture(meta, (X.to("meta"),))) == str(capture(real, (X,)))


class Looking(nn.Linear):
    """A leaf that looks whether a cache is empty."""

    def forward(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        return super().forward(x) * (2 if cache.seen else 1)


class Filling(nn.Module):
    """Shows its leaf a cache, then fills it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Looking(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cache = Cache()
        x = self.first(x, cache)
        return self.last(cache.add(x))


def test_object_is_given_to_a_leaf_as_it_was_before_the_model_filled_it() -> None:
    assert_agrees(Filling(), (X,), n_stages=(1, 2))
