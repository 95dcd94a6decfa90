"""Runs all stages one after the other as one call of the model, with one autograd graph through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autopipe.ir.stages import StagedModel
from autopipe.runtime.given_back import give_back
from autopipe.runtime.placement import place, resolve_devices
from autopipe.runtime.replicas import Entry, entries_of, replaced
from autopipe.runtime.stage_call import call_stage


def run_whole(staged: StagedModel, model: nn.Module, given: Mapping[str, Any], arguments: Any) -> Any:
    """Run a split model in this process, each stage where its parameters are.

    Args:
        staged: The stages that are right for these arguments.
        model: The model that was split.
        given: The tensors among the arguments and the symbolic sizes, by name.
        arguments: The caller's ``(args, kwargs)``, which are changed as the model's own forward does.

    Returns:
        What the model returns; gradients flow to the model's own parameters, from copies of tied ones too.
    """
    values = dict(given)
    devices = resolve_devices(staged, None)
    place(staged, devices)
    for stage, device in zip(staged.stages, devices, strict=True):
        taken = {each.name: _moved(values[each.name], device) for each in stage.arguments}
        with replaced(_copies(staged, model, stage.index, devices)):
            values |= call_stage(stage, taken)
    traced = staged.traced
    give_back(traced, values, arguments)
    return traced.out_structure.fill([values[name] for name in traced.out_names if name is not None])


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _copies(
    staged: StagedModel, model: nn.Module, stage: int, devices: Sequence[torch.device]
) -> list[tuple[Entry, torch.Tensor]]:
    """Return what stands in for tied tensors that lie on another device than the stage."""
    found = []
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for tied in staged.tied:
        tensor = tensors[tied.fqn]
        if stage in tied.replicas and tensor.device != devices[stage]:
            copy = tensor.to(devices[stage])
            found += [(entry, copy) for entry in entries_of(staged.stages[stage], tensor)]
    return found
