"""What is in each stage, said with two names: the first and the last module."""

from __future__ import annotations

from collections import defaultdict

from autopipe.ir.plan import Plan
from autopipe.view.grouping import shown_modules
from autopipe.view.names import joined, short_names
from autopipe.view.operations import Operation, operations

__all__ = ["module_spans"]


def module_spans(plan: Plan) -> list[str]:
    """Name the first and the last module of each stage, in program order.

    Of a module that a cut goes through, the part is named. Operations of the model itself are named where a
    stage has nothing else.

    Args:
        plan: The plan, in either form.

    Returns:
        ``[n_stages]`` texts such as ``"h.5 ... 11"``; empty for a stage without nodes.
    """
    known = operations(plan)
    shown, loose = shown_modules(known)
    stages_of: dict[str, set[int]] = defaultdict(set)
    for one in known:
        stages_of[shown[one.cost.name]].add(one.stage)
    shorter = short_names(fqn for fqn in stages_of if fqn)

    def name(one: Operation) -> str:
        module = shown[one.cost.name]
        if one.cost.name in loose:
            return one.op
        if len(stages_of[module]) == 1:
            return shorter[module]
        inside = [unit for unit in one.units if len(unit) > len(module)]
        return shorter[module] + (inside[0][len(module) :] if inside else f".{one.op}")

    spans = []
    for stage in range(plan.n_stages):
        own = [one for one in known if one.stage == stage]
        own = [one for one in own if one.cost.name not in loose] or own
        spans.append(joined(name(own[0]), name(own[-1])) if own else "")
    return spans
