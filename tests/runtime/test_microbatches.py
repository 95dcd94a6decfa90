"""How a call falls into microbatches, and what is said when it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autopipe.errors import ArgumentError
from tests.runtime.training import engine_of


class Masked(nn.Module):
    """Takes a mask whose first dimension may or may not be the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor, *more: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.b(self.a(x) * scale) + mask.sum()
        return out


X, MASK = torch.ones(2, 4), torch.ones(3, 3)


def masked(*args: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    model = Masked()
    return model, engine_of(model, args or (X, MASK), n_stages=2, n_microbatches=2, **options)


def total(out: Tensor) -> Tensor:
    return out.sum()


def test_what_carries_no_batch_goes_to_every_microbatch_whole():
    model, engine = masked(loss_reduction="sum")
    x = torch.randn(6, 4)
    torch.testing.assert_close(engine.forward(x, MASK), model(x, MASK).detach())


def test_batch_dims_overrides_by_argument_name():
    x = torch.randn(4, 4)
    mask = torch.ones(4, 4)  # as long as the batch by chance
    model, engine = masked(x, mask, batch_dims={"mask": None})
    torch.testing.assert_close(engine.forward(x, mask), model(x, mask).detach())
    _, wrong = masked(x, mask)
    assert not torch.allclose(wrong.forward(x, mask), model(x, mask))


def test_batch_dims_that_name_no_argument_are_an_error():
    _, engine = masked(batch_dims={"musk": None})
    with pytest.raises(ArgumentError, match="batch_dims names 'musk'") as caught:
        engine.forward(X, MASK)
    assert "x, mask" in caught.value.remedy


def test_tensors_that_disagree_about_the_batch_are_named():
    both = torch.ones(4, 4)
    _, engine = masked(both, both)
    with pytest.raises(ArgumentError, match=r"x has 8, mask has 6"):
        engine.step(torch.ones(8, 4), torch.ones(6, 4), loss_fn=total)


def test_another_batch_dimension_than_the_first():
    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x))
            return out

    torch.manual_seed(0)
    model, x = Second(), torch.randn(3, 5, 4)
    engine = engine_of(model, (x,), n_stages=2, n_microbatches=2, batch_dims={"x": 1})
    shapes: list[tuple[int, ...]] = []

    def loss_fn(out: Tensor) -> Tensor:
        shapes.append(tuple(out.shape))
        return out.square().mean()

    found = engine.step(x, loss_fn=loss_fn)
    assert shapes == [(3, 3, 4), (3, 2, 4)]
    torch.testing.assert_close(found.loss, model(x).square().mean().detach())


def test_plain_arguments_are_part_of_the_signature():
    model, engine = masked()
    for scale in (1.0, 3.0, 1.0):
        torch.testing.assert_close(engine.forward(X, MASK, scale=scale), model(X, MASK, scale=scale).detach())


def test_a_step_needs_gradients():
    _, engine = masked()
    with torch.no_grad(), pytest.raises(ArgumentError, match="a step needs gradients, but they are off"):
        engine.step(X, MASK, loss_fn=total)


@pytest.mark.parametrize("n", [0, -1])
def test_n_microbatches_must_be_positive(n: int):
    with pytest.raises(ArgumentError, match=f"n_microbatches is {n}"):
        engine_of(Masked(), (X, MASK), n_stages=2, n_microbatches=n)


def test_an_unknown_schedule_is_an_error():
    with pytest.raises(ArgumentError, match="there is no schedule 'zigzag'"):
        masked(schedule="zigzag")


class Patches(nn.Module):
    """Adds to each row the sum of its own patches, packed one sample after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, patches: Tensor) -> Tensor:
        seen = self.tower(patches).reshape(x.shape[0], -1, 4).sum(1)
        out: Tensor = self.head(x + seen)
        return out


@pytest.mark.parametrize("n_microbatches", [1, 3, 5])
def test_a_packed_tensor_is_cut_with_its_samples(n_microbatches: int):
    torch.manual_seed(0)
    model, (x, patches) = Patches(), (torch.randn(5, 4), torch.randn(30, 3, requires_grad=True))
    example = (x[:2], patches[:12].detach())
    options: dict[str, Any] = {"n_microbatches": n_microbatches, "batch_dims": {"patches": 0}}
    expected = model(x, patches).square().mean()
    expected.backward()
    grads = {name: p.grad for name, p in model.named_parameters()} | {"patches": patches.grad}
    model.zero_grad(set_to_none=True)
    patches.grad = None
    with engine_of(model, example, n_stages=2, **options) as engine:
        out = engine.step(x, patches, loss_fn=lambda out: out.square().mean())
    torch.testing.assert_close(out.loss, expected.detach())
    found = {name: p.grad for name, p in model.named_parameters()} | {"patches": patches.grad}
    torch.testing.assert_close(found, grads)


def test_a_packed_tensor_has_as_many_entries_for_each_sample():
    _, engine = masked(batch_dims={"mask": 0})
    with pytest.raises(ArgumentError, match=r"x has 4, mask has 6"):
        engine.step(torch.ones(4, 4), torch.ones(6, 4), loss_fn=total)
