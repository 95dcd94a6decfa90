"""autopipe splits a PyTorch model into balanced pipeline stages, proves the split, and trains it.

The whole public list. Names resolve when they are first used, so that ``import autopipe`` loads no torch::

    pipe = autopipe.split(model, 4, (tokens,))
    print(pipe.summary())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autopipe.version import __version__ as __version__

if TYPE_CHECKING:
    from autopipe import errors, ir, partition, schedule
    from autopipe.api import plan, split
    from autopipe.errors import (
        ArgumentError,
        AutopipeError,
        CaptureError,
        EngineError,
        InfeasibleError,
        PartitionError,
        PlanMismatchError,
        ScheduleError,
        VerifyError,
    )
    from autopipe.ir.plan import Plan
    from autopipe.pipeline import Pipeline
    from autopipe.stage import Stage
    from autopipe.verify.report import Verification
    from autopipe.whatif import WhatIf, what_if

_HOMES = {
    "api": ("plan", "split"),
    "errors": (
        "ArgumentError",
        "AutopipeError",
        "CaptureError",
        "EngineError",
        "InfeasibleError",
        "PartitionError",
        "PlanMismatchError",
        "ScheduleError",
        "VerifyError",
    ),
    "ir.plan": ("Plan",),
    "pipeline": ("Pipeline",),
    "stage": ("Stage",),
    "whatif": ("WhatIf", "what_if"),
    "verify.report": ("Verification",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_ROOMS = ("errors", "ir", "partition", "schedule")

__all__ = [
    "ArgumentError",
    "AutopipeError",
    "CaptureError",
    "EngineError",
    "InfeasibleError",
    "PartitionError",
    "Pipeline",
    "Plan",
    "PlanMismatchError",
    "ScheduleError",
    "Stage",
    "Verification",
    "VerifyError",
    "WhatIf",
    "errors",
    "ir",
    "partition",
    "plan",
    "schedule",
    "split",
    "what_if",
]


def __getattr__(name: str) -> Any:
    """Import a name where it is first used."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
