"""A split by hand, an engine over it, and the plain loop that both must equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import Structure
from autopipe.rewrite import rewrite
from autopipe.runtime import Engine
from autopipe.trace import capture
from tests.rewrite.cutting import by_fqn, evenly


class Splits:
    """Captures and cuts every call anew: what a pipeline does, without its cache."""

    def __init__(self, model: nn.Module, n_stages: int, stages: Mapping[str, int] | None = None) -> None:
        self.model, self.n_stages, self.stages = model, n_stages, stages
        self.calls = 0
        self._known: dict[Any, list[StagedModel]] = {}

    def __call__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        batch_dims: tuple[int | None, ...] | None = None,
    ) -> tuple[StagedModel, dict[str, Any]]:
        structure, tensors = Structure.of((args, kwargs))
        key = (repr(structure), self.model.training, torch.is_grad_enabled(), batch_dims)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        found = next((s for s in self._known.get(key, []) if s.traced.bind(shapes) is not None), None)
        staged = found or self._cut(args, kwargs, shapes, batch_dims)
        if found is None:
            self._known.setdefault(key, []).append(staged)
        sizes = staged.traced.bind(shapes)
        assert sizes is not None
        return staged, {leaf.name: t for leaf, t in zip(staged.traced.inputs, tensors, strict=True)} | sizes

    def _cut(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shapes: list[tuple[int, ...]],
        batch_dims: tuple[int | None, ...] | None,
    ) -> StagedModel:
        self.calls += 1
        traced = capture(self.model, args, kwargs, batch_dims=batch_dims)
        if traced.bind(shapes) is None:
            traced = capture(self.model, args, kwargs, batch_dims=batch_dims, fixed_sizes=True)
        stage_of = evenly(traced, self.n_stages) if self.stages is None else by_fqn(traced, self.stages)
        return rewrite(traced, self.model, stage_of, self.n_stages)


def engine_of(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    n_stages: int,
    stages: Mapping[str, int] | None = None,
    **options: Any,
) -> Engine:
    splits = Splits(model, n_stages, stages)
    staged, _ = splits(args, kwargs or {})
    return Engine(model, staged, splits, **options)


def plain_step(
    model: nn.Module,
    microbatches: list[tuple[tuple[Any, ...], dict[str, Any], Any]],
    loss_fn: Callable[[Any, Any], torch.Tensor],
    weights: list[float],
) -> torch.Tensor:
    """The reference: a loop over the microbatches."""
    total = torch.zeros(())
    for (args, kwargs, target), weight in zip(microbatches, weights, strict=True):
        loss = loss_fn(model(*args, **kwargs), target) * weight
        loss.backward()
        total = total + loss.detach()
    return total


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], **tolerances: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] is None) == (tensor is None), name
        if tensor is not None:
            torch.testing.assert_close(
                found[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **tolerances
            )
