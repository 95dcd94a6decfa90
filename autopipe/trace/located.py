"""A shape environment that notes where in the user's own code a size was looked at."""

from __future__ import annotations

from typing import Any

from torch._guards import SLoc
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autopipe.trace.source import line_of_frame


class LocatedShapeEnv(ShapeEnv):
    """Says of each guard, and of each size that turned out to be fixed, the user's file and line."""

    def _get_stack_summary(self, *_args: Any, **_kwargs: Any) -> tuple[SLoc, str]:
        return SLoc(line_of_frame(), None), ""


def place_of(location: SLoc | None) -> str:
    """Return file, line, function and source, or ""."""
    return str(location.framework_loc or "") if location is not None else ""
