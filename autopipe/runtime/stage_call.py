"""Calls the module of one stage, and leaves the thread as it was whatever happens inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from autopipe.ir.stages import StageModule
from autopipe.rewrite.regions import closing_regions


def call_stage(stage: StageModule, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run a stage.

    Args:
        stage: The stage.
        values: Model inputs, symbolic sizes and received values by name; what the stage does not read is
            ignored.

    Returns:
        Its results by name.
    """
    arguments = [values[argument.name] for argument in stage.arguments]
    with closing_regions():
        # GraphModule's own __call__ prints to stderr when the stage raises, and drops the traceback.
        results = nn.Module.__call__(stage.module, *arguments)
    return dict(zip(stage.results, results, strict=True))
