"""Which stages use which parameters and buffers, and what is therefore tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from autopipe.ir.stages import StageModule, TiedTensor


def canonical_fqns(model: nn.Module) -> dict[int, tuple[str, bool]]:
    """Return id of each parameter and buffer -> its first FQN in the model, and whether it is a parameter."""
    found: dict[int, tuple[str, bool]] = {}
    for tensors, is_parameter in ((model.named_parameters(), True), (model.named_buffers(), False)):
        for fqn, tensor in tensors:
            found.setdefault(id(tensor), (fqn, is_parameter))
    return found


def users_of_tensors(model: nn.Module, stages: Iterable[StageModule]) -> dict[str, tuple[int, ...]]:
    """Return the canonical FQN of each parameter and buffer that stages hold -> those stages, ascending.

    Args:
        model: The user's model.
        stages: The stages, by index.

    Returns:
        In the order of the model's parameters, then buffers.
    """
    names = canonical_fqns(model)
    users: dict[str, list[int]] = {fqn: [] for fqn, _ in names.values()}
    for stage in stages:
        for fqn in {names[id(tensor)][0] for tensor in _tensors(stage.module) if id(tensor) in names}:
            users[fqn].append(stage.index)
    return {fqn: tuple(indices) for fqn, indices in users.items() if indices}


def tied_tensors(model: nn.Module, users: Mapping[str, tuple[int, ...]]) -> tuple[TiedTensor, ...]:
    """Return what several stages use; the earliest stage owns it."""
    is_parameter = dict(canonical_fqns(model).values())
    return tuple(
        TiedTensor(fqn, stages[0], stages[1:], is_parameter[fqn])
        for fqn, stages in users.items()
        if len(stages) > 1
    )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
