"""Which parameters are trained, as it was when the engine was built."""

from __future__ import annotations

from torch import nn

from autopipe.errors import PlanMismatchError


class Trained:
    """Remembers ``requires_grad`` of every parameter.

    Args:
        model: The user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take it as it is now."""
        self._model = model
        self._before = _requires_grad(model)
        self.fqns = frozenset(fqn for fqn, requires_grad in self._before.items() if requires_grad)

    def check(self) -> None:
        """Raise if it changed.

        Raises:
            PlanMismatchError: Naming the first parameter that differs.
        """
        now, before = _requires_grad(self._model), self._before
        if now != before:
            changed = next(fqn for fqn in before | now if now.get(fqn) != before.get(fqn))
            raise PlanMismatchError(
                f"requires_grad of {changed} changed after the engine was built.",
                why="Which values carry gradients between stages follows from it.",
                remedy="make another engine: pipe.engine(...)",
            )


def _requires_grad(model: nn.Module) -> dict[str, bool]:
    return {fqn: parameter.requires_grad for fqn, parameter in model.named_parameters()}
