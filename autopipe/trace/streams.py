"""Random numbers that torch does not draw: Python's and numpy's. A graph cannot draw them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from autopipe.errors import CaptureError


def _state() -> tuple[Any, bytes, int]:
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), int(position)


@contextmanager
def refusing_draws() -> Iterator[None]:
    """Raise CaptureError if what runs inside draws, for its graph would draw the same for ever."""
    before = _state()
    yield
    if _state() != before:
        raise CaptureError(
            "the forward draws from Python's or numpy's random numbers, which a graph would freeze.",
            remedy="draw with torch, or in a module inside the model, which is then kept whole.",
        )


@contextmanager
def kept_streams() -> Iterator[None]:
    """Put both streams back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
