"""Bytes that a node occupies in training: parameters, gradients, optimizer state, saved activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from autopipe.errors import ArgumentError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.traced import TracedModel


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """What one node, or a set of nodes, occupies.

    Args:
        param_bytes: Its parameters.
        grad_bytes: Their gradients: as large, for those that are trained.
        optimizer_bytes: Optimizer state of those that are trained.
        saved_bytes: What is kept for the backward of one microbatch.
    """

    param_bytes: int = 0
    grad_bytes: int = 0
    optimizer_bytes: int = 0
    saved_bytes: int = 0

    def total_bytes(self, in_flight: int = 1) -> int:
        """Return the sum, with the saved activations of ``in_flight`` microbatches.

        Example:
            >>> NodeMemory(4, 4, 8, 10).total_bytes(3)
            46
        """
        return self.param_bytes + self.grad_bytes + self.optimizer_bytes + in_flight * self.saved_bytes

    def __str__(self) -> str:
        """Print the four numbers in MiB."""
        parts = {"params": self.param_bytes, "grads": self.grad_bytes, "optimizer": self.optimizer_bytes}
        parts["saved"] = self.saved_bytes
        return ", ".join(f"{name} {nbytes / 2**20:.1f} MiB" for name, nbytes in parts.items())


def memory_of(
    names: Iterable[str], traced: TracedModel, model: nn.Module, costs: CostGraph, hardware: Hardware
) -> NodeMemory:
    """Return what a set of nodes occupies together; a parameter that several of them read counts once.

    Args:
        names: Nodes, such as those of a stage.
        traced: The captured model.
        model: The model that was captured.
        costs: Its cost graph, for the saved bytes.
        hardware: For the bytes of optimizer state a parameter element.

    Returns:
        The sums.

    Raises:
        ArgumentError: If a node is not in the graph.

    Complexity: linear in the parameters of the model and of the nodes.
    """
    chosen = list(names)
    unknown = [name for name in chosen if name not in traced.info or name not in costs.graph]
    if unknown:
        raise ArgumentError(f"there is no node {unknown[0]!r} in the graph.")
    return _sum(chosen, traced, dict(model.named_parameters(remove_duplicate=False)), costs, hardware)


def node_memory(
    traced: TracedModel, model: nn.Module, costs: CostGraph, hardware: Hardware
) -> Mapping[str, NodeMemory]:
    """Return what every node occupies by itself.

    Args:
        traced: The captured model.
        model: The model that was captured.
        costs: Its cost graph, for the saved bytes.
        hardware: For the bytes of optimizer state a parameter element.

    Returns:
        Node name -> bytes, in program order.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: _sum([name], traced, parameters, costs, hardware) for name in costs.graph}


def _sum(
    names: Iterable[str],
    traced: TracedModel,
    parameters: Mapping[str, nn.Parameter],
    costs: CostGraph,
    hardware: Hardware,
) -> NodeMemory:
    names = list(names)
    read = [
        parameters[fqn] for fqn in dict.fromkeys(p for name in names for p in traced.info[name].parameters)
    ]
    trained = [parameter for parameter in read if parameter.requires_grad]
    return NodeMemory(
        param_bytes=sum(p.numel() * p.element_size() for p in read),
        grad_bytes=sum(p.numel() * p.element_size() for p in trained),
        optimizer_bytes=round(hardware.optimizer_bytes_per_param * sum(p.numel() for p in trained)),
        saved_bytes=sum(costs.node(name).saved_bytes for name in names),
    )
