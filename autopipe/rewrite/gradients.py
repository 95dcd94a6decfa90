"""Through which values gradients flow, given which parameters are trained."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch
from torch import fx

from autopipe.ir.traced import TracedModel

_CUTS = {torch.Tensor.detach, torch.Tensor.detach_, torch.detach, torch.ops.aten.detach.default}


def values_with_gradient(traced: TracedModel, trained: Set[str]) -> frozenset[str]:
    """Return the values that may require a gradient.

    Args:
        traced: The captured model.
        trained: FQNs of the parameters, and names of the model inputs, with ``requires_grad``.

    Returns:
        Names of nodes. A value may be among them whose gradient turns out to be None; none is missing.
        What shares memory with a written value has what was written from then on, its gradient too::

            keys = x.new_empty(...)      nothing flows to it, but
            keys[..., :8].copy_(k)       from here on gradients come back through ``keys``

        O(nodes x arguments).
    """
    memory = {name: group for group in traced.together for name in group}
    flows = {leaf.name for leaf in traced.inputs if leaf.name in trained}
    for node in traced.graph.nodes:
        info = traced.info.get(node.name)
        if info is None or node.op == "placeholder":
            continue
        passes = _passes(traced, node)
        in_grad_mode = info.region.grad_enabled and not info.region.inference
        can_flow = in_grad_mode and _may_carry(traced, node.name)
        if node.op == "get_attr":
            reads = str(node.target) in trained
        else:
            reads = any(argument.name in flows and passes(argument) for argument in node.all_input_nodes)
            reads = reads or not trained.isdisjoint(info.parameters)
        if can_flow and reads and node.target not in _CUTS:
            flows.add(node.name)
            if info.writes:
                shared = {name for written in info.writes for name in memory.get(written, (written,))}
                flows |= {name for name in shared if _may_carry(traced, name)}
    return frozenset(flows)


def _may_carry(traced: TracedModel, name: str) -> bool:
    """Whether a node's value can have a gradient at all."""
    info = traced.info.get(name)
    return info is not None and (info.spec is None or info.spec.is_differentiable)


def _passes(traced: TracedModel, node: fx.Node) -> Callable[[fx.Node], bool]:
    """Say of an argument whether its gradient can come through the node.

    It cannot if it was asked for in the capture, and nothing that the node made asked for one: then the node
    stops gradients itself, such as rotary tables that only take a dtype from their argument.
    """
    made = [node] if traced.info[node.name].spec is not None else list(node.users)
    infos = [traced.info.get(each.name) for each in made]
    known = [info.spec for info in infos if info is not None and info.spec is not None]
    stops = len(known) == len(made) > 0 and not any(spec.requires_grad for spec in known)
    if not stops or traced.info[node.name].opaque_because:
        return lambda argument: True

    def asked_for_none(argument: fx.Node) -> bool:
        info = traced.info.get(argument.name)
        return info is None or info.spec is None or not info.spec.requires_grad

    return asked_for_none
