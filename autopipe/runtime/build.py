"""Makes the engine that a caller asked for: in this process, or over a group of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from autopipe.ir.stages import StagedModel
from autopipe.runtime.engine import Engine
from autopipe.runtime.given_back import refusing_lost_changes
from autopipe.runtime.group_engine import GroupEngine
from autopipe.runtime.microbatches import StagedFor
from autopipe.runtime.options import check_meeting, check_options
from autopipe.runtime.parted import remember_parted
from autopipe.runtime.placed import remember_placed


def engine_for(
    model: nn.Module, staged: StagedModel, staged_for: StagedFor, *, group: Any, devices: Any, **options: Any
) -> Engine:
    """Make an engine.

    Args:
        model: The user's model.
        staged: The split for the example.
        staged_for: Gives the stages that are right for a call.
        group: A torch.distributed process group; None: all stages run in this process.
        devices: As for ``Engine``, or ``GroupEngine``.
        options: The other arguments of both.

    Returns:
        The engine.

    Raises:
        ArgumentError: If an argument is wrong; nothing has been moved then.
    """
    staged_for = refusing_lost_changes(model, staged_for)
    check_meeting(group, options["timeout_s"])
    engine: Engine
    if group is None:
        check_options({**options, "devices": devices}, len(staged.stages))
        engine = Engine(model, staged, staged_for, devices=devices, **options)
    else:
        engine = GroupEngine(model, staged, staged_for, group=group, devices=devices, **options)
        if options["n_ranks"] > 1:
            remember_parted(model)
    if devices is not None:
        remember_placed(model)
    return engine
