"""Where the stages live: their modules are moved there, and so are the devices written in their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from autopipe.errors import ArgumentError
from autopipe.ir.stages import StagedModel, StageModule


def resolve_devices(
    staged: StagedModel, devices: Sequence[str | int | torch.device] | None
) -> tuple[torch.device, ...]:
    """Return the device of every stage.

    Args:
        staged: The split model.
        devices: One a stage, may repeat; None: where the stages are.

    Returns:
        ``[n_stages]`` devices, CUDA ones with their index.

    Raises:
        ArgumentError: If there is not one device a stage, or if one is not there.
    """
    if devices is None:
        return _devices_now(staged)
    if len(devices) != len(staged.stages):
        raise ArgumentError(
            f"{len(devices)} devices for {len(staged.stages)} stages.",
            remedy=f"devices={[str(device) for device in devices[:1]] * len(staged.stages)}",
        )
    return tuple(_checked(torch.device(device)) for device in devices)


def place(staged: StagedModel, devices: Sequence[torch.device], here: Sequence[int] | None = None) -> None:
    """Move every stage to its device; Parameter objects stay the same, as with ``model.to``.

    What is tied goes to the earliest stage that uses it: later stages are moved first.

    Args:
        staged: The split model.
        devices: ``[n_stages]`` devices.
        here: The stages that this process runs; None: all.

    Raises:
        ArgumentError: If a parameter is on the meta device: it has no values to move.
    """
    for stage in reversed(staged.stages):
        if here is not None and stage.index not in here:
            continue
        device = devices[stage.index]
        tensors = [*stage.module.named_parameters(), *stage.module.named_buffers()]
        constants = [(name, staged.traced.constants[name]) for name in _constants_in(staged, stage)]
        if meta := [fqn for fqn, tensor in [*tensors, *constants] if tensor.is_meta]:
            raise ArgumentError(
                f"{meta[0]} of stage {stage.index} is on the meta device, so it has no values.",
                remedy=f"pipe[{stage.index}].materialize(device, weights=folder)",
            )
        if not all(_same(tensor.device, device) for _, tensor in tensors):
            stage.module.to(device)
        _move_constants(staged, stage, device)
        _move_literals(stage.module, device)


def _devices_now(staged: StagedModel) -> tuple[torch.device, ...]:
    """Return where each stage's own tensors are; a stage without any is where the one before is."""
    owner = {fqn: stages[0] for fqn, stages in staged.parameters_of.items()}
    device, found = staged.traced.device, []
    for stage in staged.stages:
        tensors = [*stage.module.named_parameters(), *stage.module.named_buffers()]
        own = [tensor.device for fqn, tensor in tensors if owner.get(fqn, stage.index) == stage.index]
        device = own[0] if own and own[0].type != "meta" else device
        found.append(device)
    return tuple(found)


def _checked(device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    n_devices = torch.cuda.device_count()
    index = torch.cuda.current_device() if device.index is None and n_devices else device.index or 0
    if index >= n_devices:
        raise ArgumentError(
            f"device cuda:{index} is not there.", why=f"This process sees {n_devices} CUDA devices."
        )
    return torch.device("cuda", index)


def _same(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.type == "cpu" or one.index == other.index)


def _constants_in(staged: StagedModel, stage: StageModule) -> list[str]:
    return [name for name in staged.traced.constants if hasattr(stage.module, name)]


def _move_constants(staged: StagedModel, stage: StageModule, device: torch.device) -> None:
    for name in _constants_in(staged, stage):
        if not _same(getattr(stage.module, name).device, device):
            setattr(stage.module, name, getattr(stage.module, name).to(device))


def _move_literals(module: fx.GraphModule, device: torch.device) -> None:
    """Replace the stage's old device in the arguments of its graph, such as that of ``torch.arange``."""
    old: torch.device = module.meta["device"]
    if _same(old, device):
        return

    def moved(argument: Any) -> Any:
        is_old = isinstance(argument, torch.device) and _same(argument, old)
        return device if is_old else argument

    for node in module.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, moved)
        node.kwargs = fx.node.map_aggregate(node.kwargs, moved)
    module.recompile()
    module.meta["device"] = device
