"""A leaf may put tensors into an object that it is given, a cache: those after it find them there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autopipe.errors import CaptureError
from autopipe.rewrite import rewrite
from autopipe.trace import capture
from tests.rewrite.cutting import evenly, run
from tests.trace.agreement import assert_agrees, calls, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Slot:
    """What one layer keeps."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.is_filled = False


class Cache:
    """A key a layer, and how many there are."""

    def __init__(self, n: int) -> None:
        self.slots = [Slot() for _ in range(n)]
        self.n_filled = 0

    def update(self, index: int, key: Tensor) -> None:
        slot = self.slots[index]
        self.n_filled += not slot.is_filled
        slot.key = key if slot.key is None else slot.key + key
        slot.is_filled = True


class Filling(nn.Module):
    """Fills the cache, and looks at values."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index, self.query, self.key = index, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        query: Tensor = self.query(x)
        if query.sum() > 0:
            query = query * 2
        cache.update(self.index, self.key(x))
        return query


class Block(nn.Module):
    """Reads what the layer in it left in the cache."""

    def __init__(self, index: int, layer: nn.Module) -> None:
        super().__init__()
        self.index, self.layer, self.out = index, layer, nn.Linear(6, 6)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        slot = cache.slots[self.index]
        x = self.layer(x, cache)
        assert slot.is_filled
        assert slot.key is not None
        out: Tensor = self.out(x) * slot.key.tanh()
        return out


class Model(nn.Module):
    """Two blocks and one cache, which it returns."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(index, layer) for index, layer in enumerate(layers)])

    def forward(self, x: Tensor) -> tuple[Tensor, Cache, int]:
        cache = Cache(len(self.blocks))
        for block in self.blocks:
            x = block(x, cache)
        first = cache.slots[0].key
        assert first is not None
        return x + first, cache, cache.n_filled


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(Filling(0), Filling(1))


def test_only_the_layer_that_fills_the_cache_is_opaque(model: Model) -> None:
    traced = assert_agrees(model, (X,), n_stages=(1, 2, 3))
    assert list(opaque_modules(traced)) == ["blocks.0.layer", "blocks.1.layer"]
    assert {"blocks.0.out", "blocks.1.out"} <= set(calls(traced))


def test_every_run_fills_a_cache_of_its_own(model: Model) -> None:
    traced = capture(model, (X,))
    staged = rewrite(traced, model, evenly(traced, 3), 3)
    for batch in (X, X[:2] + 1, torch.cat([X, X])):
        (_, cache, n_filled), (_, expected, _) = run(staged, batch), model(batch)
        assert n_filled == cache.n_filled == 2
        for slot, other in zip(cache.slots, expected.slots, strict=True):
            torch.testing.assert_close(slot.key, other.key)


