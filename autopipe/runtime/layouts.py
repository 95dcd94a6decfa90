"""The shape and dtype of every message of a step, as the capture knows them on every rank."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from autopipe.errors import ArgumentError
from autopipe.ir.action import Message
from autopipe.ir.stages import Port
from autopipe.runtime.microbatches import Microbatches
from autopipe.runtime.tensor_bytes import NOTHING, Layout


def layouts_of(batch: Microbatches) -> Callable[[Message], Layout]:
    """Return a function that gives the layout of a message.

    Args:
        batch: The microbatches.

    Returns:
        Message -> layout of the value, or of its gradient, which is the same; ``NOTHING`` where the split of
        the microbatch sends no such value, or where the capture cannot tell its shape.
    """

    @cache
    def of(value: str, src: int, microbatch: int) -> Layout:
        sent = batch.staged[microbatch].stages[src].send
        port = next((port for port in sent if port.value == value), None)
        return NOTHING if port is None else _layout(port, batch, microbatch)

    def layout_of(message: Message) -> Layout:
        src = message.src if message.carries == "F" else message.dst
        return of(message.value, src, message.microbatch)

    return layout_of


def _layout(port: Port, batch: Microbatches, microbatch: int) -> Layout:
    try:
        shape = port.spec.concrete_shape(batch.sizes[batch.samples[microbatch]])
    except ArgumentError:
        return NOTHING
    return Layout(shape, getattr(torch, port.spec.dtype))
