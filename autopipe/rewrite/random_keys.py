"""Tells which random node is about to run, so that its numbers can depend on nothing but its key.

In the graph of a stage a node that draws random numbers stands behind a call::

    enter_key = autopipe.rewrite.random_keys.enter_key('h.0.drop|@h.0.drop|0')
    h_0_drop = getattr(self.h, "0").drop(h_0_mlp)

The call does nothing unless somebody listens in this thread: an engine, which then seeds the generators.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import fx

__all__ = ["enter_key", "enter_key_outside", "listening"]


class _Listener(threading.local):
    """Who is told of keys in this thread."""

    def __init__(self) -> None:
        self.listen: Callable[[str], None] | None = None
        self.listen_outside: Callable[[str], None] | None = None


_listener = _Listener()


def enter_key(key: str) -> None:
    """Say that the random node of this key runs next.

    Args:
        key: The node's identity: module FQN, operation, ordinal of the call.
    """
    if _listener.listen is not None:
        _listener.listen(key)


def enter_key_outside(key: str) -> None:
    """Say that the node of this key runs next, and may draw from Python's or numpy's random numbers.

    Args:
        key: As for ``enter_key``.
    """
    if _listener.listen_outside is not None:
        _listener.listen_outside(key)


@contextmanager
def listening(
    listen: Callable[[str], None], listen_outside: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Tell ``listen`` every key that is entered inside, in this thread.

    Args:
        listen: Called with the key before its node runs.
        listen_outside: Likewise, where the node may draw from Python's or numpy's random numbers.

    Example:
        >>> heard = []
        >>> with listening(heard.append):
        ...     enter_key("drop|0")
        >>> enter_key("drop|1")
        >>> heard
        ['drop|0']
    """
    before = _listener.listen, _listener.listen_outside
    _listener.listen, _listener.listen_outside = listen, listen_outside
    try:
        yield
    finally:
        _listener.listen, _listener.listen_outside = before


fx.node.has_side_effect(enter_key)
fx.node.has_side_effect(enter_key_outside)
