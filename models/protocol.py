"""What every model file offers, so that tests and benchmarks treat all of them alike."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from models import NAMES

__all__ = ["Batch", "ModelFile", "load"]


class Batch(NamedTuple):
    """One batch of made-up data: `model(*args, **kwargs)` is the output that `loss(output, target)` judges.

    Every tensor in it carries the batch in its first dimension. `target` is a tensor, a dict of tensors, or
    None for a model that takes its labels as an argument and returns its own loss.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any


class ModelFile(Protocol):
    """The four functions of a model file.

    All that take `**size` take the same keywords, the fields of the file's `Config`, so what
    `example(width=32)` draws fits what `build(width=32)` builds.
    """

    __name__: str

    def build(self, **size: Any) -> nn.Module:
        """Build the model in train mode, on the CPU, from torch's default generator (seed it first)."""
        ...

    def example(
        self, batch: int = 4, *, seed: int = 0, **size: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Draw the arguments of one microbatch; equal seeds draw equal numbers."""
        ...

    def make_batch(self, n: int, *, seed: int = 0, **size: Any) -> Batch:
        """Draw `n` samples with their target; `example(n, seed=seed)` gives the same arguments."""
        ...

    def loss(self, output: Any, target: Any = None) -> Tensor:
        """Reduce one output to a scalar, a mean: over the samples, in `encoder_decoder` over the labels."""
        ...


def load(name: str) -> ModelFile:
    """Import one model file.

    Args:
        name: one of `models.NAMES`.

    Returns:
        The module, which follows `ModelFile`.

    Raises:
        ValueError: when no model has that name.

    Example:
        >>> resnet = load("resnet")
        >>> args, kwargs, target = resnet.make_batch(2)
        >>> resnet.loss(resnet.build()(*args, **kwargs), target).shape
        torch.Size([])
    """
    if name not in NAMES:
        raise ValueError(f"no model is called {name!r}\n  Try: one of {', '.join(NAMES)}")
    return cast(ModelFile, importlib.import_module(f"models.{name}"))
