"""The arguments of a call, of which each rank may give a part: what none of its stages reads may be None.

::

    rank 0    step(ids, labels=None)   ─┐
                                        ├─►  step(ids, labels) on both; what a rank lacks is a stand-in of the
    rank 1    step(None, labels)       ─┘    same shape and dtype, which only its microbatches are counted by
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from autopipe.errors import PlanMismatchError
from autopipe.ir.key_paths import children_with_paths
from autopipe.ir.structure import Structure, map_tensors
from autopipe.trace.dim_order import dim_order, empty_in_order


def described(value: Any) -> Any:
    """Return the value with meta tensors in the places of its tensors: all that other ranks must know."""
    return map_tensors(_description, value)


def merged(values: Sequence[Any]) -> Any:
    """Put together what the ranks gave.

    Args:
        values: ``[n_ranks]`` described arguments.

    Returns:
        The whole, described.

    Raises:
        PlanMismatchError: Naming the argument, and how two ranks differ in it.

    Example:
        >>> merged([{"ids": 1, "labels": None}, {"ids": None, "labels": 2}])
        {'ids': 1, 'labels': 2}
    """
    whole, giver = values[0], 0
    for rank, value in enumerate(values[1:], start=1):
        whole = _merge(whole, value, "", (giver, rank))
    return whole


def completed(whole: Any, own: Any) -> tuple[Any, list[torch.Tensor]]:
    """Fill what this rank lacks with stand-ins.

    Args:
        whole: What all ranks gave, described.
        own: What this rank gave.

    Returns:
        The arguments, and the stand-ins among their tensors.
    """
    stand_ins: list[torch.Tensor] = []

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        order = dim_order(tensor)
        made = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        if order:
            made = empty_in_order(tensor.shape, order, tensor.dtype, torch.device("cpu"))
        stand_ins.append(made.requires_grad_(tensor.requires_grad))
        return made

    def fill(part: Any, mine: Any) -> Any:
        if mine is None:
            return map_tensors(stand_in, part)
        keys, children, tree = _opened(part)
        if tree is None:
            return mine
        own_children = dict(zip(*_opened(mine)[:2], strict=True))
        return pytree.tree_unflatten(
            [fill(child, own_children.get(key)) for key, child in zip(keys, children, strict=True)], tree
        )

    return fill(whole, own), stand_ins


def _description(tensor: Any) -> torch.Tensor:
    made = empty_in_order(tuple(tensor.shape), dim_order(tensor), tensor.dtype, torch.device("meta"))
    return made.requires_grad_(tensor.requires_grad)


def _opened(value: Any) -> tuple[list[str], list[Any], Any]:
    """Return keys and values one level down, and how to put values there; no tree for a leaf."""
    paths, children, tree = children_with_paths(value)
    return ([], [], None) if tree.is_leaf() else (paths, children, tree)


def _merge(one: Any, other: Any, path: str, ranks: tuple[int, int]) -> Any:
    if one is None or other is None:
        return other if one is None else one
    keys, children, tree = _opened(one)
    _, other_children, other_tree = _opened(other)
    if tree is None and other_tree is None:
        if _differ(one, other):
            raise _mismatch(path, one, other, ranks)
        return one
    if isinstance(one, dict) and type(one) is type(other):
        names = dict.fromkeys([*one, *other])
        both = {name: _merge(one.get(name), other.get(name), f"{path}[{name!r}]", ranks) for name in names}
        return type(one)(both)
    if tree != other_tree:
        raise _mismatch(path, one, other, ranks)
    pairs = zip(keys, children, other_children, strict=True)
    return pytree.tree_unflatten([_merge(a, b, path + key, ranks) for key, a, b in pairs], tree)


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _shown(one) != _shown(other)
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return True
    if Structure.of(one)[1] or Structure.of(other)[1]:
        return pickle.dumps(one) != pickle.dumps(other)
    return type(one) is not type(other) or not (one == other or pickle.dumps(one) == pickle.dumps(other))


def _mismatch(path: str, one: Any, other: Any, ranks: tuple[int, int]) -> PlanMismatchError:
    return PlanMismatchError(
        f"the ranks give different arguments: {path or 'all of them'}.",
        f"{_shown(one)} on rank {ranks[0]}, {_shown(other)} on rank {ranks[1]}.",
        remedy="make the same call on every rank; None for a tensor that none of the rank's stages reads",
    )


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        marks = ", requires_grad" if value.requires_grad else ""
        marks += f", its dimensions in memory in the order {order}" if (order := dim_order(value)) else ""
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{marks}"
    return repr(value) if isinstance(value, int | float | str) else f"a {type(value).__name__}"
