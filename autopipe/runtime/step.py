"""What one step is about, known before its first action, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from autopipe.ir.schedule import Transfer
from autopipe.runtime.keyed_random import KeyedRandom
from autopipe.runtime.losses import Objective
from autopipe.runtime.microbatches import Microbatches


@dataclass(slots=True)
class Step:
    """One step, or one forward, of the engine.

    Args:
        batch: The microbatches.
        random: The random numbers.
        transfers: What crosses between the stages.
        objective: The loss; None for a forward.
        wants_output: Whether the outputs are kept.
        losses: Microbatch -> its weighted loss, detached; filled by the last stage.
        outputs: Microbatch -> its output leaves, detached; filled by the last stage.
    """

    batch: Microbatches
    random: KeyedRandom
    transfers: tuple[Transfer, ...]
    objective: Objective | None
    wants_output: bool
    losses: dict[int, torch.Tensor] = field(default_factory=dict)
    outputs: dict[int, list[Any]] = field(default_factory=dict)
    sends: list[list[tuple[str, int]]] = field(init=False)

    def __post_init__(self) -> None:
        """Sort the transfers by the stage that sends."""
        self.sends = [[] for _ in range(self.n_stages)]
        for transfer in self.transfers:
            self.sends[transfer.src].append((transfer.value, transfer.dst))

    @property
    def n_stages(self) -> int:
        """How many stages."""
        return len(self.batch.staged[0].stages)

    @property
    def trains(self) -> bool:
        """Whether there are backwards."""
        return self.objective is not None
