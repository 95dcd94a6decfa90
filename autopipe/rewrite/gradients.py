"""Through which values gradients flow, given which parameters are trained."""

from __future__ import annotations

from collections.abc import Set

import torch

from autopipe.ir.traced import TracedModel

_CUTS = {torch.Tensor.detach, torch.Tensor.detach_, torch.detach, torch.ops.aten.detach.default}


def values_with_gradient(traced: TracedModel, trained: Set[str]) -> frozenset[str]:
    """Return the values that may require a gradient.

    Args:
        traced: The captured model.
        trained: FQNs of the parameters, and names of the model inputs, with ``requires_grad``.

    Returns:
        Names of nodes. A value may be among them whose gradient turns out to be None; none is missing.
        O(nodes x arguments).
    """
    flows = {leaf.name for leaf in traced.inputs if leaf.name in trained}
    for node in traced.graph.nodes:
        info = traced.info.get(node.name)
        if info is None or node.op == "placeholder":
            continue
        spec, region = info.spec, info.region
        can_flow = region.grad_enabled and not region.inference and (spec is None or spec.is_differentiable)
        if node.op == "get_attr":
            reads = str(node.target) in trained
        else:
            reads = any(argument.name in flows for argument in node.all_input_nodes)
            reads = reads or not trained.isdisjoint(info.parameters)
        if can_flow and reads and node.target not in _CUTS:
            flows.add(node.name)
    return frozenset(flows)
