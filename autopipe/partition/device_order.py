"""Devices that differ, in the order that suits the graph best.

::

    fast fast slow      one search an order of the kinds, each with its certificate:
    fast slow fast      the answer is the best of them, its bound the least of their bounds
    slow fast fast
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from autopipe.errors import ArgumentError, InfeasibleError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.partition import Certificate, Partition

MANY = 128
"""Orders that are tried, at most."""


def distinct_orders(kinds: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every order of things of which some are alike, each once, in lexicographic order.

    Args:
        kinds: The kind of each.

    Yields:
        Positions of the things; of a kind the first comes first.

    Example:
        >>> list(distinct_orders([0, 0, 1]))
        [(0, 1, 2), (0, 2, 1), (2, 0, 1)]
    """
    if not kinds:
        yield ()
        return
    for kind in sorted(set(kinds)):
        at = kinds.index(kind)
        rest = [i for i in range(len(kinds)) if i != at]
        for order in distinct_orders([kinds[i] for i in rest]):
            yield (at, *(rest[i] for i in order))


def in_best_order(
    graphs: Sequence[CostGraph], n_stages: int, solve_one: Callable[[Sequence[CostGraph]], Partition]
) -> Partition:
    """Try every order of the devices.

    Args:
        graphs: One a position; equal ones are the same object, or equal.
        n_stages: Positions; graphs repeat where they are fewer.
        solve_one: Solves for one order.

    Returns:
        The best partition with its ``device_order``; its bound holds for every order.

    Raises:
        ArgumentError: More orders than are tried.
        InfeasibleError: No order fits the memory limit.
    """
    placed = [graphs[stage % len(graphs)] for stage in range(n_stages)]
    kinds = [next(i for i, other in enumerate(placed) if other is graph) for graph in placed]
    n_orders = math.factorial(n_stages)
    for kind in set(kinds):
        n_orders //= math.factorial(kinds.count(kind))
    if n_orders > MANY:
        raise ArgumentError(
            f"{n_stages} devices can be put in {n_orders} orders.",
            why=f"Every one is solved for, {MANY} at most.",
            remedy='device_order="given", and the devices in an order that you choose.',
        )
    found: list[tuple[tuple[int, ...], Partition]] = []
    refused: InfeasibleError | None = None
    for order in distinct_orders(kinds):
        try:
            found.append((order, solve_one([placed[i] for i in order])))
        except InfeasibleError as error:
            refused = error
    if not found:
        assert refused is not None
        raise refused
    order, best = min(found, key=lambda one: _least(one[1]))
    certificates = [partition.certificate for _, partition in found]
    proven = all(certificate.stopped_by == "optimal" for certificate in certificates)
    certificate = replace(
        best.certificate,
        lower_bound_ms=min(
            best.certificate.bottleneck_ms, *(certificate.lower_bound_ms for certificate in certificates)
        ),
        step_time_bound_ms=min(certificate.step_time_bound_ms for certificate in certificates),
        stopped_by="optimal" if proven else f"in one of {len(found)} orders: {_why(certificates)}",
    )
    return replace(best, certificate=certificate, device_order=order)


def _least(partition: Partition) -> tuple[float, float, float]:
    """By the objective, then by the sum of all stages, rounding aside."""
    certificate = partition.certificate
    total = math.fsum(stage.total_ms for stage in partition.stages)
    rounded = [float(f"{ms:.10g}") for ms in (certificate.step_time_ms, certificate.bottleneck_ms, total)]
    return rounded[0], rounded[1], rounded[2]


def _why(certificates: Sequence[Certificate]) -> str:
    return next(c.stopped_by for c in certificates if c.stopped_by != "optimal")
