"""What is in each stage, said with two names: the first and the last module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from autopipe.ir.plan import Plan
from autopipe.view.grouping import shown_modules
from autopipe.view.names import joined, short_names
from autopipe.view.operations import Operation, operations

__all__ = ["ModuleSpan", "module_spans"]

_CRUMB = 0.2  # a smaller share of a module does not make the stage one of "its" stages


class ModuleSpan(NamedTuple):
    """The modules of a stage.

    Args:
        exact: First and last, of a module that a cut goes through the part: ``"h.3.mlp ... h.5"``.
        rough: The same by whole modules: ``"h.3 ... h.5"``.
    """

    exact: str
    rough: str


def module_spans(plan: Plan) -> list[ModuleSpan]:
    """Name the first and the last module of each stage, in program order.

    Crumbs are passed over: the small rest of a module that is mostly elsewhere, and operations of the model
    itself; unless a stage has nothing else.

    Args:
        plan: The plan, in either form.

    Returns:
        ``[n_stages]`` pairs of names, empty for a stage without nodes.
    """
    known = operations(plan)
    shown, loose = shown_modules(known)
    shares = _shares(known, shown)
    shorter = short_names(fqn for fqn, _ in shares if fqn)

    def names(one: Operation) -> ModuleSpan:
        module = shown[one.cost.name]
        if one.cost.name in loose:
            return ModuleSpan(one.op, one.op)
        if (module, one.stage) in shares and shares[module, one.stage] == 1.0:
            return ModuleSpan(shorter[module], shorter[module])
        inside = [unit for unit in one.units if len(unit) > len(module)]
        part = inside[0][len(module) :] if inside else f".{one.op}"
        return ModuleSpan(shorter[module] + part, shorter[module])

    spans = []
    for stage in range(plan.n_stages):
        own = [one for one in known if one.stage == stage]
        own = [one for one in own if one.cost.name not in loose] or own
        own = [one for one in own if shares[shown[one.cost.name], stage] >= _CRUMB] or own
        ends = [names(one) for one in (own[0], own[-1])] if own else [ModuleSpan("", "")] * 2
        spans.append(ModuleSpan(joined(ends[0].exact, ends[1].exact), joined(ends[0].rough, ends[1].rough)))
    return spans


def _shares(known: Sequence[Operation], shown: Mapping[str, str]) -> dict[tuple[str, int], float]:
    """Of each module and each stage that has some of it: the share of its time, or of its nodes."""
    weights: dict[tuple[str, int], list[float]] = defaultdict(list)
    is_priced = any(one.cost.compute_ms for one in known)
    for one in known:
        weight = one.cost.compute_ms if is_priced else 1.0
        weights[shown[one.cost.name], one.stage].append(weight)
    totals: dict[str, float] = defaultdict(float)
    stages: dict[str, int] = defaultdict(int)
    for (module, _), parts in weights.items():
        totals[module] += sum(parts)
        stages[module] += 1
    return {
        (module, stage): 1.0 if stages[module] == 1 else sum(parts) / (totals[module] or 1.0)
        for (module, stage), parts in weights.items()
    }
