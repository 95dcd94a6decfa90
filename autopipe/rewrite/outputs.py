"""Puts the values of a run into the places of the model's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from autopipe.ir.traced import TracedModel


def output_leaves(traced: TracedModel, values: Mapping[str, Any]) -> list[Any]:
    """Return what fills ``traced.out_structure``.

    Args:
        traced: The captured model.
        values: Values by name; a leaf whose value is missing becomes None.

    Returns:
        One entry an output leaf; a leaf that no node makes is the plain value that the capture found.
    """
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    leaves = output.args[0][: len(traced.out_names)]  # what is behind them is left in the arguments
    return [values.get(leaf.name) if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
