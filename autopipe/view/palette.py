"""The colours of the stages, the same in every picture. Neighbours differ, also for people who see no red."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GREY", "Shades", "shades"]


class Shades(NamedTuple):
    """One hue in the strengths that a picture needs.

    Args:
        pale: Backgrounds.
        light: Forwards, bars behind text.
        strong: Backwards, lines.
        ink: Text on pale.
    """

    pale: str
    light: str
    strong: str
    ink: str


GREY = Shades("#f6f7f9", "#d5dae1", "#8792a2", "#3b4554")

_WHEEL = (
    Shades("#edf3fc", "#b3cdf3", "#3d7bd0", "#1c4a8a"),  # blue
    Shades("#fdf2e4", "#f8cf9a", "#d9822b", "#854a0c"),  # orange
    Shades("#e8f6f1", "#a6dcc8", "#22946e", "#0f5c43"),  # green
    Shades("#f6effb", "#d9bff0", "#9355c4", "#5b2a86"),  # violet
    Shades("#fcf7dc", "#ecdc85", "#a98e0a", "#655405"),  # yellow
    Shades("#e6f5f9", "#a3d8e8", "#1d8fb0", "#0d586e"),  # cyan
    Shades("#fcedf0", "#f4b6c2", "#cf4765", "#85223a"),  # rose
    Shades("#f0f1ea", "#cdd2b8", "#77804f", "#474d2c"),  # olive
)


def shades(stage: int) -> Shades:
    """Return the colours of a stage; they repeat after eight.

    Args:
        stage: The stage.

    Returns:
        Its shades.

    Example:
        >>> shades(9) == shades(1), shades(0) == shades(1)
        (True, False)
    """
    return _WHEEL[stage % len(_WHEEL)]
