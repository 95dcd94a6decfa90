"""The models of models/ with fewer blocks, for tests in which every block shows the same thing.

A capture takes time for every operation, so that half of the blocks are half of the time. Each model keeps
all its kinds of layers, and enough of them for three stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from models import protocol
from models.protocol import Batch, ModelFile

SIZES = MappingProxyType(
    {
        "gpt": {"n_blocks": 2},
        "llama_like": {"n_layers": 2},
        "unet": {"n_levels": 2},
        "tied_lm": {"n_repeats": 2},
        "two_tower": {"n_blocks": 2},
        "mixture_of_experts": {"n_blocks": 2},
        "encoder_decoder": {"n_blocks": 1},
        "lstm": {"n_layers": 3, "context": 5},
    }
)


@dataclass(frozen=True)
class Shallow:
    """A model file whose functions take a smaller size by default."""

    file: ModelFile
    size: dict[str, int]

    @property
    def __name__(self) -> str:
        return self.file.__name__

    def build(self, **size: Any) -> nn.Module:
        return self.file.build(**self.size | size)

    def example(self, batch: int = 4, **how: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.file.example(batch, **self.size | how)

    def make_batch(self, n: int, **how: Any) -> Batch:
        return self.file.make_batch(n, **self.size | how)

    def loss(self, output: Any, target: Any = None) -> Tensor:
        return self.file.loss(output, target)


def load(name: str) -> Shallow:
    """As ``models.protocol.load``."""
    return Shallow(protocol.load(name), SIZES.get(name, {}))
