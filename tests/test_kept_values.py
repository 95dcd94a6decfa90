"""Values stay what they are: buffers and writes, what crosses a cut, arguments and outputs of any form."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import autopipe
from tests.kept_training import IDS, X, assert_kept, built


class Linears(nn.Module):
    """Three linears, and buffers of both kinds, at the disposal of a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
        self.register_buffer("total", torch.zeros(6))
        self.register_buffer("table", torch.linspace(0, 1, 12).reshape(2, 6), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def reads_non_persistent(self: Linears, x: torch.Tensor) -> Any:
    return self.c(self.b(self.a(x) + self.table[0]) * self.table[1])


def writes_buffer(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x)
    self.total.add_(h.detach().mean(0))
    return self.c(self.b(h) * self.total)


def writes_buffer_through_view(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x)
    with torch.no_grad():
        self.total[1:4] += h.mean(0)[1:4]
        self.table.view(-1)[3].fill_(2.0)
    return self.c(self.b(h)) + self.table.sum()


def replaces_buffer_values(self: Linears, x: torch.Tensor) -> Any:
    h = self.b(self.a(x))
    self.total.copy_(0.9 * self.total + 0.1 * h.detach().mean(0))
    return self.c(h) - self.total


def writes_after_a_cut(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x)
    h += 1
    h = self.b(h).mul_(2)
    h.relu_()
    return self.c(h)


def writes_through_views(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x) * 1
    h[:, 0] = 5.0
    h.view(-1, 3)[::2] *= 2
    right = h[:, 3:]
    right.add_(h[:, :3].detach())
    return self.c(self.b(h))


def writes_argument(self: Linears, x: torch.Tensor) -> Any:
    x.mul_(2)
    return self.c(self.b(self.a(x)))


def complex_crosses(self: Linears, x: torch.Tensor) -> Any:
    h = torch.fft.fft(self.a(x))
    h = torch.complex(self.b(h.real), h.imag)
    return self.c(torch.fft.ifft(h).real), h


def integers_cross(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x)
    best, flags, size = h.argmax(-1), h > 0, h.shape[0]
    h = self.c(self.b(h))
    return h.gather(1, best[:, None]) + h.masked_fill(flags, 0.0) / size, best, flags.to(torch.uint8)


@dataclasses.dataclass
class Output:
    """Unknown to torch."""

    logits: torch.Tensor
    rest: dict[str, Any]


class Named(NamedTuple):
    """A tuple with names."""

    hidden: torch.Tensor
    nothing: None


def dataclass(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x)
    return Output(self.c(self.b(h)), {"h": [h, (None, h.detach())]})


def nested(self: Linears, x: torch.Tensor) -> Any:
    h = self.a(x)
    return Named(h, None), {"out": (self.c(self.b(h)), [h, h]), "n": 3, "none": None}


@pytest.mark.parametrize(
    "function",
    [
        reads_non_persistent,
        writes_buffer,
        writes_buffer_through_view,
        replaces_buffer_values,
        writes_after_a_cut,
        writes_through_views,
        complex_crosses,
        integers_cross,
        dataclass,
        nested,
    ],
    ids=lambda function: function.__name__,
)
def test_models_train_as_they_are(function: Any) -> None:
    pipe = assert_kept(lambda: Linears(function), n_stages=3 if function is writes_after_a_cut else 2)
    assert "table" not in pipe.state_dict()
    assert "total" in pipe.state_dict()


def test_a_tensor_argument_is_written_for_the_caller_and_by_an_engine_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"The forward writes into args\[0\]"):
        assert_kept(lambda: Linears(writes_argument))


class Cache:
    """Keys and values of earlier calls, as a language model keeps them."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def update(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return torch.stack(self.seen).sum(0)


def fills_cache(self: Linears, x: torch.Tensor, cache: Cache | None = None) -> Any:
    cache = cache or Cache()
    h = cache.update(self.a(x))
    return self.c(cache.update(self.b(h))), cache


def variadic(self: Linears, *xs: torch.Tensor, scale: torch.Tensor, **more: Any) -> Any:
    return self.c(self.b(self.a(xs[0]) + sum(xs)) * scale) * more["mask"]


def in_a_dict(self: Linears, batch: dict[str, Any], *, rest: Any) -> Any:
    return self.c(self.b(self.a(batch["x"])) + rest[0][1]) * batch["scale"]


CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "a cache comes out": (fills_cache, (X,), {}),
    "keyword-only and variadic": (variadic, (X, X + 1), {"scale": X.abs(), "mask": X > 0, "unused": None}),
    "nested arguments": (in_a_dict, ({"x": X, "scale": 2},), {"rest": [(None, X + 1)]}),
}


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS.values(), ids=CALLS.keys())
def test_arguments_and_outputs_of_any_form(function: Any, args: Any, kwargs: Any) -> None:
    assert_kept(lambda: Linears(function), args, kwargs)


def test_a_cache_that_goes_in_comes_out_filled() -> None:
    def filled() -> Cache:
        cache = Cache()
        cache.update(X * 2)
        return cache

    model = built(lambda: Linears(fills_cache))
    pipe = autopipe.split(model, 2, (X, filled()))
    (found, mine), (expected, theirs) = pipe(X, filled()), model(X, filled())
    assert torch.equal(found, expected)
    assert type(mine) is Cache
    assert all(torch.equal(one, other) for one, other in zip(mine.seen, theirs.seen, strict=True))


class ModelOutput(dict[str, Any]):
    """A dict whose keys are attributes as well, as transformers has it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


pytree.register_pytree_node(
    ModelOutput,
    lambda output: (list(output.values()), list(output)),
    lambda values, keys: ModelOutput(zip(keys, values, strict=True)),
    serialized_type_name="tests.ModelOutput",
    flatten_with_keys_fn=lambda output: (
        [(pytree.MappingKey(k), v) for k, v in output.items()],
        list(output),
    ),
)


class Language(nn.Module):
    """Gives logits, or the loss as well where there are labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor | None = None) -> ModelOutput:
        hidden = self.body(self.embed(ids))
        logits = self.head(hidden)
        if labels is None:
            return ModelOutput(logits=logits, hidden=(hidden,))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return ModelOutput(loss=loss, logits=logits, hidden=None)


def test_model_outputs_with_and_without_the_loss() -> None:
    pipe = assert_kept(Language, (IDS,))
    model = pipe.model
    found, expected = pipe(IDS, labels=IDS), model(IDS, labels=IDS)
    assert type(found) is ModelOutput
    assert list(found) == list(expected) == ["loss", "logits", "hidden"]
    assert torch.equal(found.loss, expected.loss)
    with pipe.engine(n_microbatches=2) as engine:
        assert torch.allclose(engine.step(IDS, labels=IDS).loss, expected.loss)
