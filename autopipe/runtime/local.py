"""Messages between stages that live in this process, on one device or several.

On one device the receiver gets the sender's memory: a stage that writes into what it received has copied it
first. Between CUDA devices, and between the CPU and one, the copy runs on streams of its own, so that both
ends compute meanwhile::

    compute of source    ── F1 ──┐ F2 ...           the copy waits for what makes the value,
    copies                       └─ copy ─┐
    compute of target    ...              └─ F1     and its reader waits for the copy
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from autopipe.ir.schedule import Action, Op, Schedule

_Address = tuple[int, int, str, int, str]  # source stage, target stage, value, microbatch, F or B


@dataclass(frozen=True, slots=True)
class _Message:
    """A tensor under way: detached, on the target's device once ``copied`` has happened."""

    tensor: torch.Tensor | None
    requires_grad: bool
    copied: torch.cuda.Event | None


class LocalTransport:
    """Carries messages between the stages of one process.

    Args:
        devices: ``[n_stages]`` where each stage lives.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        """Start with nothing under way."""
        self._devices = tuple(devices)
        self._under_way: dict[_Address, _Message] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def rows_here(self, schedule: Schedule) -> Sequence[int]:
        """Return all ranks: one thread runs every row."""
        return range(schedule.n_ranks)

    def send(self, action: Action, tensor: torch.Tensor | None) -> None:
        """Start the copy to the device of the receiving stage."""
        self._under_way[_address(action)] = self._message(action, tensor)

    def is_ready(self, action: Action) -> bool:
        """Whether the message was sent."""
        return _address(action) in self._under_way

    def receive(self, action: Action) -> torch.Tensor | None:
        """Return the tensor; the receiver's device will have it before it computes with it."""
        message = self._under_way.pop(_address(action))
        if message.tensor is None:
            return None
        if message.copied is not None:
            _wait_for(message.copied, message.tensor)
        return message.tensor.requires_grad_(message.requires_grad)

    def clear(self) -> None:
        """Forget what is under way."""
        self._under_way.clear()

    def _message(self, action: Action, tensor: torch.Tensor | None) -> _Message:
        if tensor is None:
            return _Message(None, False, None)
        assert action.peer is not None
        requires_grad = tensor.requires_grad and action.carries == "F"
        source, target = self._devices[action.stage], self._devices[action.peer]
        if source == target or "cuda" not in (source.type, target.type):
            return _Message(_detached(tensor, target), requires_grad, None)
        return self._copied_aside(tensor, source, target, requires_grad)

    def _copied_aside(
        self, tensor: torch.Tensor, source: torch.device, target: torch.device, requires_grad: bool
    ) -> _Message:
        """Copy on side streams of both ends: a copy makes the current streams of both wait for each other."""
        streams = [self._stream(device) for device in (target, source) if device.type == "cuda"]
        if source.type == "cuda":
            streams[-1].wait_stream(torch.cuda.current_stream(source))
        with ExitStack() as side:
            for stream in streams:
                side.enter_context(torch.cuda.stream(stream))
            copy = tensor.detach().to(target, non_blocking=True)
        if tensor.is_cuda:
            tensor.record_stream(streams[-1])
        return _Message(copy, requires_grad, streams[0].record_event())

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]


def _address(action: Action) -> _Address:
    assert action.peer is not None
    assert action.value is not None
    assert action.microbatch is not None
    assert action.carries is not None
    ends = (action.stage, action.peer) if action.op is Op.SEND else (action.peer, action.stage)
    return (*ends, action.value, action.microbatch, action.carries)


def _detached(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    detached = tensor.detach()
    return detached if tensor.device.type == device.type else detached.to(device)


def _wait_for(copied: torch.cuda.Event, tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        stream = torch.cuda.current_stream(tensor.device)
        stream.wait_event(copied)
        tensor.record_stream(stream)
    else:
        copied.synchronize()
