"""Buffers that a forward replaces: ``self.center = 0.9 * self.center + 0.1 * x.mean(0)``.

A graph writes into the buffer what a plain run puts in its place. Who reads the old numbers reads a copy, for
in a plain run they stay what they were::

    center  = self.center               the buffer, which the next microbatch finds written
    old     = clone(center)             what the forward read, and a backward may need
    new     = 0.9 * old + ...
    replace = replaced(center, new)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from autopipe.ir.traced import Region
from autopipe.trace.effects import storage_of
from autopipe.trace.recorder import Recorder

_Buffers = dict[tuple[int, str], torch.Tensor]


def replaced(buffer: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Write into a buffer what stands in its place after a plain run."""
    return buffer.copy_(new)


def buffers_of(model: nn.Module) -> _Buffers:
    """Return the buffers of all modules by module and name."""
    return {
        (id(module), name): buffer
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


def record_replaced(model: nn.Module, before: _Buffers, recorder: Recorder) -> None:
    """Let the graph write what was put in the place of buffers, and put the old ones back.

    A buffer that several modules hold, or that got another shape or dtype or a gradient, stays replaced.

    Args:
        model: The model, its Python run.
        before: Its buffers before that.
        recorder: Writes the graph.
    """
    holders = [id(tensor) for tensor in (*before.values(), *_attributes(model))]
    for module in model.modules():
        for name, new in module._buffers.items():
            old = before.get((id(module), name))
            if old is None or new is None or new is old or holders.count(id(old)) > 1:
                continue
            if (
                recorder.values.is_the_same(new, old)
                or not _fits(new, old)
                or not recorder.values.is_known(new)
            ):
                continue
            _record(old, new, recorder)
            module._buffers[name] = old


def _attributes(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))


def _fits(new: torch.Tensor, old: torch.Tensor) -> bool:
    is_alike = new.shape == old.shape and new.dtype is old.dtype and new.device == old.device
    return is_alike and not new.requires_grad and not old.requires_grad


def _record(old: torch.Tensor, new: torch.Tensor, recorder: Recorder) -> None:
    program, values = recorder.program, recorder.values
    source, fqn = values.node_of(new), values.owned_among([old])[0][0]
    without_gradient = Region(grad_enabled=False)
    attribute = values.attribute(old)
    with program.graph.inserting_after(attribute):
        kept = program.graph.call_function(torch.clone, (attribute,))
    attribute.replace_all_uses_with(kept, delete_user_cb=lambda user: user is not kept)
    if values.node_of(old) is attribute:
        values.know(old, kept)
    program.describe(kept, "kept", old, region=without_gradient, buffers=(fqn,), fqn=fqn.rpartition(".")[0])
    node = program.graph.call_function(replaced, (attribute, source))
    program.describe(node, "replaced", old, region=without_gradient, buffers=(fqn,), writes=(fqn,))
    program.effects.uses_attribute(fqn, kept.name, changes=False)
    program.effects.uses_attribute(fqn, node.name, changes=True)
    program.effects.reads(storage_of(new), node.name)
