"""What is asked of the solver, checked and apart from the graphs, so that it can be asked of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.partition import Partition
from autopipe.partition.compiled import compile_problem
from autopipe.partition.groundwork import alike, posed
from autopipe.partition.known import Known
from autopipe.partition.layouts import Unsuited, least_layout
from autopipe.partition.least_step import least_step
from autopipe.partition.objective import Objective, Rules
from autopipe.partition.pins import check_pins
from autopipe.partition.problem import Problem
from autopipe.partition.recomputed import without_idle, worth_recomputing
from autopipe.partition.reduce import Reduced
from autopipe.partition.refusals import check_enough_items, check_items_fit, no_split, no_spread
from autopipe.partition.replicas import Replicas
from autopipe.partition.search import search
from autopipe.partition.ties import best_of_equals
from autopipe.partition.virtual import least_on_ranks


@dataclass(frozen=True, slots=True)
class Question:
    """One question; the arguments are those of ``solve``.

    Args:
        n_stages: Stages.
        hardware: Devices and links.
        rules: What counts; the memory limit is that of a rank.
        n_ranks: Ranks that share the stages, None: one a stage.
        pin: Node -> stage, counted from 0.
        together: Groups that share a stage.
        followers: Node -> the node whose stage it takes.
        allow_empty: At most so many stages.
        objective: What is to be least.
        replicas: How replicas agree, where stages may have some.
        budget: Work.
        known: What other questions about the same graphs found out.
    """

    n_stages: int
    hardware: Hardware
    rules: Rules
    n_ranks: int | None
    pin: Mapping[str, int]
    together: tuple[tuple[str, ...], ...]
    followers: Mapping[str, str]
    allow_empty: bool
    objective: str
    replicas: Replicas | None
    budget: int
    known: Known | None = None

    def answer(self, graphs: CostGraph | Sequence[CostGraph]) -> Partition:
        """Solve for one graph, or for one a position.

        Args:
            graphs: What is cut.

        Returns:
            The partition with its certificate.

        Raises:
            ArgumentError: If choices do not go together.
            PartitionError: If there is no such split; says why.
        """
        known = self.known or Known()
        for graph in (graphs,) if isinstance(graphs, CostGraph) else graphs:
            known.recall((graph,), "verified", graph.verify)
        self.hardware.verify()
        prices = self._prices(graphs)
        if self.replicas is not None:
            unsuited = Unsuited(self.pin, self.n_ranks, self.objective, self.rules.allow_recompute)
            unsuited.check(prices)
        problem, reduced = self._posed(prices)
        if self.replicas is not None:
            found = least_layout(prices, problem, self.replicas, self.budget)
        else:
            found = self._least(prices, problem, reduced)
        return without_idle(found, prices.graph) if found.recomputed else found

    def _posed(self, prices: Objective) -> tuple[Problem, Reduced | None]:
        """The items, and what reduction leaves of them where another question may need that too."""
        if self.known is not None and not self.pin and alike(prices):
            return posed(self.known, prices, self.together, self.followers, allow_empty=self.allow_empty)
        problem = compile_problem(
            prices,
            together=self.together,
            followers=self.followers,
            pin=self.pin,
            allow_empty=self.allow_empty,
        )
        return problem, None

    def _prices(self, graphs: CostGraph | Sequence[CostGraph]) -> Objective:
        limit = self.rules.memory_limit_bytes
        rules = replace(self.rules, memory_limit_bytes=None if limit is None else limit // self._shares)
        prices = Objective(graphs, self.hardware, self.n_stages, rules, self.known)
        again = worth_recomputing(prices)
        if not again:
            return prices
        return Objective(graphs, self.hardware, self.n_stages, replace(rules, recomputed=again), self.known)

    @property
    def _shares(self) -> int:
        """How many stages the fullest rank holds: each may have that share of its memory."""
        return -(-self.n_stages // (self.n_ranks or self.n_stages))

    def _least(self, prices: Objective, problem: Problem, reduced: Reduced | None) -> Partition:
        check_enough_items(prices, problem, list(self.together))
        check_pins(prices, problem, self.pin)
        limit = self.rules.memory_limit_bytes
        whole = replace(problem, limit=None if limit is None else float(limit))
        check_items_fit(prices, whole, self._shares)
        n_ranks = self.n_ranks or self.n_stages
        if n_ranks < self.n_stages and self.objective == "bottleneck":
            spread = least_on_ranks(prices, problem, n_ranks, limit, self.budget)
            if spread is None:
                raise no_spread(prices, problem, self._shares, limit)
            return spread
        found = search(problem, self.budget, reduced)
        if found.stage_of is None and self._shares > 1:
            raise no_spread(prices, problem, self._shares, limit)
        if found.stage_of is None:
            raise no_split(prices, problem, proven=bool(np.isinf(found.lower_bound_ms)))
        if self.objective == "step_time":
            n_microbatches = self.rules.n_microbatches or 4 * self.n_stages
            return least_step(prices, problem, found, n_microbatches, n_ranks, self.budget)
        return best_of_equals(prices, problem, found, self.budget)
