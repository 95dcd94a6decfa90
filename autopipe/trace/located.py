"""A shape environment that notes where in the user's own code a size was looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from sympy.logic.boolalg import Boolean
from torch._guards import SLoc
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

from autopipe.trace.source import line_of_frame


class LocatedShapeEnv(ShapeEnv):
    """Says of each guard, and of each size that turned out to be fixed, the user's file and line."""

    is_in_a_call: Callable[[], bool] = staticmethod(bool)
    """Whether a function of torch is running, or a leaf; else it is the model's own Python that asks."""

    decide: Callable[[Any], bool | None] = staticmethod(lambda _condition: None)
    """Says which way to go at a condition that only a run can answer; None: both ways go on."""

    def evaluate_expr(self, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a condition or a size; the model's own Python may branch where one way is a refusal."""
        if isinstance(orig_expr, Boolean) and not self.is_in_a_call():
            condition = self.replace(orig_expr)
            is_open = not condition.free_symbols <= self.backed_var_to_val.keys()
            if is_open and self._maybe_evaluate_static(orig_expr) is None:
                way = self.decide(condition)
                if way is not None:
                    return sympy.true if way else sympy.false
        return super().evaluate_expr(orig_expr, *args, **kwargs)

    def guard_or_defer_runtime_assert(  # type: ignore[override]  # the method is a cached one
        self, orig_expr: Any, msg: str, fx_node: Any = None
    ) -> bool:
        """Evaluate a condition on sizes; one that only a run can answer is a check, or has no single graph.

        Raises:
            GuardOnDataDependentSymNode: If it is on a size that the values of tensors decide.
        """
        condition = self.replace(orig_expr)
        is_ours = condition.free_symbols <= self.backed_var_to_val.keys()
        is_open = not is_ours and self._maybe_evaluate_static(orig_expr) is None
        if is_open and not self.is_in_a_call():
            way = self.decide(condition)
            if way is not None:
                return way
        if is_open and not (self.is_in_a_call() and self._is_of_unknown_sizes(condition)):
            raise GuardOnDataDependentSymNode(orig_expr, f"{orig_expr}: values decide this size")
        return bool(super().guard_or_defer_runtime_assert(orig_expr, msg, fx_node))

    def _is_of_unknown_sizes(self, condition: Any) -> bool:
        """Whether a condition leaves unknown the sizes that it is on: ``len(x[mask]) == len(y[mask])``.

        The call that asks for it asks again in every run.
        """
        sides = condition.args if isinstance(condition, sympy.Eq) else [condition]
        return all(
            side.free_symbols and not side.free_symbols & self.backed_var_to_val.keys() for side in sides
        )

    def _get_stack_summary(self, *_args: Any, **_kwargs: Any) -> tuple[SLoc, str]:
        return SLoc(line_of_frame(), None), ""


def place_of(location: SLoc | None) -> str:
    """Return file, line, function and source, or ""."""
    return str(location.framework_loc or "") if location is not None else ""
