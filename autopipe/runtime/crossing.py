"""What crosses between stages in a step, found once for all steps that are alike."""

from __future__ import annotations

from autopipe.ir.schedule import Transfer
from autopipe.ir.stages import StagedModel
from autopipe.rewrite.gradients import values_with_gradient
from autopipe.runtime.losses import Objective
from autopipe.runtime.microbatches import Microbatches


class Crossing:
    """Finds the transfers of a step, and keeps them.

    Args:
        trained: FQNs of the parameters with ``requires_grad``.
    """

    def __init__(self, trained: frozenset[str]) -> None:
        """Start with nothing known."""
        self._trained = trained
        self._known: dict[tuple[object, ...], tuple[tuple[StagedModel, ...], tuple[Transfer, ...]]] = {}

    def forget(self) -> None:
        """Let go of the splits."""
        self._known.clear()

    def transfers(
        self, batch: Microbatches, objective: Objective | None, wants_output: bool
    ) -> tuple[Transfer, ...]:
        """Return what crosses between stages in a step; outputs that nobody asked for stay home.

        Args:
            batch: The microbatches; a value that only some of their splits send is sent empty by the others.
            objective: The loss; None for a forward.
            wants_output: Whether the outputs are returned.

        Returns:
            One entry a value and reading stage, in program order. Bytes are those of the example.
        """
        own_leaf = None if objective is None or wants_output else objective.own_leaf
        splits = tuple({id(staged): staged for staged in batch.staged}.values())
        with_gradient = tuple(tensor.requires_grad for tensor in batch.tensors)
        key = (*map(id, splits), with_gradient, own_leaf)
        if key not in self._known:
            self._known[key] = splits, self._found(splits, with_gradient, own_leaf)
        return self._known[key][1]

    def _found(
        self, splits: tuple[StagedModel, ...], with_gradient: tuple[bool, ...], own_leaf: int | None
    ) -> tuple[Transfer, ...]:
        found: dict[tuple[str, int, int], Transfer] = {}
        for split in splits:
            inputs = {
                leaf.name for leaf, is_on in zip(split.traced.inputs, with_gradient, strict=True) if is_on
            }
            flows = values_with_gradient(split.traced, self._trained | inputs)
            names = split.traced.out_names
            needed = set(names) if own_leaf is None else {names[own_leaf]}
            for stage in split.stages:
                for port in stage.send:
                    if port.output_only and port.value not in needed:
                        continue
                    nbytes = port.spec.nbytes(split.traced.sizes)
                    back = max(1, nbytes) if port.value in flows else 0
                    transfer = Transfer(port.value, stage.index, port.peer, nbytes, back)
                    found.setdefault((port.value, stage.index, port.peer), transfer)
        return tuple(found.values())
