"""A partition whose stages have replicas: what ``solve`` does with ``replicas``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from autopipe.errors import ArgumentError, InfeasibleError
from autopipe.ir.partition import Certificate, Partition, StageCost
from autopipe.partition.joints import Joints
from autopipe.partition.objective import Objective, Rules
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.reduce import Reduced, reduce_problem
from autopipe.partition.replicas import Replicas, Turns, in_flight
from autopipe.partition.replicated import search_layout
from autopipe.partition.replicated_order import Layout


@dataclass(frozen=True, slots=True)
class Unsuited:
    """Choices that do not go with replicas, as the caller gave them."""

    pin: Mapping[str, int]
    n_ranks: int | None
    objective: str
    allow_recompute: bool

    def check(self, prices: Objective) -> None:
        """Raise if one was chosen, or if the positions differ.

        Raises:
            ArgumentError: Names it.
        """
        hardware = prices.hardware
        chosen = {
            "pin": bool(self.pin),
            "n_ranks": self.n_ranks is not None,
            'objective="step_time"': self.objective != "bottleneck",
            "allow_recompute": self.allow_recompute,
            "in_flight": prices.rules.in_flight is not None,
            "one cost graph a position": len(prices.graphs) > 1,
            "links that differ": len(set(hardware.links)) > 1,
        }
        for name, is_chosen in chosen.items():
            if is_chosen:
                raise ArgumentError(
                    f"replicas do not go with {name}.",
                    why="How many stages there are, and where each runs, is the answer.",
                    remedy="one of the two.",
                )


def least_layout(prices: Objective, problem: Problem, rule: Replicas, budget: int) -> Partition:
    """Lay devices out as stages with replicas so that the slowest stage is as fast as can be.

    Args:
        prices: The prices; its number of stages is that of the devices.
        problem: The items.
        rule: How replicas agree.
        budget: Work, as in :func:`autopipe.partition.search.search`.

    Returns:
        The partition, its stages with ``n_replicas``.

    Raises:
        InfeasibleError: No layout fits the memory limit.
    """
    reduced = _reduced(problem)
    turns = Turns(prices, reduced.problem, rule, problem.k)
    found = search_layout(turns, budget)
    if found.layout is None:
        sure = "no layout" if found.stopped_by == "optimal" else "no layout that was found"
        raise InfeasibleError(
            f"{sure} on {problem.k} devices fits {prices.rules.memory_limit_bytes} bytes each.",
            remedy="more devices, or a larger memory_limit_bytes=",
        )
    stage_of = reduced.expand(found.layout.stage_of)
    names = {
        prices.names[node]: int(stage_of[i]) for i, nodes in enumerate(problem.members) for node in nodes
    }
    stages = _priced(prices, Turns(prices, problem, rule, problem.k), found.layout, names)
    bottleneck = max(stage.total_ms for stage in stages)
    bound = bottleneck if found.stopped_by == "optimal" else min(found.lower_bound_ms, bottleneck)
    certificate = Certificate(found.method, bottleneck, bound, found.stopped_by)
    stage_of_node = {name: names[name] for name in prices.names}
    return Partition(stage_of_node, tuple(range(len(stages))), stages, certificate, prices.recomputed)


def _reduced(problem: Problem) -> Reduced:
    """Fuse items, but none that holds anything: replicas exchange parameters."""
    nothing = np.zeros(problem.n) if problem.limit is None else problem.saved
    guarded = replace(problem, allow_empty=True, limit=np.inf, saved=nothing)
    reduced = reduce_problem(guarded)
    return replace(reduced, problem=replace(reduced.problem, limit=problem.limit))


def _priced(
    prices: Objective, turns: Turns, layout: Layout, names: Mapping[str, int]
) -> tuple[StageCost, ...]:
    """What the stages cost, from one microbatch to the next."""
    replicas = np.array(layout.replicas)
    after: Ints = np.cumsum(replicas[::-1])[::-1] - replicas
    flights = tuple(int(in_flight(m, np.array(rest))) for m, rest in zip(layout.replicas, after, strict=True))
    rules: Rules = replace(prices.rules, in_flight=flights, n_microbatches=turns.n_microbatches)
    stages = Objective(prices.graphs, prices.hardware, len(replicas), rules).price_all(names)
    of_item = np.array([names[prices.names[nodes[0]]] for nodes in turns.problem.members])
    parts = Joints(turns, 0.0).parts(of_item[None, :] == np.arange(len(replicas))[:, None])
    return tuple(
        replace(stage, n_replicas=m, total_ms=float(turns.time_ms(parts, m)[i]))
        for i, (stage, m) in enumerate(zip(stages, layout.replicas, strict=True))
    )
