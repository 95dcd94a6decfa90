"""The cost graph of a captured model from a roofline: no data, no GPU, no time measured.

::

    time of an operation = max(FLOPs / peak of its dtype, bytes / memory bandwidth) + start of the kernel
    time of a node       = sum over its ATen operations, forward and backward apart
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import networkx as nx
from torch import nn

from autopipe.cost.operation import tensor_bytes, total_ms
from autopipe.cost.walk import Walk, charge, priced_nodes
from autopipe.ir.cost_graph import CostGraph, CostNode, TiedParam
from autopipe.ir.hardware import Hardware
from autopipe.ir.repeatable import repeatable_units
from autopipe.ir.tensor import evaluate_size
from autopipe.ir.traced import TracedModel

SMALL_BYTES = 1 << 16
"""A table no larger than this may lie in every stage that computes a value from it."""

FLOAT32_BYTES = 4
"""Of an element, where a cost node does not say how many are trained."""


def cost_graph(
    traced: TracedModel, model: nn.Module, hardware: Hardware, *, sizes: Mapping[str, int] | None = None
) -> CostGraph:
    """Price every node of a captured model.

    Each distinct call runs once on fake tensors, forward and backward; nothing of the model is read but
    shapes, and nothing of it is changed. A call that cannot run without data is estimated from its inputs,
    outputs and parameters.

    Args:
        traced: The captured model; its example is one microbatch.
        model: The model that was captured, on any device, ``meta`` included.
        hardware: Whose first device is priced; where devices differ, price each with a Hardware of its own.
        sizes: Values of symbolic sizes that differ from the example's.

    Returns:
        One CostNode a node that makes or reads tensors; times in ms and bytes for one microbatch.

    Raises:
        ArgumentError: If a size expression needs a size that is not known.

    Complexity: tens of microseconds a node and some milliseconds a distinct call; repeated blocks count once.
    """
    known = _all_sizes(traced, sizes or {})
    device = hardware.device(0)
    prices = Walk(traced, model, known, fused_attention=not device.name.startswith("cpu")).run()
    saved_bytes = charge(prices)
    named = model.named_parameters(remove_duplicate=False)
    parameters = dict(named)
    units = _recomputable(traced, model, known)
    recomputable = {name for unit in units for name in unit}
    together = _together(traced, units)
    nodes = []
    for name, price in prices.items():
        info = traced.info[name]
        out_bytes = info.spec.nbytes(known) if info.spec else 0
        nodes.append(
            CostNode(
                name=name,
                fqn=info.fqn,
                fwd_ms=total_ms(price.count.forward, device),
                bwd_input_ms=total_ms(price.count.bwd_input, device),
                bwd_weight_ms=total_ms(price.count.bwd_weight, device),
                out_bytes=out_bytes,
                grad_bytes=out_bytes if info.spec and info.spec.requires_grad else 0,
                param_bytes=sum(parameters[fqn].nbytes for fqn in info.parameters),
                saved_bytes=saved_bytes[name],
                recomputable=name in recomputable,
                **_trained([parameters[fqn] for fqn in info.parameters]),
            )
        )
    return CostGraph.build(nodes, _edges(traced), together, _tied(traced, parameters))


def _all_sizes(traced: TracedModel, given: Mapping[str, int]) -> dict[str, int]:
    sizes = {**traced.sizes, **given}
    for name, value in traced.derived_sizes.items():
        sizes[name] = evaluate_size(value, sizes)
    return sizes


def _recomputable(traced: TracedModel, model: nn.Module, sizes: Mapping[str, int]) -> list[frozenset[str]]:
    """Return the repeatable nodes that bring no gradient back and need no large table where they run."""
    nbytes = {fqn: tensor_bytes(buffer) for fqn, buffer in model.named_buffers(remove_duplicate=False)}
    found = []
    for unit in repeatable_units(traced):
        infos = [traced.info[name] for name in unit]
        made = max(info.spec.nbytes(sizes) if info.spec else 0 for info in infos)
        tables = sum(nbytes.get(name, 0) for name in {name for info in infos for name in info.buffers})
        if tables <= max(SMALL_BYTES, made) and not any(i.spec and i.spec.requires_grad for i in infos):
            found.append(unit)
    return found


def _edges(traced: TracedModel) -> Iterator[tuple[str, str, bool]]:
    names = {node.name for node in priced_nodes(traced)}
    for node in priced_nodes(traced):
        for source in node.all_input_nodes:
            if source.name in names:
                yield source.name, node.name, True
    for before, after in traced.order:
        if before in names and after in names:
            yield before, after, False


def _together(traced: TracedModel, recomputable: Sequence[frozenset[str]]) -> list[tuple[str, ...]]:
    """Groups that share a stage.

    The capture's, a node that makes no single tensor with its readers, and what is repeated all or none.
    """
    nodes = priced_nodes(traced)
    priced = {node.name for node in nodes}
    groups = [[name for name in group if name in priced] for group in traced.together]
    groups += [[n.name, *(user.name for user in n.users)] for n in nodes if traced.info[n.name].spec is None]
    groups += [sorted(unit) for unit in recomputable]
    joined: nx.Graph[str] = nx.Graph()
    for group in groups:
        nx.add_path(joined, [name for name in group if name in priced])
    place = {node.name: index for index, node in enumerate(nodes)}
    sorted_groups = [tuple(sorted(group, key=place.__getitem__)) for group in nx.connected_components(joined)]
    return sorted((group for group in sorted_groups if len(group) > 1), key=lambda group: place[group[0]])


def _trained(parameters: Sequence[nn.Parameter]) -> dict[str, int]:
    """Return what `CostNode` says of trained parameters, where it is not what it takes if nothing is said."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    nbytes, count = sum(p.nbytes for p in trained), sum(p.numel() for p in trained)
    usual = len(trained) == len(parameters) and nbytes == FLOAT32_BYTES * count
    return {} if usual else {"trained_bytes": nbytes, "n_trained": count}


def _tied(traced: TracedModel, parameters: Mapping[str, nn.Parameter]) -> list[TiedParam]:
    readers: dict[str, list[str]] = {}
    for node in priced_nodes(traced):
        for fqn in traced.info[node.name].parameters:
            readers.setdefault(fqn, []).append(node.name)
    return [
        TiedParam(fqn, parameters[fqn].nbytes, tuple(names), **_trained([parameters[fqn]]))
        for fqn, names in readers.items()
        if len(names) > 1
    ]
