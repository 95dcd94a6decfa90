"""Runs part of a stage under other modes than the rest: ``no_grad``, inference mode, autocast.

In the graph of a stage a run of nodes of one region stands between two calls::

    enter_region = autopipe.rewrite.regions.enter_region(False, False, ())
    ...
    leave_region = autopipe.rewrite.regions.leave_region()

An exception in between would leave the modes on, so that whoever calls a stage does it inside
``closing_regions``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import fx

__all__ = ["closing_regions", "enter_region", "leave_region"]


class _Open(threading.local):
    """The regions that are open in this thread, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[ExitStack] = []


_open = _Open()


def enter_region(grad_enabled: bool, inference: bool, autocast: tuple[tuple[str, str], ...]) -> None:
    """Turn on the modes of a region, until ``leave_region``.

    Args:
        grad_enabled: Whether autograd records.
        inference: Whether inference mode is on.
        autocast: (device type, dtype name) of each autocast that is on; the others are off.
    """
    stack = ExitStack()
    _open.stack.append(stack)
    if inference != torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(inference))
    stack.enter_context(torch.set_grad_enabled(grad_enabled))
    on = dict(autocast)
    for device_type in sorted(on.keys() | _autocasts_on()):
        dtype = getattr(torch, on[device_type]) if device_type in on else None
        stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=device_type in on))


def leave_region() -> None:
    """Turn the modes back to what they were before the last ``enter_region``."""
    _open.stack.pop().close()


@contextmanager
def closing_regions() -> Iterator[None]:
    """Leave every region that was entered inside and not left, as an exception would have it."""
    depth = len(_open.stack)
    try:
        yield
    finally:
        while len(_open.stack) > depth:
            leave_region()


def _autocasts_on() -> set[str]:
    return {device_type for device_type in ("cpu", "cuda") if torch.is_autocast_enabled(device_type)}


for _function in (enter_region, leave_region):
    fx.node.has_side_effect(_function)
