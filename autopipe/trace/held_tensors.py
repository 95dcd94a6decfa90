"""Plain tensors that a leaf holds, no parameters or buffers: who writes one shares a stage with its readers.

::

    self.seen = torch.zeros(6)          an attribute like any other for torch.nn
    self.seen.add_(x.mean(0))           and another number in the next microbatch
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Set

import torch
from torch import fx, nn

from autopipe.trace.effects import storage_of
from autopipe.trace.leaf_use import LeafUse
from autopipe.trace.program import Program
from autopipe.trace.values import Values


def note_held_tensors(
    program: Program,
    values: Values,
    node: fx.Node,
    held: Collection[torch.Tensor],
    written: Set[int],
    leaf: LeafUse | None,
) -> list[str]:
    """Note which plain tensors a leaf reads and writes.

    Args:
        program: The graph.
        values: Names the tensors.
        node: The leaf.
        held: The tensors.
        written: The memory that the leaf writes.
        leaf: What it has inside; None: it is no leaf, and its tensors are arguments.

    Returns:
        The names of those that it writes, by their place in the model where they are attributes.
    """
    names: list[str] = []
    if leaf is None or leaf.module is None:
        return names
    for tensor in held:
        constant = values.constant_of(tensor)
        changes = storage_of(tensor) in written
        program.effects.uses_attribute(constant, node.name, changes=changes)
        if changes:
            name = next(_places(str(node.target), leaf.module, tensor), constant)
            program.written_tensors[name] = tensor
            names.append(name)
    return names


def _places(fqn: str, leaf: nn.Module, tensor: torch.Tensor) -> Iterator[str]:
    """Yield the names under which a leaf and its children hold a plain tensor."""
    return (
        ".".join(part for part in (fqn, inner, name) if part)
        for inner, module in leaf.named_modules()
        for name, value in vars(module).items()
        if value is tensor
    )
