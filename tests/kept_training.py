"""Is all of a model kept? One call and two steps of training, plain and split, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import autopipe
from autopipe.ir.structure import Structure, map_tensors
from autopipe.pipeline import Pipeline
from tests.plain_training import assert_bitwise, assert_close, gradients_of, state_of

N_MICROBATCHES = 2
BATCH = 4
X = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(3 * BATCH).reshape(BATCH, 3)


@dataclass(frozen=True)
class Left:
    """What a call, or steps of training, leave behind."""

    structure: Structure
    outputs: list[torch.Tensor]
    losses: list[torch.Tensor]
    gradients: list[dict[str, torch.Tensor | None]]
    state: dict[str, torch.Tensor]


def loss_of(output: Any) -> torch.Tensor:
    """A mean over everything that can be differentiated, weighted so that no two entries count alike."""
    leaves = [leaf.abs() if leaf.is_complex() else leaf for leaf in Structure.of(output)[1]]
    losses = [
        (leaf * torch.linspace(0.5, 1.5, leaf[0].numel()).reshape(leaf[0].shape)).mean()
        for leaf in leaves
        if leaf.requires_grad and leaf.dim()
    ]
    return torch.stack([loss.float() for loss in losses]).sum()


def assert_kept(
    build: Callable[[], nn.Module],
    args: tuple[Any, ...] = (X,),
    kwargs: Mapping[str, Any] | None = None,
    *,
    n_stages: int = 2,
    prepare: Callable[[nn.Module], object] = lambda model: model,
) -> Pipeline:
    """Assert that the split model calls and trains like the plain one.

    Args:
        build: Makes the model; called twice from one seed.
        args: Positional arguments of a call.
        kwargs: Keyword arguments.
        n_stages: How many stages.
        prepare: What is done to each model after the split.

    Returns:
        The pipeline, for more questions.
    """
    plain, model = built(build), built(build)
    pipe = autopipe.split(model, n_stages, args, kwargs)
    for each in (plain, model):
        prepare(each)
    expected, found = (
        called(each, call, args, kwargs or {}) for each, call in ((plain, plain), (model, pipe))
    )
    assert found.structure == expected.structure
    assert_bitwise((found.outputs, found.state), (expected.outputs, expected.state))
    assert_close(found.gradients, expected.gradients)

    plain, given = trained_plain(plain, args, kwargs or {}), (args, dict(kwargs or {}))
    split = trained_split(pipe, given)
    assert_close(split.losses, plain.losses)
    assert_close(split.gradients, plain.gradients)
    assert_close(split.state, plain.state)
    return pipe


def built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def called(model: nn.Module, call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Left:
    model.zero_grad()
    args, kwargs = fresh((args, dict(kwargs)))
    output = call(*args, **kwargs)
    loss_of(output).backward()
    structure, tensors = Structure.of(output)
    outputs = [tensor.detach().clone() for tensor in tensors]
    return Left(structure, outputs, [], [gradients_of(model)], state_of(model))


def fresh(given: Any) -> Any:
    """Copies of the arguments, since a forward may write into them."""
    return map_tensors(lambda tensor: tensor.clone(), given)


def trained_plain(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Left:
    def step() -> torch.Tensor:
        losses = []
        structure, tensors = Structure.of((args, dict(kwargs)))
        parts = [tensor.tensor_split(N_MICROBATCHES) for tensor in tensors]
        for row in zip(*parts, strict=True):
            part, keywords = structure.fill([tensor.clone() for tensor in row])
            loss = loss_of(model(*part, **keywords)) / N_MICROBATCHES
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    return _trained(model, step)


def trained_split(pipe: Pipeline, given: Any, **options: Any) -> Left:
    with pipe.engine(n_microbatches=N_MICROBATCHES, seed=0, **options) as engine:

        def step() -> torch.Tensor:
            args, kwargs = fresh(given)
            loss: torch.Tensor = engine.step(*args, loss_fn=loss_of, **kwargs).loss
            return loss

        return _trained(pipe.model, step)


def _trained(model: nn.Module, step: Callable[[], torch.Tensor]) -> Left:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses, gradients = [], []
    for _ in range(2):
        model.zero_grad()
        losses.append(step())
        gradients.append(gradients_of(model))
        optimizer.step()
    return Left(Structure.of(())[0], [], losses, gradients, state_of(model))
