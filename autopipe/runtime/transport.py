"""How values and gradients get from one stage to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from autopipe.ir.schedule import Action, Schedule


class Transport(Protocol):
    """Carries messages for the interpreter, which knows no devices and no processes.

    A message is named by its SEND or RECV action: value, microbatch, both stages, and whether it is the
    value or its gradient. A value arrives as a leaf that requires a gradient if, and only if, the value that
    was sent does.
    """

    def rows_here(self, schedule: Schedule) -> Sequence[int]:
        """Return the ranks whose rows this process runs."""
        ...

    def send(self, action: Action, tensor: torch.Tensor | None) -> None:
        """Send a value, a gradient, or word that there is none; never waits for the receiver."""
        ...

    def is_ready(self, action: Action) -> bool:
        """Whether ``receive`` may be called now; a transport that can wait in ``receive`` is always ready."""
        ...

    def receive(self, action: Action) -> torch.Tensor | None:
        """Return what was sent, usable on the receiving stage's device."""
        ...

    def clear(self) -> None:
        """Forget messages that nobody received, because the step failed."""
        ...
