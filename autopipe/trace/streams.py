"""Random numbers that torch does not draw: Python's and numpy's. A graph cannot draw them."""

from __future__ import annotations

import dis
import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import nn

from autopipe.errors import CaptureError
from autopipe.trace.source import line_of_code


def streams() -> tuple[Any, bytes, int]:
    """Return where Python's and numpy's random numbers are."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), int(position)


@contextmanager
def refusing_draws(module: nn.Module) -> Iterator[None]:
    """Raise CaptureError if what runs inside draws, for its graph would draw the same for ever.

    Args:
        module: Whose forward runs inside.

    Raises:
        CaptureError: With the line that draws.
    """
    before = streams()
    yield
    if streams() != before:
        raise CaptureError(
            "the forward draws from Python's or numpy's random numbers, which a graph would freeze.",
            where=_line_that_draws(module),
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


def _line_that_draws(module: nn.Module) -> str:
    """Return the first line that names a source of random numbers, in a forward and what it calls nearby.

    The call is over by then, so the line is read off the code; that of ``forward`` itself if none is found.
    """
    forward = inspect.unwrap(module.forward)
    first = getattr(forward, "__func__", forward)
    todo, seen = [first], {first}
    for function in todo:
        line = _drawing_line(function.__code__, function.__globals__)
        if line is not None:
            return line_of_code(function.__code__, line)
        nearby = (
            found
            for name in function.__code__.co_names
            for found in (getattr(type(module), name, None), function.__globals__.get(name))
        )
        for found in nearby:
            if isinstance(found, FunctionType) and found.__module__ == first.__module__ and found not in seen:
                seen.add(found)
                todo.append(found)
    return line_of_code(first.__code__, first.__code__.co_firstlineno)


def _drawing_line(code: CodeType, names: dict[str, Any]) -> int | None:
    known = dict(names)
    for step, following in pairwise(dis.get_instructions(code)):
        if step.opname == "IMPORT_NAME":
            known[following.argval] = sys.modules.get(step.argval)
        value = known.get(step.argval) if step.opname in ("LOAD_GLOBAL", "LOAD_FAST") else None
        if value is np and following.argval == "random":
            value = np.random
        if step.positions is not None and _is_source(value):
            return step.positions.lineno
    return None


def _is_source(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return value is random or value is np.random
    return isinstance(getattr(value, "__self__", None), random.Random | np.random.RandomState)
