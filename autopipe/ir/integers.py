"""What counts as an int where a caller gives a number: ``True`` is one for Python, no number of stages."""

from __future__ import annotations

from typing import TypeGuard

__all__ = ["is_int"]


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value is an int, and no bool.

    Args:
        value: What a caller gave.

    Returns:
        The answer.

    Example:
        >>> is_int(3), is_int(True), is_int(3.0)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)
