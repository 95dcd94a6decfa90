"""What all numbers of stages, microbatches and memory limits on alike devices and links have in common.

::

    graph --contract--> items --reduce--> fewer items       once
                          |                   |
                       + stages, in flight, limit, share of the tied parameters: each question

How often tied parameters are exchanged differs from question to question. What is fused for all of them
costs no stage more whether it is never or every microbatch; each question then reduces what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from autopipe.partition.compiled import compile_problem, net_groups
from autopipe.partition.known import Known
from autopipe.partition.nets import Net
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reduce import Reduced, contract, fused


def alike(objective: Objective) -> bool:
    """Is every position like every other, whatever the number of stages?"""
    return len(objective.graphs) == 1 and len(set(objective.hardware.links)) == 1


@dataclass(frozen=True, slots=True)
class Groundwork:
    """The items, for any question about them.

    Args:
        problem: The items for one question. Its nets cost, in the first row, what is paid for every
            microbatch, and in the second what tied parameters would cost if they were exchanged with each.
        item_of: Its item for every item of the whole problem.
    """

    problem: Problem
    item_of: Ints

    @classmethod
    def lay(
        cls,
        objective: Objective,
        together: Iterable[Iterable[str]],
        followers: Mapping[str, str],
    ) -> Groundwork:
        """Contract what is never cut.

        Args:
            objective: Prices; every position is like every other.
            together: Groups that share a stage.
            followers: Node to the node whose stage it takes.

        Returns:
            The items, none of them reduced.
        """
        problem = compile_problem(objective, together=together, followers=followers)
        item_of = np.empty(len(objective.names), dtype=np.int64)
        for item, members in enumerate(problem.members):
            item_of[list(members)] = item
        groups = list(net_groups(objective, item_of).values())
        cin, cout = (
            np.array([[_whole_ms(price, nets, tied=tied) for nets in groups] for tied in (False, True)])
            for price in (objective.recv_ms, objective.send_ms)
        )
        return cls(replace(problem, cin=cin, cout=cout), np.arange(problem.n))

    def reduced(self, *, limited: bool) -> Groundwork:
        """Fuse what no question needs to cut between, with a memory limit or without."""
        (low_in, tied_in), (low_out, tied_out) = self.problem.cin, self.problem.cout
        bounds = replace(
            self.problem,
            cin=np.minimum(low_in, low_out)[None, :],
            cout=np.maximum(low_in + tied_in, low_out + tied_out)[None, :],
            limit=np.inf if limited else None,
            allow_empty=True,
        )
        smaller = contract(self.problem, fused(bounds))
        return Groundwork(smaller.problem, smaller.item_of)

    def ask(self, objective: Objective, *, allow_empty: bool) -> Problem:
        """The problem of one question.

        Args:
            objective: Its prices.
            allow_empty: Stages may stay empty.

        Returns:
            The problem.
        """
        problem, rules, k = self.problem, objective.rules, objective.n_stages
        share = 1.0 / (rules.n_microbatches or 4 * k)
        return replace(
            problem,
            cin=_spread(problem.cin, share),
            cout=_spread(problem.cout, share),
            kind_of_stage=(0,) * k,
            first=np.zeros(problem.n, dtype=np.int64),
            last=np.full(problem.n, k - 1, dtype=np.int64),
            in_flight=objective.in_flight,
            limit=None if rules.memory_limit_bytes is None else float(rules.memory_limit_bytes),
            allow_empty=allow_empty,
            allow_recompute=rules.allow_recompute,
        )


def posed(
    known: Known,
    objective: Objective,
    together: tuple[tuple[str, ...], ...],
    followers: Mapping[str, str],
    *,
    allow_empty: bool,
) -> tuple[Problem, Reduced]:
    """The problem of one question without pins, and what reduction leaves of it.

    Args:
        known: Remembers what was found for other questions.
        objective: Prices; every position is like every other.
        together: Groups that share a stage.
        followers: Node to the node whose stage it takes.
        allow_empty: Stages may stay empty.

    Returns:
        Both.
    """
    hardware, rules = objective.hardware, objective.rules
    machine = hardware.links[0], hardware.overlap, hardware.optimizer_bytes_per_param
    key = machine, together, tuple(followers.items()), rules.memory, rules.recomputed
    whole = known.recall(
        objective.graphs, ("items", key), lambda: Groundwork.lay(objective, together, followers)
    )
    limited = rules.memory_limit_bytes is not None
    fewer = known.recall((whole,), limited, lambda: whole.reduced(limited=limited))
    reduced = Reduced(fewer.ask(objective, allow_empty=True), fewer.item_of)
    return whole.ask(objective, allow_empty=allow_empty), _reduced_more(reduced, fewer)


def _reduced_more(reduced: Reduced, fewer: Groundwork) -> Reduced:
    """Fuse what the costs of tied parameters allow in this question though not in all."""
    problem = reduced.problem
    tied = np.flatnonzero(fewer.problem.cin[1] + fewer.problem.cout[1])
    ends = {pin for net in tied.tolist() for pin in problem.pins[net]}
    if not ends:
        return reduced
    leaders = fused(problem, sorted(ends))
    if leaders == list(range(problem.n)):
        return reduced
    again = contract(problem, leaders)
    return Reduced(again.problem, again.item_of[reduced.item_of])


def _whole_ms(price: Callable[[Net, int], float], nets: list[Net], *, tied: bool) -> float:
    """What nets cost at any position, tied parameters as if exchanged with every microbatch."""
    return sum(price(replace(net, share=1.0) if tied else net, 0) for net in nets if net.tied == tied)


def _spread(costs: Floats, share: float) -> Floats:
    """One row of costs, with that share of what tied parameters cost."""
    row: Floats = costs[0] + share * costs[1]
    return row[None, :]
