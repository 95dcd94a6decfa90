"""A forward that asks for the gradient of a value, such as for a checkpoint around what follows."""

from __future__ import annotations

import torch

from autopipe.errors import CaptureError
from autopipe.trace.effects import storage_of
from autopipe.trace.glue import asking_gradient
from autopipe.trace.recorder import Recorder
from autopipe.trace.source import line_of_frame


def set_requires_grad(recorder: Recorder, tensor: torch.Tensor, wanted: bool = True) -> torch.Tensor:
    """Record that a gradient of a tensor is wanted from here on.

    Args:
        recorder: Writes the graph.
        tensor: A value of the graph.
        wanted: What the model sets ``requires_grad`` to.

    Returns:
        The tensor, which from now on stands for the new value.

    Raises:
        CaptureError: If it is an argument or an attribute of the model, which a stage must not change, or if
            the gradient is switched off.
    """
    if tensor.requires_grad == wanted:
        return tensor
    node = recorder.values.node_of(tensor)
    if not wanted or node.op in ("placeholder", "get_attr"):
        what = "an argument or a buffer" if wanted else "a tensor"
        raise CaptureError(
            f"cannot see through the module: it sets .requires_grad of {what}.", where=line_of_frame()
        )
    tensor.requires_grad_()
    program, storage = recorder.program, storage_of(tensor)
    asked = program.graph.call_function(asking_gradient, (node,))
    program.describe(asked, "asking_gradient", tensor, {storage}, region=program.region())
    program.effects.reads(storage, asked.name)
    recorder.values.know(tensor, asked)
    return tensor
