"""Names the first value that differs between two runs of one graph."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from autopipe.ir.stages import StagedModel
from autopipe.verify.numbers import distance_of
from autopipe.verify.recorded import Recorded

Distances = Mapping[str, Mapping[str, tuple[float, bool]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where two runs part.

    Args:
        what: The value and its error, a sentence.
        where: Stage, module and source line, or "".
    """

    what: str
    where: str = ""


def first_difference(staged: StagedModel, found: Recorded, expected: Recorded, distances: Distances) -> Place:
    """Find where two runs part.

    Args:
        staged: The stages; their capture is the program.
        found: The values of the one run.
        expected: The values of the other.
        distances: What differs of the results.

    Returns:
        The first value in program order that differs; else, against program order, the first gradient; else
        the parameter, buffer or output that differs.
    """
    names = [node.name for node in staged.traced.compute_nodes()]
    forward = _first(names, {name: _distance(found, expected, name) for name in names})
    if forward is not None:
        name, error = forward
        return Place(f"{name} is the first value that differs, {_size(error)}.", described(staged, name))
    backwards = [name for name in reversed(names) if name in expected.gradients or name in found.gradients]
    gradient = _first(
        backwards,
        {n: distance_of(found.gradients.get(n), expected.gradients.get(n)) for n in backwards},
        only_beyond_rounding=True,
    )
    if gradient is not None:
        name, error = gradient
        return Place(
            f"the gradient of {name} is the first that differs on the way back, {_size(error)}.",
            described(staged, name),
        )
    return _result(staged, distances)


def described(staged: StagedModel, name: str) -> str:
    """Say where a node is: its stage, its module, and the line of the user's code.

    Args:
        staged: The stages.
        name: A node of their capture.
    """
    info = staged.traced.info[name]
    module = staged.traced.modules.get(info.fqn)
    kind = f", a {type(module).__name__}" if module is not None else ""
    stage = staged.stage_of.get(name)
    lines = [f"in stage {stage}, {info.fqn or 'the model itself'}{kind}"]
    if info.source:
        file, _, line = info.source.rpartition(":")
        text = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
        lines.append(f"at {info.source}:  {text}" if text else f"at {info.source}")
    return "\n".join(lines)


def _distance(found: Recorded, expected: Recorded, name: str) -> tuple[float, bool] | None:
    ours, theirs = found.values.get(name), expected.values.get(name)
    if theirs is None:
        return None
    if ours is None or len(ours) != len(theirs):
        return float("inf"), True
    each = [distance_of(one, other) for one, other in zip(ours, theirs, strict=True)]
    return max((distance for distance in each if distance is not None), default=None)


def _first(
    names: Iterable[str],
    distances: Mapping[str, tuple[float, bool] | None],
    *,
    only_beyond_rounding: bool = False,
) -> tuple[str, float] | None:
    """Return the first that is beyond rounding; if none is, the first that is not bitwise equal."""
    differing = [(name, distance) for name in names if (distance := distances[name]) is not None]
    beyond = [(name, error) for name, (error, too_far) in differing if too_far]
    if beyond or only_beyond_rounding:
        return beyond[0] if beyond else None
    return (differing[0][0], differing[0][1][0]) if differing else None


def _result(staged: StagedModel, distances: Distances) -> Place:
    """Name a result that differs though no value inside does: a gradient or a write that went elsewhere."""
    for kind, named in distances.items():
        for name, (error, too_far) in named.items():
            if too_far:
                node = _node_with(staged, name)
                what = name if kind == "loss" else f"{kind} {name}"
                return Place(
                    f"{what} differs, {_size(error)}, though no value on the way does.",
                    described(staged, node) if node else "",
                )
    return Place("the two runs differ, but not when they are run again node by node.")


def _node_with(staged: StagedModel, fqn: str) -> str | None:
    """Return the first node that reads a parameter or buffer."""
    traced = staged.traced
    return next(
        (
            node.name
            for node in traced.compute_nodes()
            if fqn in (*traced.info[node.name].parameters, *traced.info[node.name].buffers)
            or any(argument.op == "get_attr" and argument.target == fqn for argument in node.all_input_nodes)
        ),
        None,
    )


def _size(error: float) -> str:
    if error == torch.inf:
        return "in shape, or by a value that is missing or not finite"
    return f"by {error:.1e} of its largest entry"
