"""Builds a model again in the memory of a part of it: with the very numbers that the whole would have.

The constructor runs twice on the CPU, under a dispatch mode that decides for each large tensor, when it is
made, whether it gets memory or is a fake tensor::

    1st run   none does; which of them each parameter and buffer came from is noted
    2nd run   those behind the wanted ones do. A draw into one of the others goes into the same scratch
              memory each time, so that the random stream runs on as it would have

Small tensors are real in both runs, so that a constructor can look at their values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException as LooksAtValues
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autopipe.errors import ArgumentError
from autopipe.weights.held import tensor_now

_LARGE_BYTES = 1 << 16

Build = Callable[[], nn.Module]


class _Selective(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets only some of the large tensors have memory; the others are fake.

    Args:
        wanted: Which, by their number in the order in which they are made; None: none, and what is computed
            from which is noted.
    """

    def __init__(self, wanted: frozenset[int] | None) -> None:
        """Start before the first one is made."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted, self._notes, self._n_made = wanted or frozenset(), wanted is None, 0
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self._sources: dict[int, set[int]] = defaultdict(set)
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._alive: list[Any] = []

    def sources(self, tensor: torch.Tensor) -> set[int]:
        """Return the numbers of the large tensors that a tensor was computed from."""
        return self._sources[tensor.untyped_storage()._cdata]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not given:
            return self._make(func, args, kwargs)
        out = self._run(func, args, kwargs) if any(map(_is_fake, given)) else func(*args, **kwargs)
        if self._notes:
            behind: set[int] = set().union(*map(self.sources, given))
            written = given if func._schema.is_mutable else []
            made = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            for tensor in (*made, *written) if behind else ():
                self._note(tensor, behind)
        return out

    def _make(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run what makes a tensor of nothing."""
        shadow = self._without_memory(func, args, kwargs)
        if not isinstance(shadow, torch.Tensor) or shadow.nbytes <= _LARGE_BYTES:
            return func(*args, **kwargs)
        number, self._n_made = self._n_made, self._n_made + 1
        is_wanted = number in self._wanted
        real = func(*args, **kwargs) if is_wanted or _is_random(func) else None
        if self._notes:
            self._note(shadow, {number})
        return real if is_wanted else shadow

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run what touches a tensor without memory."""
        if _is_random(func):
            func(*_mapped(self._with_memory, args), **_mapped(self._with_memory, kwargs))
        return self._without_memory(func, args, kwargs)

    def _without_memory(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run something on fake tensors: they say that they are on the CPU, as constructors may ask."""
        with self._fakes:
            return func(*args, **kwargs)

    def _with_memory(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor to draw into in the place of one without memory.

        The memory is always the same: allocated anew for each draw, it would not always be given back.
        """
        if not _is_fake(tensor):
            return tensor.clone()
        nbytes = tensor.untyped_storage().nbytes()
        if self._scratch.nbytes < nbytes:
            self._scratch = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        drawn = self._scratch[:nbytes].view(tensor.dtype)
        return drawn.as_strided(tensor.shape, tensor.stride())

    def _note(self, tensor: torch.Tensor, sources: set[int]) -> None:
        storage = tensor.untyped_storage()
        self._alive.append(storage)  # so that no other one gets its address
        self._sources[storage._cdata] |= sources


def rebuilt(build: Build, fqns: Iterable[str], seed: int) -> dict[str, torch.Tensor]:
    """Return some tensors of a model as its constructor makes them.

    Args:
        build: Makes the model, the same one each time.
        fqns: Of parameters and buffers.
        seed: The random stream that the constructor draws from; the user's is left alone.

    Returns:
        FQN -> tensor on the CPU, equal to that of ``torch.manual_seed(seed); build()``.

    Raises:
        ArgumentError: If the constructor looks at values of a large tensor, or makes no tensor of a name.

    Complexity: time as for building the model, memory of the wanted tensors and of the largest one.

    Example:
        >>> def build():
        ...     return nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
        >>> found = rebuilt(build, ["1.weight"], seed=0)["1.weight"]
        >>> with torch.random.fork_rng():
        ...     _ = torch.manual_seed(0)
        ...     build()[1].weight.equal(found)
        True
    """
    names = list(fqns)
    model, _ = _built(build, _sources(build, names, seed), seed)
    return {name: _found(model, name).detach() for name in names}


def _sources(build: Build, names: Iterable[str], seed: int) -> frozenset[int]:
    """Return the numbers of the large tensors that some tensors of a model are computed from."""
    model, mode = _built(build, None, seed)
    return frozenset().union(*(mode.sources(_found(model, name)) for name in names))


def _built(build: Build, wanted: frozenset[int] | None, seed: int) -> tuple[nn.Module, _Selective]:
    mode = _Selective(wanted)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            with torch.device("cpu"), mode:
                return build(), mode
        except (NotImplementedError, RuntimeError, LooksAtValues) as error:
            raise ArgumentError(
                "build() failed while large tensors had no memory.",
                why=f"{type(error).__name__}: {error}",
                remedy="a constructor that does not look at the values of large tensors; or save the model\n"
                "as safetensors where it fits, and materialize(device, weights=folder).",
            ) from error


def _found(model: nn.Module, fqn: str) -> torch.Tensor:
    try:
        found = tensor_now(model, fqn)
    except AttributeError:
        found = None
    if found is None:
        raise ArgumentError(
            f"the model that build() made has no {fqn}.",
            remedy="build= makes the same model as the one that was split.",
        )
    return found


def _is_fake(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor)


def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _mapped(change: Callable[[torch.Tensor], torch.Tensor], values: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, change, values)
