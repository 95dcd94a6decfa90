"""The part of a model that the engine of one rank trains: what its stages own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from autopipe.runtime.checkpoint import load_part, part_of
from autopipe.runtime.held_model import HeldModel
from autopipe.runtime.shares import Shares


class HeldPart(HeldModel):
    """A ``HeldModel`` that shows what this rank owns, and nothing else."""

    _shares: Shares

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that this rank's stages own, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters that this rank's stages own, with the model's FQNs."""
        return self._shares.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's part of the model's state dict, and ``_autopipe.seed`` and ``_autopipe.step``.

        A tied tensor is there under every FQN that the model has for it, on its owner's rank;
        ``torch.distributed.checkpoint`` puts the parts together.

        Returns:
            FQN -> tensor.
        """
        return part_of(self._model, self._shares.names_here(), self._seed, self._step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state_dict`` gave, or the whole model's state dict.

        Args:
            state: FQN -> tensor; what other ranks own may be missing.

        Raises:
            ArgumentError: If a tensor that this rank owns is missing.
            RuntimeError: By torch, if the tensors do not fit the model.
        """
        seed, step = load_part(self._model, self._shares.names_here(), state)
        self._seed = self._seed if seed is None else seed
        self._step = self._step if step is None else step
