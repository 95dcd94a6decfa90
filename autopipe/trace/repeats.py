"""Attributes that the model's Python sets to the same on every call: a graph can do that, and stays right.

transformers' classifiers write ``config.problem_type`` in their first forward, others a flag of what they
have warned of. The capture runs once more from what the first run left behind. If that run sets nothing else
and gives the same graph, all later calls do, so that the write is noted with the graph and made when the
graph is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from autopipe.ir.traced import AttributeWrite, TracedModel


def make(model: nn.Module, writes: Iterable[AttributeWrite], sizes: Mapping[str, int]) -> bool:
    """Set attributes of the model's modules as its forward would; return whether that changed anything.

    Args:
        model: The model.
        writes: What to set.
        sizes: The values of the symbolic sizes.
    """
    changed = False
    for write in writes:
        attributes = vars(model.get_submodule(write.fqn))
        holder, key = attributes, write.name
        if write.key:
            inside = attributes[write.name]
            holder, key = inside if isinstance(inside, dict) else vars(inside), write.key
        now, value = holder.get(key, holder), write.value_at(sizes)
        changed |= type(now) is not type(value) or now != value
        holder[key] = value
    return changed


def why_not_repeatable(
    first: TracedModel, second: TracedModel, writes: Iterable[AttributeWrite], again: Iterable[AttributeWrite]
) -> str:
    """Say why a second call of the model is not like the first, or "" if it is.

    Args:
        first: The capture.
        second: The capture from what the first left behind.
        writes: What the first set.
        again: What the second set.

    Complexity: linear in the size of the graph.
    """
    known = set(map(str, writes))
    moved = [write for write in again if str(write) not in known]
    if moved:
        before = {(write.fqn, write.name, write.key): write for write in writes}
        now = moved[0]
        then = before.get((now.fqn, now.name, now.key))
        once = f"{then.value!r} after one call and " if then else ""
        return f"{now.path} is {once}{now.value!r} after two"
    if _described(first) != _described(second):
        return "the second call does not compute what the first does"
    return ""


def _described(traced: TracedModel) -> list[Any]:
    nodes = [_Described(node) for node in traced.graph.nodes]
    known = [traced.info.get(node.name) for node in traced.graph.nodes]
    sizes = [*traced.derived_sizes.items(), *traced.guards]
    constants = [(name, id(tensor)) for name, tensor in traced.constants.items()]
    return [
        nodes,
        known,
        sizes,
        constants,
        traced.out_structure,
        traced.out_names,
        traced.together,
        traced.order,
    ]


class _Described:
    """A node, equal to that of another graph if it does the same."""

    def __init__(self, node: fx.Node) -> None:
        self._text = (node.op, node.name, str(node.args), str(node.kwargs))
        self._target = node.target

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Described) and self._text == other._text and _same(self._target, other._target)
        )

    __hash__ = None  # type: ignore[assignment]


def _same(one: Any, other: Any) -> bool:
    if one == other:
        return True
    parts = getattr(one, "__dict__", None)
    return type(one) is type(other) and parts is not None and parts == vars(other)
