"""The model that an engine trains, as the engine shows it: parameters, modes and state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import nn

from autopipe.runtime.checkpoint import load_state, state_of

_SEED_BITS = (1 << 63) - 1  # a state dict holds the seed as int64


class HeldModel:
    """The user's model, and where its random numbers are.

    Args:
        model: The model.
        seed: Of its random numbers.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        """Start at step 0."""
        self._model = model
        self._seed, self._step = seed & _SEED_BITS, 0

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the model's own parameters, each once; replicas of tied ones are not among them."""
        return self._model.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the model's own parameters with their FQNs."""
        return self._model.named_parameters()

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        """Clip the norm of all gradients together, as ``torch.nn.utils.clip_grad_norm_`` does.

        Args:
            max_norm: The norm that they have at most afterwards.
            norm_type: Of which p-norm; may be infinity.

        Returns:
            The norm before.
        """
        return nn.utils.clip_grad_norm_(self.parameters(), max_norm, norm_type)

    def train(self, mode: bool = True) -> Self:
        """Set the model's modules to train mode, or eval mode."""
        self._model.train(mode)
        return self

    def eval(self) -> Self:
        """Set the model's modules to eval mode."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return the model's state dict, and ``_autopipe.seed`` and ``_autopipe.step``.

        The two entries more continue the random numbers where they were.

        Returns:
            FQN -> tensor.
        """
        return state_of(self._model, self._seed, self._step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state_dict`` gave, or the plain model's own state dict, which leaves seed and step.

        Args:
            state: FQN -> tensor.

        Raises:
            RuntimeError: By torch, if the tensors do not fit the model.
        """
        seed, step = load_state(self._model, state)
        self._seed = self._seed if seed is None else seed
        self._step = self._step if step is None else step
