"""What a caller may choose by name."""

from __future__ import annotations

from autopipe.errors import ArgumentError

OBJECTIVES = ("bottleneck", "step_time")
"""What may be least."""

DEVICE_ORDERS = ("given", "best")
"""How devices that differ may be put in order."""


def check_objective(objective: str) -> None:
    """Raise unless there is such an objective.

    Raises:
        ArgumentError: Names those that there are.
    """
    _check("objective", objective, OBJECTIVES)


def check_device_order(device_order: str) -> None:
    """Raise unless there is such a choice.

    Raises:
        ArgumentError: Names those that there are.
    """
    _check("device_order", device_order, DEVICE_ORDERS)


def _check(argument: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        remedy = " or ".join(f'"{name}"' for name in known)
        raise ArgumentError(f"{argument}={value!r} is unknown.", remedy=f"{remedy}.")