def test_a_cache_that_is_given_comes_back_filled() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Block(0, Filling(0)), Block(1, Filling(1))

        def forward(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
            return self.second(self.first(x, cache), cache), cache

    cache = Cache(2)
    cache.update(1, torch.ones(4, 6))
    torch.manual_seed(0)
    model = Given()
    traced = capture(model, (X, cache))
    assert list(opaque_modules(traced)) == ["first.layer", "second.layer"]
    staged = rewrite(traced, model, evenly(traced, 3), 3)
    _, found = run(staged, X, cache)
    assert not cache.slots[0].is_filled
    model(X, cache)
    torch.testing.assert_close([s.key for s in found.slots], [s.key for s in cache.slots])


def test_a_leaf_with_hooks_fills_a_cache_too() -> None:
    class Plain(Filling):
        def forward(self, x: Tensor, cache: Cache) -> Tensor:
            cache.update(self.index, self.key(x))
            out: Tensor = self.query(x)
            return out

    torch.manual_seed(0)
    model = Model(Plain(0), Plain(1))
    for block in model.blocks:
        block.layer.register_forward_hook(lambda _module, _args, out: out * 2)
    traced = assert_agrees(model, (X,), n_stages=(1, 3))
    assert list(opaque_modules(traced)) == ["blocks.0.layer", "blocks.1.layer"]


def test_a_plain_list_that_is_filled_keeps_who_made_it_whole() -> None:
    class Listing(Filling):
        def forward(self, x: Tensor, cache: Any) -> Tensor:
            cache.append(super().forward(x, Cache(1)))
            out: Tensor = self.query(x)
            return out

    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.listing, self.out = Listing(0), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            found: list[Tensor] = []
            x = self.listing(x, found)
            out: Tensor = self.out(x + found[0])
            return out

    torch.manual_seed(0)
    traced = assert_agrees(nn.Sequential(Owner(), nn.Linear(6, 2)), (X,), n_stages=(1, 2))
    assert list(opaque_modules(traced)) == ["0"]


class Counting(Filling):
    """Counts by the values."""

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        query: Tensor = self.query(x)
        cache.n_filled += int(query.sum() > self.limit)
        cache.update(0, self.key(x))
        return query

    limit = 0.0


class Counted(nn.Module):
    """Computes with the count."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.layer, self.out = Counting(0), nn.Linear(6, 6)
        self.layer.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        cache = Cache(1)
        out: Tensor = self.out(self.layer(x, cache)) * cache.n_filled
        return out


def test_another_state_than_learnt_is_an_error_in_the_run() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Counted(limit=1e6), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].layer.query.weight.copy_(torch.eye(6))
    traced = assert_agrees(model, (X,), n_stages=(2,))
    assert list(opaque_modules(traced)) == ["0.layer"]
    staged = rewrite(traced, model, evenly(traced, 2), 2)
    with pytest.raises(CaptureError, match="changed a Cache in another way"):
        run(staged, X + 1e9)


def test_one_object_that_is_given_twice_is_one() -> None:
    class Twice(Filling):
        def forward(self, x: Tensor, cache: Cache, again: Any = None) -> Tensor:
            assert cache is again
            cache.update(self.index, self.key(x))
            out: Tensor = self.query(x)
            return out

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = Twice(0), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            cache = Cache(1)
            x = self.layer(x, cache, again=cache)
            key = cache.slots[0].key
            assert key is not None
            out: Tensor = self.out(x) + key
            return out

    torch.manual_seed(0)
    both = Both()
    both.layer.register_forward_hook(lambda _module, _args, out: out * 2)
    traced = assert_agrees(nn.Sequential(both, nn.Linear(6, 2)), (X,), n_stages=(1, 2))
    assert list(opaque_modules(traced)) == ["0.layer"]


def test_a_cache_of_another_size_than_learnt_is_an_error_in_the_run() -> None:
    class Sized(Filling):
        def forward(self, x: Tensor, cache: Cache) -> Tensor:
            query: Tensor = self.query(x)
            n = 6 if query.abs().sum() < 1e6 else 3
            cache.update(0, self.key(x)[:, :n])
            return query

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = Sized(0), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            cache = Cache(1)
            x = self.layer(x, cache)
            key = cache.slots[0].key
            assert key is not None
            out: Tensor = self.out(x) + key.sum()
            return out

    torch.manual_seed(0)
    model = nn.Sequential(Summed(), nn.Linear(6, 2))
    traced = assert_agrees(model, (X,), n_stages=(2,))
    staged = rewrite(traced, model, evenly(traced, 2), 2)
    with pytest.raises(CaptureError, match=r"0\.layer leaves \(4, 3\), torch\.float32 instead of \(4, 6\)"):
        run(staged, X * 1e9)


class Heads(nn.Module):
    """Keeps a table of its sizes, and puts its results into the list, or the dict, that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 4) for _ in range(2)])
        self.grids: dict[int, torch.Tensor] = {}

    def forward(self, given: list[torch.Tensor], named: dict[str, torch.Tensor]) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            given[i] = layer(given[i])
            self.grids[i] = torch.arange(4.0)
        named["sum"] = given[0] + self.grids[0]
        given.append(named["first"] * 2)
        return named["sum"].sum(-1)


class Detecting(nn.Module):
    """Reads what its heads left in a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.heads, self.last = Heads(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        given = [torch.tanh(layer(x)) for layer in self.backbone]
        named = {"first": x}
        total = self.heads(given, named)
        return [total, *given, self.last(named["sum"])]


def test_a_list_and_a_dict_that_a_module_kept_whole_changes_are_changed() -> None:
    torch.manual_seed(0)
    traced = assert_agrees(Detecting(), (torch.randn(4, 6),), n_stages=(1, 2, 4))
    assert list(opaque_modules(traced)) == ["heads"]
