"""One stage of a pipeline, as a user sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import fx, nn

from autopipe.ir.partition import StageCost
from autopipe.ir.stages import Port, StagedModel
from autopipe.runtime.placed import remember_placed


class Stage:
    """One stage of a pipeline.

    Args:
        index: Which of the stages.
        staged: All stages.
        model: The model that was split.
        cost: What the plan says that the stage costs.
    """

    def __init__(self, index: int, staged: StagedModel, model: nn.Module, cost: StageCost) -> None:
        """Hold them; a pipeline makes its stages."""
        self._whole, self._model, self.cost = staged, model, cost
        self._staged = staged.stages[index]

    @property
    def index(self) -> int:
        """Its place, from 0."""
        return self._staged.index

    @property
    def module(self) -> fx.GraphModule:
        """The stage as a module; what is inside it is the model's own."""
        return self._staged.module

    @property
    def recv(self) -> tuple[Port, ...]:
        """Values from earlier stages."""
        return self._staged.recv

    @property
    def send(self) -> tuple[Port, ...]:
        """Values to later stages."""
        return self._staged.send

    @property
    def fqns(self) -> tuple[str, ...]:
        """FQNs of its leaves, then of parameters and buffers used outside them."""
        return self._staged.fqns

    def materialize(
        self,
        device: str | int | torch.device = "cpu",
        weights: str | Path | None = None,
        *,
        build: Callable[[], nn.Module] | None = None,
        seed: int | None = None,
    ) -> Stage:
        """Give values to the stage's part of a model that was built on the meta device.

        Only this stage's parameters and buffers are made, those that it shares with other stages among them,
        and of a checkpoint only their bytes are read: the peak of memory is the stage's own size and a few
        MiB. What no stage reads comes with stage 0. The Parameter objects stay the same ones. What has values
        already is left as it is.

        Args:
            device: Where they go.
            weights: A safetensors checkpoint under the model's own names: a folder, with an index file or
                without, or one file. Tied tensors may be there under any of their names. For a model of
                transformers, the rules by which it reads its own checkpoints hold too: other names, experts
                stored one by one, the prefix of base models. Floating-point values are converted to the
                parameter's dtype. What no state dict has, buffers that do not persist, is made as below.
                None: everything is made.
            build: ``build()`` makes the model. What it makes here is equal to that of
                ``torch.manual_seed(seed); build()``, in the memory of this stage; it runs twice on the CPU.
                None: each module's ``reset_parameters`` runs, then the ``_init_weights`` of the model around
                it, and a tensor's random numbers depend on the seed and its name alone. What constructors
                do beyond that is not repeated. Either way the numbers are the same for any split and on any
                rank.
            seed: None: ``torch.initial_seed()``. The user's own random stream is left alone.

        Returns:
            The stage itself.

        Raises:
            ArgumentError: If the checkpoint lacks a name or has another shape or dtype for it, or if
                something is left without a value. The model is as before then.

        Complexity: linear in the bytes of the stage; the headers of the checkpoint are read once.

        Example:
            >>> import autopipe
            >>> with torch.device("meta"):
            ...     model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            >>> pipe = autopipe.split(model, 2, (torch.ones(2, 4, device="meta"),))
            >>> stage = pipe[0].materialize("cpu")
            >>> model[0].weight.device, model[2].weight.device
            (device(type='cpu'), device(type='meta'))
        """
        from autopipe.weights import materialize

        materialize(
            self._model,
            [*self._tensors()],
            torch.device(device),
            weights=weights,
            build=build,
            seed=torch.initial_seed() if seed is None else seed,
        )
        remember_placed(self._model)
        return self

    def _tensors(self) -> Iterator[torch.Tensor]:
        """Yield the stage's parameters and buffers, for stage 0 also those that no stage has."""
        yield from _tensors_of(self.module)
        if self.index == 0:
            used = {id(tensor) for stage in self._whole.stages for tensor in _tensors_of(stage.module)}
            yield from (tensor for tensor in _tensors_of(self._model) if id(tensor) not in used)

    def __repr__(self) -> str:
        """Print index, size and first and last module."""
        ends = f"{self.fqns[0]} ... {self.fqns[-1]}" if self.fqns else "no modules"
        ports = f"{len(self.recv)} recv, {len(self.send)} send"
        return f"Stage({self.index}, {ends}, {self.cost.total_ms:.3g} ms, {ports})"


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
