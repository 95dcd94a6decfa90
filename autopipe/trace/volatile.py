"""Attributes that a leaf's own forward changes, such as a count of its calls, and who else reads them.

A leaf runs its own Python in its stage, so such an attribute is right there. A module seen through that
reads it would have it frozen into the graph, so that module has to be kept whole as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from autopipe.errors import CaptureError
from autopipe.trace.source import line_of_frame

_known: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def mark_volatile(module: nn.Module, name: str) -> bool:
    """Remember that the module's own forward changes an attribute; return whether that is news."""
    names = _known.setdefault(module, set())
    if name in names:
        return False
    names.add(name)
    return True


def volatile_attributes(module: nn.Module) -> Collection[str]:
    """Return the attributes that the module's own forward was seen to change."""
    return _known.get(module, ()) if _known else ()


@contextmanager
def refusing_reads(modules: Collection[nn.Module], is_inside_leaf: Callable[[], bool]) -> Iterator[None]:
    """Raise where anybody but a leaf reads a volatile attribute of these modules.

    Args:
        modules: All modules of the model.
        is_inside_leaf: Whether a leaf is running.

    Raises:
        CaptureError: Inside, at such a read.
    """
    watched = {id(module): _known[module] for module in modules if module in _known}
    if not watched:
        yield
        return

    def __getattribute__(self: nn.Module, name: str) -> Any:
        if id(self) in watched and name in watched[id(self)] and not is_inside_leaf():
            raise CaptureError(
                f"it reads .{name} of a {type(self).__name__}, which changes with every call, and a graph "
                "would freeze it.",
                where=line_of_frame(),
            )
        return object.__getattribute__(self, name)

    nn.Module.__getattribute__ = __getattribute__  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del nn.Module.__getattribute__
