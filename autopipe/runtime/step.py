"""What one step is about, known before its first action, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from autopipe.ir.schedule import Transfer
from autopipe.ir.stages import StagedModel
from autopipe.rewrite.gradients import values_with_gradient
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


def transfers_of(
    batch: Microbatches, trained: frozenset[str], objective: Objective | None, wants_output: bool
) -> tuple[Transfer, ...]:
    """Return what crosses between stages in a step; outputs that nobody asked for stay home.

    Args:
        batch: The microbatches; a value that only some of their splits send is sent empty by the others.
        trained: FQNs of the parameters with ``requires_grad``.
        objective: The loss; None for a forward.
        wants_output: Whether the outputs are returned.

    Returns:
        One entry a value and reading stage, in program order. Bytes are those at the sizes of the example.
    """
    found: dict[tuple[str, int, int], Transfer] = {}
    for split in {id(staged): staged for staged in batch.staged}.values():
        leaves = zip(split.traced.inputs, batch.tensors, strict=True)
        inputs = {leaf.name for leaf, tensor in leaves if tensor.requires_grad}
        flows = values_with_gradient(split.traced, trained | inputs)
        needed = _needed_outputs(split, objective, wants_output)
        for stage in split.stages:
            for port in stage.send:
                if port.output_only and port.value not in needed:
                    continue
                nbytes = port.spec.nbytes(split.traced.sizes)
                back = max(1, nbytes) if port.value in flows else 0
                transfer = Transfer(port.value, stage.index, port.peer, nbytes, back)
                found.setdefault((port.value, stage.index, port.peer), transfer)
    return tuple(found.values())


def _needed_outputs(staged: StagedModel, objective: Objective | None, wants_output: bool) -> set[str | None]:
    names = staged.traced.out_names
    if objective is not None and objective.own_leaf is not None and not wants_output:
        return {names[objective.own_leaf]}
    return set(names)
