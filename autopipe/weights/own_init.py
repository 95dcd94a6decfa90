"""Runs the initialisation that a model brings with it, for some of its tensors.

::

    1.  module.reset_parameters()  or  module._reset_parameters()           torch's way
    2.  owner._init_weights(module)   the nearest module around that has it   transformers' way

first 1 for all modules, then 2 for all, the inner ones before the outer ones, as constructors do it.
The random numbers of a tensor depend on the seed and on the tensor's name alone: not on the stages, nor on
which process draws them. So tied tensors and their replicas get the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class KeyedDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Seeds the generators before every draw into a tensor that has a name, by that name.

    Args:
        seed: Of the initialisation.
        device: Whose generator is seeded besides the CPU's.
        names: Storage -> name.
    """

    def __init__(self, seed: int, device: torch.device, names: Mapping[int, str]) -> None:
        """Start before the first draw."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed, self._names, self._drawn = seed, names, Counter[str]()
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            self._generators.append(torch.cuda.default_generators[device.index or 0])

    def seed_by(self, key: str) -> None:
        """Seed the generators by the next number of a key."""
        self._drawn[key] += 1
        text = f"{self._seed},{key},{self._drawn[key]}"
        number = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        for generator in self._generators:
            generator.manual_seed(number)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and args and isinstance(args[0], torch.Tensor):
            name = self._names.get(args[0].untyped_storage()._cdata)
            if name is not None:
                self.seed_by(name)
        return func(*args, **(kwargs or {}))


def run_own_init(model: nn.Module, modules: Sequence[tuple[str, nn.Module]], draws: KeyedDraws) -> None:
    """Initialise modules as their model does it.

    Args:
        model: The model.
        modules: FQN and module, outer ones before inner ones.
        draws: Seeds what they draw.
    """
    inner_first = list(reversed(modules))
    with torch.no_grad(), draws:
        for fqn, module in inner_first:
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                draws.seed_by(f"module {fqn}")
                reset()
        for fqn, module in inner_first:
            init_weights = _init_weights_around(model, fqn)
            if init_weights is not None:
                draws.seed_by(f"module {fqn}")
                init_weights(module)


def _init_weights_around(model: nn.Module, fqn: str) -> Callable[[nn.Module], Any] | None:
    """Return the ``_init_weights`` of the nearest module that has one: this one, or one around it."""
    names = fqn.split(".") if fqn else []
    for end in range(len(names), -1, -1):
        around = model.get_submodule(".".join(names[:end]))
        init_weights: Callable[[nn.Module], Any] | None = getattr(around, "_init_weights", None)
        if callable(init_weights):
            return init_weights
    return None
