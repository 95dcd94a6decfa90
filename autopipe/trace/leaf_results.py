"""Nodes behind a leaf: one that checks its result, and one for each tensor that it left in an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from autopipe.ir.structure import Structure
from autopipe.trace.fx_arguments import FxArguments
from autopipe.trace.glue import Expected
from autopipe.trace.hidden_results import HiddenResult, Left, state_of
from autopipe.trace.program import Program


def take_hidden(
    program: Program,
    arguments: FxArguments,
    node: fx.Node,
    hidden: Sequence[HiddenResult],
    *,
    is_learnt: bool,
) -> None:
    """Bind every tensor that a leaf has put into an object.

    Args:
        program: The graph.
        arguments: Knows which node each tensor stands for.
        node: The leaf.
        hidden: The tensors.
        is_learnt: Whether the leaf was learnt by trial, so that a run has to check them.
    """
    for result in hidden:
        if arguments.values.is_known(result.tensor):
            continue
        learnt = program.spec(result.tensor) if is_learnt else None
        take = Left(str(node.target), result.index, result.n_tensors, learnt)
        sizes = arguments.sizes_of([result.tensor]) if learnt else {}
        leaf = program.graph.call_function(take, (result.holder, node), sizes)
        program.describe(leaf, "left", result.tensor, region=program.info[node.name].region)
        arguments.values.know(result.tensor, leaf)


def checked(
    program: Program,
    arguments: FxArguments,
    node: fx.Node,
    out: Any,
    learnt_for: str | None,
    objects: Sequence[tuple[fx.Node, Any]],
) -> fx.Node:
    """Let the stage check that the result of a leaf is as the graph expects it.

    Args:
        program: The graph.
        arguments: Knows the nodes of symbolic sizes.
        node: The leaf.
        out: What it returned.
        learnt_for: Why it was learnt by trial; None: it was not.
        objects: The objects among its arguments as they are after the call, and the nodes that make them.

    Returns:
        The node of the result, checked.
    """
    structure, holes = Structure.of(out)
    tensors = [hole for hole in holes if isinstance(hole, torch.Tensor)]
    specs = tuple(map(program.spec, tensors))
    changed = dict(objects) if learnt_for is not None else {}
    states = tuple(map(state_of, changed.values()))
    expected = Expected(str(node.target), structure, specs, learnt_for, states)
    check = program.graph.call_function(expected, (node, *changed), arguments.sizes_of(tensors))
    known = program.info[node.name]
    program.describe(check, "check", out, region=known.region, source=known.source)
    return check
