"""How a user would write each leaf of a pytree: ``['tokens'][0]``.

torch's ``tree_flatten_with_path`` refuses a class that was registered without ``flatten_with_keys_fn``, as
the outputs of diffusers are. Its children are named by their keys if it is a mapping, else by their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils import _pytree as pytree


def leaves_with_paths(value: Any) -> list[tuple[str, Any]]:
    """Return every leaf of a pytree and its path, in the order of ``tree_leaves``.

    Args:
        value: Any Python value.

    Complexity: linear in the size of the value.

    Example:
        >>> leaves_with_paths({"a": [1, 2], "b": None})
        [("['a'][0]", 1), ("['a'][1]", 2), ("['b']", None)]
    """
    try:
        return [(pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(value)[0]]
    except ValueError:
        return list(_walk("", value))


def children_with_paths(value: Any) -> tuple[list[str], list[Any], Any]:
    """Return what a container holds directly: paths, children, and the tree that puts them together again.

    Args:
        value: Any Python value; what is no container holds itself, under "".

    Example:
        >>> paths, children, tree = children_with_paths({"a": [1, 2], "b": None})
        >>> paths, children, pytree.tree_unflatten([3, 4], tree)
        (["['a']", "['b']"], [[1, 2], None], {'a': 3, 'b': 4})
    """
    children, tree = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    try:
        pairs, _ = pytree.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    except ValueError:
        keys = list(value) if isinstance(value, Mapping) and len(value) == len(children) else None
        return [f"[{key!r}]" for key in keys or range(len(children))], children, tree
    return [pytree.keystr(path) for path, _ in pairs], children, tree


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    paths, children, tree = children_with_paths(value)
    if tree.is_leaf():
        yield path, value
        return
    for inner, child in zip(paths, children, strict=True):
        yield from _walk(path + inner, child)
