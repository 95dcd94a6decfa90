"""Which tensors of the model a stage writes: they are another number in the next microbatch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import torch
from torch import fx, nn

from autopipe.ir.traced import NodeInfo, TracedModel


@dataclass(frozen=True, slots=True)
class Written:
    """What a stage writes, by its names in the module of the stage.

    Parameters, buffers and constants, also views of what is written and tied ones.

    Args:
        all: Everything.
        seen: Less what only torch's own modules see (the statistics of a BatchNorm): their backwards do not
            read it.
    """

    all: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


def written_tensors(
    traced: TracedModel, model: nn.Module, nodes: Iterable[fx.Node], stage: nn.Module
) -> Written:
    """Find what lies in memory that the nodes of a stage write.

    Args:
        traced: The captured model.
        model: The user's model.
        nodes: The nodes of the stage.
        stage: Its module, the user's modules and tensors under it.

    Returns:
        The names; O(parameters of the model) where anything is written.
    """
    calls = [node for node in nodes if node.op in ("call_module", "call_function")]
    known = [(node, traced.info[node.name]) for node in calls if node.name in traced.info]
    names = {name for _, info in known for name in info.writes}
    if not names:
        return Written()
    seen = {name for node, info in known if not _is_of_torch(traced, node) for name in _touched(info)}
    owned = {**_named_tensors(model), **traced.constants}
    constants = {name: tensor for name, tensor in traced.constants.items() if hasattr(stage, name)}
    held = {**_named_tensors(stage), **constants, **_attributes(stage, traced.constants)}

    def lying_with(written: Set[str]) -> tuple[str, ...]:
        storages = {storage_of(owned[name]) for name in written & owned.keys()}
        return tuple(name for name, tensor in held.items() if storage_of(tensor) in storages)

    return Written(lying_with(names), lying_with(names & seen))


def _attributes(stage: nn.Module, constants: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return those constants that modules of a stage hold as plain attributes."""
    found = {}
    for name, tensor in constants.items():
        prefix, _, attribute = name.rpartition(".")
        try:
            owner = stage.get_submodule(prefix)
        except AttributeError:
            continue
        if prefix and vars(owner).get(attribute) is tensor:
            found[name] = tensor
    return found


def storage_of(tensor: torch.Tensor) -> int:
    """Return what tells the memory of a tensor from that of others, while both are alive."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse ones have no storage
        return id(tensor)


def _is_of_torch(traced: TracedModel, node: fx.Node) -> bool:
    module = traced.modules.get(str(node.target)) if node.op == "call_module" else None
    return module is not None and type(module).__module__.startswith("torch.nn.modules.")


def _touched(info: NodeInfo) -> set[str]:
    return {*info.writes, *info.parameters, *info.buffers}


def _named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    parameters = module.named_parameters(remove_duplicate=False)
    return dict([*parameters, *module.named_buffers(remove_duplicate=False)])
