"""Captures a model: runs its own Python once on fake tensors, and writes down every call.

The sizes of the example stay open where the model allows it. If an attempt fails, the next one keeps fewer of them
open; a module that cannot be seen through becomes one node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autopipe.errors import AutopipeError, CaptureError
from autopipe.ir.structure import Structure
from autopipe.ir.tensor import SizeExpression, TensorSpec
from autopipe.ir.traced import InputLeaf, TracedModel
from autopipe.trace.dead import without_dead_nodes
from autopipe.trace.fakes import fake_arguments, fake_weights
from autopipe.trace.leaf_calls import LeafCalls
from autopipe.trace.leaves import has_hooks
from autopipe.trace.modes import Interception
from autopipe.trace.recorder import Recorder, dtype_name
from autopipe.trace.signature import example_device
from autopipe.trace.sizes import ATTEMPTS, Openness, Sizes
from autopipe.trace.source import line_of_error

_log = logging.getLogger("autopipe")


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    opaque: Callable[[str], bool] = lambda _fqn: False,
    batch_dims: Sequence[int | None] | None = None,
    fixed_sizes: bool = False,
) -> TracedModel:
    """Capture a model as one fx graph, without running it on data.

    Args:
        model: Any model, on any device, meta included. It is left as it was.
        args: Positional arguments of one microbatch; real, fake or meta tensors anywhere inside.
        kwargs: Keyword arguments.
        opaque: Says of a module's FQN whether it must be kept whole.
        batch_dims: The batch dimension of each tensor among the arguments, in order; None reads it off the sizes.
        fixed_sizes: Keep no size open; for sizes that no graph with open ones is right for.

    Returns:
        The graph for this signature (see ``Signature``), sizes open where the model allows it.

    Raises:
        CaptureError: If the model itself, outside all modules that can be kept whole, depends on data.

    Example:
        >>> traced = capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), (torch.ones(2, 4),))
        >>> [node.name for node in traced.compute_nodes()], str(traced.info["_1"].spec)
        (['_0', '_1'], 'f32[B, 8]')
    """
    if has_hooks(model):
        raise CaptureError(
            "the model itself has hooks, and no stage runs the whole model.",
            where=type(model).__name__,
            remedy="register the hooks on the modules inside it, or wrap it: class Outer with self.inner = model",
        )
    structure, holes = Structure.of((args, kwargs or {}))
    dims = list(batch_dims) if batch_dims is not None else guessed_batch_dims(holes)
    failures: list[Exception] = []
    for openness in ATTEMPTS[-1:] if fixed_sizes else ATTEMPTS:
        try:
            return _Attempt(model, structure, holes, dims, openness, opaque).run()
        except CaptureError:
            raise
        except Exception as error:
            _log.debug("capture with %s failed: %s", openness, error)
            failures.append(error)
    raise _explained(failures[-1]) from failures[-1]


def guessed_batch_dims(holes: Sequence[Any]) -> list[int | None]:
    """Return dimension 0 for every tensor whose first size is that of the first tensor, None for the others."""
    sizes = [hole.shape[0] if isinstance(hole, torch.Tensor) and hole.dim() else None for hole in holes]
    first = next((size for size in sizes if size is not None), None)
    return [0 if size is not None and size == first else None for size in sizes]


def _explained(error: Exception) -> CaptureError:
    if isinstance(error, AutopipeError):
        return CaptureError(error.what, error.where, error.why, error.remedy)
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return CaptureError(
        "the model cannot be captured as one graph.",
        where=line_of_error(error.__traceback__),
        why=f"{type(error).__name__}: {first_line}",
        remedy="run the model once on the example to see that it works; move what depends on data into a module of its "
        "own, which is then kept whole.",
    )


class _Attempt:
    """One run of the model on fake tensors, with some sizes open."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        holes: Sequence[torch.Tensor],
        batch_dims: Sequence[int | None],
        openness: Openness,
        opaque: Callable[[str], bool],
    ) -> None:
        self._model, self._structure, self._holes, self._opaque = model, structure, holes, opaque
        self._batch_dims = batch_dims
        self._device = example_device(model, list(holes))
        self._mode = FakeTensorMode(
            shape_env=ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False),
            allow_non_fake_inputs=True,
        )
        taken = frozenset(size for parameter in model.parameters() for size in parameter.shape)
        shapes = [tuple(hole.shape) for hole in holes]
        assert self._mode.shape_env is not None
        self._sizes = Sizes(self._mode.shape_env, shapes, openness, batch_dims, taken)
        self._recorder = Recorder(self._sizes, self._device)

    def run(self) -> TracedModel:
        with symbolic_config.patch(backed_size_oblivious=True), kept_attributes(self._model):
            fakes = fake_arguments(self._holes, self._mode, self._sizes, self._device)
            for name in self._sizes.hints:
                self._recorder.size_placeholder(name)
            for index, fake in enumerate(fakes):
                self._recorder.input_placeholder(f"in_{index}", fake)
            with fake_weights(self._model, self._mode, self._device, self._recorder):
                out_structure, out_names = self._run_model(fakes)
        return self._result(fakes, out_structure, out_names)

    def _run_model(self, fakes: list[torch.Tensor]) -> tuple[Structure, tuple[str | None, ...]]:
        args, kwargs = self._structure.fill(fakes)
        calls = LeafCalls(self._model, self._recorder, self._opaque)
        interception = Interception(self._recorder, calls)
        calls.interception = interception
        with enable_python_dispatcher(), self._mode, interception.on():
            out = calls.run_root(args, kwargs)
        out_structure, holes = Structure.of(out)
        return out_structure, self._recorder.output(holes)

    def _result(
        self, fakes: list[torch.Tensor], out: Structure, out_names: tuple[str | None, ...]
    ) -> TracedModel:
        recorder, sizes = self._recorder, self._sizes
        without_dead_nodes(recorder.graph, recorder.info)
        calls = [node for node in recorder.graph.nodes if node.op in ("call_module", "call_function")]
        alive = {node.name for node in calls if not isinstance(node.target, SizeExpression)}
        modules = dict(self._model.named_modules(remove_duplicate=False))
        called = {str(node.target) for node in calls if node.op == "call_module"}
        inputs = tuple(
            InputLeaf(f"in_{i}", path, self._input_spec(fake), self._batch_dim(i, fake))
            for i, (path, fake) in enumerate(zip(self._structure.paths, fakes, strict=True))
        )
        traced = TracedModel(
            recorder.graph,
            recorder.info,
            {fqn: modules[fqn] for fqn in sorted(called)},
            recorder.constants,
            inputs,
            self._structure,
            out,
            out_names,
            dict(sizes.hints),
            sizes.derived(),
            sizes.guards(),
            recorder.effects.together(alive),
            recorder.effects.order(alive),
            self._device,
        )
        traced.verify()
        return traced

    def _input_spec(self, fake: torch.Tensor) -> TensorSpec:
        shape = tuple(self._sizes.printed(size) for size in fake.shape)
        return TensorSpec(shape, dtype_name(fake.dtype), fake.requires_grad)

    def _batch_dim(self, index: int, fake: torch.Tensor) -> int | None:
        """Return the dimension along which an argument is cut: the one that stayed the batch, else the guessed one."""
        for dim, size in enumerate(fake.shape):
            if self._sizes.printed(size) == "B":
                return dim
        return self._batch_dims[index]


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Put back every attribute that the model's forward sets on its modules."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
