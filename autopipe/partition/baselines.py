"""What others do, on our cost graph and with our prices, to compare: layers by count, layers by parameters.

Both cut a list of layers: the repeated blocks of the model (``h.0``, ``h.1``, ...), what comes before
the first block with the first, what comes after the last with the last. A node that reads a later
stage follows it, so that every answer is a partition of the graph.
Sources: torchtitan's layer split; DeepSpeed ``PipelineModule(partition_method="parameters")``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from autopipe.errors import PartitionError
from autopipe.ir.partition import Certificate, Partition
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Ints, Problem


def uniform_layers(objective: Objective, problem: Problem) -> Partition:
    """As many layers in every stage, as nearly as it goes.

    Args:
        objective: The prices.
        problem: The items of the same graph.

    Returns:
        The partition, its lower bound 0: it proves nothing.

    Raises:
        PartitionError: Fewer nodes than stages.
    """
    layers = layer_list(objective, problem.k)
    cuts = [round(len(layers) * stage / problem.k) for stage in range(problem.k + 1)]
    return cut_layers(objective, problem, layers, cuts, "uniform layers")


def by_parameters(objective: Objective, problem: Problem) -> Partition:
    """The least largest sum of parameter bytes over runs of layers.

    Args:
        objective: The prices.
        problem: The items of the same graph.

    Returns:
        The partition, its lower bound 0: it proves nothing.

    Raises:
        PartitionError: Fewer nodes than stages.

    Complexity: O(k l^2) for l layers.
    """
    layers = layer_list(objective, problem.k)
    nodes = objective.nodes[0]
    sizes = [float(sum(nodes[i].param_bytes for i in layer)) for layer in layers]
    return cut_layers(objective, problem, layers, balance(sizes, problem.k), "by parameters")


def layer_list(objective: Objective, at_least: int) -> list[list[int]]:
    """Nodes in the layers that a person would name, in program order.

    Args:
        objective: Knows the nodes and their FQNs.
        at_least: How many layers are needed.

    Returns:
        Node indices by layer: numbered blocks where there are enough of them, else the coarsest
        modules that are enough, else single nodes.
    """
    nodes = objective.nodes[0]
    blocks = Counter(
        match.group(1)
        for fqn in {_block(node.fqn) for node in nodes} - {""}
        if (match := re.match(r"(.*?)\.?\d+$", fqn))
    )
    if blocks and max(blocks.values()) >= at_least:
        stems = {stem for stem, count in blocks.items() if count > 1}
        keys = [_block(node.fqn) for node in nodes]
        keys = [key if re.sub(r"\.?\d+$", "", key) in stems else "" for key in keys]
        return _grouped(keys)
    for depth in (1, 2, 3, 4):
        layers = _grouped([".".join(node.fqn.split(".")[:depth]) for node in nodes])
        if len(layers) >= at_least:
            return layers
    return [[i] for i in range(len(nodes))]


def _block(fqn: str) -> str:
    """``model.layers.3`` of ``model.layers.3.mlp.act``; empty outside numbered blocks."""
    match = re.match(r"(?:.*?\.)??\d+(?=\.|$)", fqn) or re.match(r".*?\d+(?=\.|$)", fqn)
    return match.group(0) if match else ""


def _grouped(keys: list[str]) -> list[list[int]]:
    """Nodes by key in the order of first appearance; the keyless go with the key before them."""
    layers: dict[str, list[int]] = {}
    current = next((key for key in keys if key), "")
    for i, key in enumerate(keys):
        current = key or current
        layers.setdefault(current, []).append(i)
    return list(layers.values())


def balance(sizes: Sequence[float], n_parts: int) -> list[int]:
    """Borders of the contiguous parts with the least largest sum, none of them empty.

    Args:
        sizes: What the elements weigh.
        n_parts: At most as many as there are elements.

    Returns:
        ``n_parts + 1`` borders from 0 to ``len(sizes)``.

    Example:
        >>> balance([1, 1, 1, 3], 2)
        [0, 3, 4]
    """
    n = len(sizes)
    prefix = np.concatenate([[0.0], np.cumsum(sizes)])
    load = prefix[None, :] - prefix[:, None]
    load[np.tril_indices(n + 1)] = np.inf
    best = np.where(np.arange(n + 1) == 0, 0.0, np.inf)
    backs = []
    for _ in range(n_parts):
        reach = np.maximum(best[:, None], load)
        backs.append(reach.argmin(axis=0))
        best = reach.min(axis=0)
    cuts = [n]
    for back in reversed(backs):
        cuts.append(int(back[cuts[-1]]))
    return cuts[::-1]


def cut_layers(
    objective: Objective, problem: Problem, layers: list[list[int]], cuts: list[int], method: str
) -> Partition:
    """Cut a list of layers where somebody says.

    Args:
        objective: The prices.
        problem: The items of the same graph.
        layers: Node indices by layer.
        cuts: ``k + 1`` borders from 0 to the number of layers.
        method: Who says so.

    Returns:
        The partition, its lower bound 0: it proves nothing.

    Raises:
        PartitionError: Fewer layers than stages.
    """
    if len(layers) < problem.k:
        raise PartitionError(f"{method}: {len(layers)} layers are too few for {problem.k} stages.")
    wanted = np.zeros(len(objective.names), dtype=np.int64)
    for stage in range(problem.k):
        for layer in layers[cuts[stage] : cuts[stage + 1]]:
            wanted[layer] = stage
    stage_of = np.zeros(problem.n, dtype=np.int64)
    for item, nodes in enumerate(problem.members):
        before = max((int(stage_of[p]) for p in problem.preds[item]), default=0)
        own = max(int(wanted[node]) for node in nodes)
        stage_of[item] = min(max(before, own, int(problem.first[item])), int(problem.last[item]))
    return to_partition(objective, problem, stage_of, method, 0.0, "a rule, not a search")


_ROUNDING = 1e-9
"""Bounds and prices that differ by less, relatively, are the same number."""


def to_partition(
    objective: Objective,
    problem: Problem,
    stage_of: Ints,
    method: str,
    lower_bound_ms: float,
    stopped_by: str,
) -> Partition:
    """Price the stages of the items and lay them out by node.

    Args:
        objective: The prices.
        problem: The items.
        stage_of: Stage of every item.
        method: Who found it.
        lower_bound_ms: What is proven.
        stopped_by: Why the search ended.

    Returns:
        The partition; its bound is never above its bottleneck.
    """
    by_node = [0] * len(objective.names)
    for item, nodes in enumerate(problem.members):
        for node in nodes:
            by_node[node] = int(stage_of[item])
    names = dict(zip(objective.names, by_node, strict=True))
    stages = objective.price_all(names)
    bottleneck = max(stage.total_ms for stage in stages)
    met = math.isclose(lower_bound_ms, bottleneck, rel_tol=_ROUNDING)  # sums in another order
    bound = bottleneck if met else min(lower_bound_ms, bottleneck)
    certificate = Certificate(method, bottleneck, bound, stopped_by)
    ranks = tuple(range(objective.n_stages))
    return Partition(names, ranks, stages, certificate, objective.recomputed)
