"""Checks of what a caller of ``solve`` gives: numbers that are none, and things of another kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

from autopipe.errors import ArgumentError, PartitionError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.integers import is_int
from autopipe.partition.objective import MemoryRule
from autopipe.partition.replicas import Replicas


def check_counts(
    n_stages: object,
    n_ranks: object,
    n_microbatches: object,
    memory_limit_bytes: object,
    budget: object,
) -> None:
    """Raise unless each is a number of what it counts.

    Raises:
        ArgumentError: Names the argument.
    """
    if not is_int(n_stages) or n_stages < 1:
        raise ArgumentError(
            f"asked for {n_stages!r} stages.", why="A split has at least one, and their number is an int."
        )
    if n_ranks is not None and not (is_int(n_ranks) and 1 <= n_ranks <= n_stages):
        raise ArgumentError(
            f"asked for {n_ranks!r} ranks and {n_stages} stages.", why="Every rank runs at least one stage."
        )
    if n_microbatches is not None and not (is_int(n_microbatches) and n_microbatches >= 1):
        raise ArgumentError(
            f"n_microbatches={n_microbatches!r} is no number of microbatches.", remedy="an int, 1 or more."
        )
    if memory_limit_bytes is not None and not _is_amount(memory_limit_bytes):
        raise ArgumentError(f"memory_limit_bytes={memory_limit_bytes!r} is no number of bytes.")
    if not _is_amount(budget):
        raise ArgumentError(
            f"budget={budget!r} is no amount of work.", remedy="a number; 0: linear orders only."
        )


def check_rules(memory: MemoryRule | None, replicas: Replicas | None) -> None:
    """Raise unless the numbers of both are finite and not negative.

    Raises:
        ArgumentError: Names the number.
    """
    for rule, name in ((memory, "param_multiplier"), (replicas, "exchanges")):
        kind = MemoryRule if name == "param_multiplier" else Replicas
        if rule is not None and not isinstance(rule, kind):
            raise ArgumentError(f"{rule!r} is no {kind.__name__}.")
        value = getattr(rule, name, None)
        if value is not None and not _is_amount(value):
            raise ArgumentError(f"{kind.__name__}({name}={value!r}) is no finite number, zero or more.")


def check_machine(cost_graph: CostGraph | Sequence[CostGraph], hardware: Hardware) -> None:
    """Raise unless there is a graph, and hardware.

    Raises:
        ArgumentError: Says what was given instead.
    """
    if not isinstance(hardware, Hardware):
        raise ArgumentError(f"hardware is {hardware!r}.", remedy="an autopipe.ir.Hardware.")
    graphs = [cost_graph] if isinstance(cost_graph, CostGraph) else cost_graph
    if not isinstance(graphs, Sequence) or not all(isinstance(graph, CostGraph) for graph in graphs):
        raise ArgumentError(
            f"cost_graph is a {type(cost_graph).__name__}.", remedy="a CostGraph, or several."
        )
    if not graphs:
        raise ArgumentError("there is no cost graph.", remedy="one, or one a position.")


def checked_flights(in_flight: Sequence[int]) -> tuple[int, ...]:
    """Microbatches in flight, as given.

    Raises:
        ArgumentError: A number that is none; names its stage.
    """
    for stage, count in enumerate(in_flight):
        if not isinstance(count, Integral) or count < 0:
            raise ArgumentError(
                f"in_flight of stage {stage} is {count!r}.", remedy="an int, 0 or more, for every stage."
            )
    return tuple(map(int, in_flight))


def checked_groups(together: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups of node names, as given.

    Raises:
        ArgumentError: A name where a group is expected.
    """
    groups = list(together)
    lone = next((group for group in groups if isinstance(group, str)), None)
    if lone is not None:
        raise ArgumentError(
            f"together has {lone!r}, which is no group.", remedy=f"together=[[{lone!r}, ...]]."
        )
    return tuple(tuple(group) for group in groups)


def checked_pins(pin: Mapping[str, int], n_stages: int) -> dict[str, int]:
    """Pins counted from stage 0.

    Raises:
        PartitionError: A stage that there is not; names the node.
    """
    for name, stage in pin.items():
        if not is_int(stage) or not -n_stages <= stage < n_stages:
            raise PartitionError(
                f"node {name!r} is pinned to stage {stage!r} of {n_stages}.",
                remedy=f"0 to {n_stages - 1}; -1 is the last.",
            )
    return {name: stage % n_stages for name, stage in pin.items()}


def _is_amount(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf
