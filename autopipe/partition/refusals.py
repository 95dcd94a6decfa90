"""Why there is no split: which stage or node needs what, and a remedy that was tried.

::

    no 3-stage partition fits 300 bytes.
      the leanest split needs 442 bytes in stage 0: 400 for 100 bytes of parameters ...
      No split needs less.
      Try: memory_limit_bytes=442 or more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

from autopipe.errors import InfeasibleError, PartitionError
from autopipe.ir.partition import StageCost
from autopipe.partition.baselines import to_partition
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Problem
from autopipe.partition.search import leanest

_BUDGET = 50_000_000
"""Work spent at most on the least limit that a split fits."""

_NAMED = 4
"""So many nodes are named; the rest are counted."""


def check_enough_items(
    objective: Objective, problem: Problem, groups: Iterable[Collection[str]] = ()
) -> None:
    """Raise unless every stage can get an item.

    Args:
        objective: Knows the names.
        problem: The items.
        groups: What the caller wants in one stage, besides the groups of the graph.

    Raises:
        PartitionError: More stages than legal cuts allow.
    """
    if not objective.names:
        raise PartitionError("the cost graph has no nodes.", why="There is nothing to split.")
    if problem.k > problem.n and not problem.allow_empty:
        raise PartitionError(
            f"asked for {problem.k} stages, but {_legal_cuts(problem.n - 1)}.",
            why=_largest_group(objective, problem, [*objective.graph.together, *groups]),
            remedy="n_stages=1." if problem.n == 1 else f"n_stages={problem.n} or fewer.",
        )


def _legal_cuts(n: int) -> str:
    if n == 0:
        return "no cut is legal"
    return "only one cut point is legal" if n == 1 else f"only {n} cut points are legal"


def _largest_group(objective: Objective, problem: Problem, groups: list[Collection[str]]) -> str:
    item = max(problem.members, key=len, default=())
    if len(item) < 2:
        return f"The graph has {problem.n} nodes."
    names = {objective.names[node] for node in item}
    asked = {name for group in groups if names.issuperset(group) for name in group}
    between = [objective.names[node] for node in item if objective.names[node] not in asked]
    if not asked or not between:
        return f"Nodes that must share a stage, the largest group: {listed(objective, item)}."
    wanted = [node for node in item if objective.names[node] in asked]
    inner = [objective.index[name] for name in between]
    return (
        f"Nodes that must share a stage, the largest group: {listed(objective, wanted)}; "
        f"with them what lies on a path between two of them: {listed(objective, inner)}."
    )


def check_items_fit(objective: Objective, problem: Problem, shares: int = 1) -> None:
    """Raise if a single item is larger than the memory limit.

    Args:
        objective: Knows the names.
        problem: The items; its limit is that of a rank.
        shares: Stages of the fullest rank.

    Raises:
        InfeasibleError: Names the node and what it needs.
    """
    if problem.limit is None:
        return
    worst, need, flight = 0, 0.0, 0
    for item in range(problem.n):
        least = min(problem.in_flight[problem.first[item] : problem.last[item] + 1])
        least = min(least, 1) if problem.allow_recompute else least
        bytes_now = _fixed(problem, item) + least * float(problem.saved[item])
        if bytes_now > need:
            worst, need, flight = item, bytes_now, least
    if need <= problem.limit:
        return
    nodes = problem.members[worst]
    heaviest = max(
        nodes, key=lambda i: (objective.nodes[0][i].param_bytes, objective.nodes[0][i].saved_bytes)
    )
    others = (
        f" and {len(nodes) - 1} more that must share its stage need" if len(nodes) > 1 else " alone needs"
    )
    raise _no_room(
        objective,
        problem,
        shares,
        where=f"node {named(objective, heaviest)}{others} {need:.0f} bytes: "
        f"{_fixed(problem, worst):.0f} for parameters, gradients and optimizer state, "
        f"{flight * problem.saved[worst]:.0f} kept for the backward of {_microbatches(flight)}",
    )


def _fixed(problem: Problem, item: int) -> float:
    twice = sum(t.nbytes * max(t.items.count(item) - 1, 0) for t in problem.tied)
    return float(problem.fixed[item] - twice)


def no_split(objective: Objective, problem: Problem, *, proven: bool) -> InfeasibleError:
    """Say which stage needs how much in the split that needs least.

    Args:
        objective: Knows the names and prices.
        problem: The items.
        proven: No split fits; otherwise none was found.

    Returns:
        The error.
    """
    if problem.limit is None:
        return InfeasibleError(f"no {problem.k}-stage partition meets the pins.")
    return _no_room(objective, problem, proven=proven)


def no_spread(objective: Objective, problem: Problem, shares: int, limit: int | None) -> InfeasibleError:
    """Say what would be enough where several stages share the memory of a rank.

    Args:
        objective: Knows the names and prices.
        problem: The items; its limit is the equal share of a stage.
        shares: Stages of the fullest rank.
        limit: Memory of a rank.

    Returns:
        The error.
    """
    if limit is None:
        return no_split(objective, problem, proven=False)
    lean, held, _ = _lean_stage(objective, problem)
    what = f"no {problem.k}-stage partition that was tried fits {limit} bytes a rank of {shares} stages."
    if lean is None:
        return InfeasibleError(what)
    where = (
        f"the split whose largest stage is leanest needs {lean.memory_bytes} bytes in stage {lean.index}: "
        f"{_account(lean, held)}"
    )
    return InfeasibleError(
        what, where=where, remedy=f"memory_limit_bytes={shares * lean.memory_bytes} or more."
    )


def _no_room(
    objective: Objective, problem: Problem, shares: int = 1, *, where: str = "", proven: bool = True
) -> InfeasibleError:
    """No split fits: the smallest limit that one does fit, and who needs it."""
    assert problem.limit is not None
    limit = f"{problem.limit:.0f} bytes" + (f" a rank of {shares} stages" if shares > 1 else "")
    what = f"no {problem.k}-stage partition {'fits' if proven else 'that was tried fits'} {limit}."
    lean, held, least = _lean_stage(objective, problem)
    if lean is None:
        return InfeasibleError(what, where=where)
    enough = lean.memory_bytes
    detail = f"the leanest split needs {enough} bytes in stage {lean.index}: {_account(lean, held)}"
    why = "No split needs less." if least >= enough else f"No split needs less than {least} bytes."
    remedies = [f"memory_limit_bytes={shares * enough} or more."]
    if not problem.allow_recompute:
        thrifty, _, _ = _lean_stage(objective, replace(problem, allow_recompute=True))
        if thrifty is not None and thrifty.memory_bytes < enough:
            remedies.append(
                f"allow_recompute=True, with which {shares * thrifty.memory_bytes} bytes are enough."
            )
    where = "\n".join(part for part in (where, detail) if part)
    return InfeasibleError(what, where=where, why=why, remedy="\n".join(remedies))


def _lean_stage(objective: Objective, problem: Problem) -> tuple[StageCost | None, int, int]:
    """The fullest stage of the leanest split, its bytes for weights, and the bytes that any split needs."""
    found = leanest(problem, _BUDGET)
    if found.stage_of is None:
        return None, 0, 0
    rules = replace(
        objective.rules,
        memory_limit_bytes=0 if problem.allow_recompute else None,  # 0: every stage runs its forward twice
        allow_recompute=problem.allow_recompute,
    )
    priced = Objective(objective.graphs, objective.hardware, objective.n_stages, rules)
    lean = to_partition(priced, problem, found.stage_of, "memory", 0.0, "")
    worst = max(lean.stages, key=lambda stage: stage.memory_bytes)
    least = math.ceil(found.lower_bound_ms * (1 - 1e-9) - 1e-3)
    members = (objective.index[name] for name, stage in lean.stage_of.items() if stage == worst.index)
    held = math.ceil(objective.held_bytes(members))
    return worst, held, worst.memory_bytes if found.stopped_by == "optimal" else least


def _account(stage: StageCost, held: int) -> str:
    """Say what fills a stage, of which ``held`` are parameters, gradients and optimizer state."""
    kept = stage.memory_bytes - held
    parts = [f"{held} for {stage.param_bytes} bytes of parameters with their gradients and optimizer state"]
    if kept:
        again = " (forward run again)" if stage.recompute else ""
        parts.append(f"{kept} kept and received for {_microbatches(stage.in_flight)} in flight{again}")
    return ", ".join(parts)


def _microbatches(count: int) -> str:
    return "1 microbatch" if count == 1 else f"{count} microbatches"


def named(objective: Objective, node: int) -> str:
    """A node by its name and, where it has one, its module.

    Args:
        objective: Knows the names.
        node: Its index.

    Returns:
        Such as ``'linear_3' (blocks.2.mlp)``.
    """
    fqn = objective.nodes[0][node].fqn
    name = objective.names[node]
    return f"{name!r} ({fqn})" if fqn and fqn != name else repr(name)


def listed(objective: Objective, nodes: Collection[int]) -> str:
    """The first few nodes by name, and how many more there are.

    Args:
        objective: Knows the names.
        nodes: Their indices.

    Returns:
        Such as ``'a', 'b' and 3 more``.
    """
    names = ", ".join(named(objective, node) for node in list(nodes)[:_NAMED])
    more = len(nodes) - _NAMED
    return f"{names} and {more} more" if more > 0 else names
