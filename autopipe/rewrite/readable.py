"""The stages as text: ports, then the code that each runs."""

from __future__ import annotations

from autopipe.ir.stages import StagedModel


def readable(staged: StagedModel) -> str:
    """Return the code of every stage under its ports.

    Args:
        staged: The split model.

    Returns:
        One block a stage, as Python.
    """
    blocks = []
    for stage in staged.stages:
        ports = [f"#   recv {port.value} {port.spec} <- stage {port.peer}" for port in stage.recv]
        ports += [f"#   send {port.value} {port.spec} -> stage {port.peer}" for port in stage.send]
        blocks.append("\n".join([f"# stage {stage.index}", *ports, stage.module.code.strip()]))
    return "\n\n".join(blocks) + "\n"
