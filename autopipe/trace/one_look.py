"""One look at the state of a model for several signatures, where nothing can have changed in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

State = tuple[tuple[str, Any], ...]


class _Seen(threading.local):
    """What this thread saw since the look began; None outside of one."""

    def __init__(self) -> None:
        self.states: dict[nn.Module, State] | None = None


_seen = _Seen()


@contextmanager
def one_look() -> Iterator[None]:
    """Read the state of a model once for all signatures taken inside; who changes it calls ``look_again``."""
    before, _seen.states = _seen.states, {}
    try:
        yield
    finally:
        _seen.states = before


def look_again() -> None:
    """Forget what was read of all models: something was set."""
    if _seen.states is not None:
        _seen.states.clear()


def seen(model: nn.Module, read: Callable[[nn.Module], State]) -> State:
    """Return the state of a model, read now or earlier in the same look."""
    if _seen.states is None:
        return read(model)
    if model not in _seen.states:
        _seen.states[model] = read(model)
    return _seen.states[model]
