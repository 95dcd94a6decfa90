"""Measures when every action of a step ran."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from autopipe.ir.schedule import Action
from autopipe.ir.timeline import Span, Timeline

Stamp = float | torch.cuda.Event


@dataclass(slots=True)
class Stopwatch:
    """The times of one step, read cheaply: on CUDA as events, which nobody waits for before ``timeline``."""

    _origins: dict[torch.device, Stamp] = field(default_factory=dict)
    _taken: list[tuple[int, Action, torch.device, Stamp, Stamp]] = field(default_factory=list)

    def now(self, device: torch.device) -> Stamp:
        """Return a stamp of this moment in the work of a device."""
        stamp: Stamp
        if device.type == "cuda":
            stamp = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            stamp.record(torch.cuda.current_stream(device))
        else:
            stamp = time.perf_counter() * 1e3
        self._origins.setdefault(device if device.type == "cuda" else torch.device("cpu"), stamp)
        return stamp

    def took(self, rank: int, action: Action, device: torch.device, start: Stamp) -> None:
        """Note that an action ran from ``start`` until now."""
        self._taken.append((rank, action, device, start, self.now(device)))

    def timeline(self, n_ranks: int) -> Timeline:
        """Return the spans; the clock of each device starts with its first action."""
        spans = [
            Span(
                rank,
                action.stage,
                action.op,
                action.microbatch,
                self._since_origin(device, start),
                self._since_origin(device, end),
                str(action),
            )
            for rank, action, device, start, end in self._taken
        ]
        return Timeline(tuple(spans), n_ranks)

    def _since_origin(self, device: torch.device, stamp: Stamp) -> float:
        origin = self._origins[device if device.type == "cuda" else torch.device("cpu")]
        if isinstance(stamp, float):
            assert isinstance(origin, float)
            return stamp - origin
        assert isinstance(origin, torch.cuda.Event)
        stamp.synchronize()
        return float(origin.elapsed_time(stamp))
