"""Where the calls come from: two torch modes and three patched entry points, on for the time of one capture.

=====================  ================================================================================
``_Functions``         every torch function and tensor method, as the model's Python wrote it
``_Operators``         what runs below: notes random numbers, and records what the first did not see
                       (``torch.vmap``)
``Module.__call__``    leaves become one node; hooks stay inside and do not run during capture
``Function.apply``     a custom autograd function becomes one node, its own backward kept
``ScriptFunction``     a function of TorchScript becomes one node
=====================  ================================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from autopipe.errors import CaptureError
from autopipe.ir.structure import tensors_in
from autopipe.trace.asked_gradient import set_requires_grad
from autopipe.trace.branches import DEPENDS_ON_DATA
from autopipe.trace.data_dependent_number import DataDependentNumber, is_whole_number
from autopipe.trace.entry_points import entry_points
from autopipe.trace.glue import Apply, read_property
from autopipe.trace.kernels import (
    CONVOLUTIONS,
    drops_nothing,
    refuse_dtypes,
    running_statistics_written,
    storages_written,
    tensors_written,
    without_kernel,
)
from autopipe.trace.leaves import recording_hooks
from autopipe.trace.recorder import Recorder
from autopipe.trace.source import line_of_frame
from autopipe.trace.stand_in import fake_results

NOT_CAPTURED = {
    torch.Tensor.register_hook: "it registers a hook on a tensor",
    torch.Tensor.retain_grad: "it keeps the gradient of a tensor",
    torch.Tensor.backward: "it runs a backward of its own",
    torch.autograd.grad: "it runs a backward of its own",
    torch._C._VariableFunctions._make_dual: "it differentiates forward",
}


def is_in_transform() -> bool:
    """Whether ``torch.vmap``, ``torch.func.grad`` or another transform runs: operators are seen below it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class Interception:
    """Hands every call of the model to the recorder.

    Args:
        recorder: Writes the graph.
        call_module: What a call of a registered module does: ``(module, args, kwargs) -> output``.
    """

    def __init__(self, recorder: Recorder, call_module: Callable[[nn.Module, Any, Any], Any]) -> None:
        """Nothing is intercepted before ``on``."""
        self.recorder, self._call_module = recorder, call_module
        self.is_inside = False
        self._reachable: set[int] | None = None
        self.grad_enabled: bool | None = True  # None: whatever it is

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While a node runs, what it calls is part of it."""
        before, self.is_inside = self.is_inside, True
        try:
            yield
        finally:
            self.is_inside = before

    @contextmanager
    def on(self) -> Iterator[None]:
        """Intercept the calls of this thread."""
        recompute = checkpoint._checkpoint_without_reentrant_generator
        checkpoint._checkpoint_without_reentrant_generator = self._seen_through_checkpoint
        self.grad_enabled = torch.is_grad_enabled()
        try:
            with entry_points(self), _Operators(self), _Functions(self), _eager():
                yield
        finally:
            checkpoint._checkpoint_without_reentrant_generator = recompute

    def _seen_through_checkpoint(self, *_args: Any, **_kwargs: Any) -> Iterator[None]:
        """Stand in for what ``torch.utils.checkpoint`` does around the function that it calls."""
        with self.recorder.program.checkpoint():
            yield

    def reentrant_checkpoint(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """See through a reentrant checkpoint, which gives no gradient if no argument of it wants one."""
        wants_grad = any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args)
        with (
            self.recorder.program.checkpoint(),
            torch.set_grad_enabled(wants_grad and torch.is_grad_enabled()),
        ):
            return function(*args)

    def module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Call a module: inside a node its forward, without hooks but those that collect its results."""
        if self._reachable is not None:
            raise CaptureError(
                f"a custom autograd function calls a {type(module).__name__}, and a node is one of the two.",
                where=line_of_frame(),
            )
        if not self.is_inside:
            return self._call_module(module, args, kwargs)
        out = module.forward(*args, **kwargs)
        for hook in recording_hooks(module):
            hook(module, args, out)
        return out

    def autograd_function(self, target: Apply, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a custom autograd function and record it.

        Raises:
            CaptureError: If it uses modules or weights that it is not given, so that no stage would know of
                them.
        """
        self._reachable = {id(tensor) for tensor in tensors_in((args, kwargs))}
        try:
            return self.function(target, args, kwargs)
        finally:
            self._reachable = None

    def vectorized(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an autograd function under ``torch.vmap``: what runs below is recorded, and no backward."""
        before = self.grad_enabled
        if not any(tensor.requires_grad for tensor in tensors_in((args, kwargs))):
            self.grad_enabled = None
        try:
            return run(*args, **kwargs)
        finally:
            self.grad_enabled = before

    def refuse_hidden_weights(self, args: Any) -> None:
        """Raise if a custom autograd function is running, and reads weights that it was not given."""
        if self._reachable is None:
            return
        hidden = [tensor for tensor in tensors_in(args) if id(tensor) not in self._reachable]
        for name, _ in self.recorder.values.owned_among(hidden):
            raise CaptureError(
                f"a custom autograd function reads {name}, which is none of its arguments.",
                where=line_of_frame(),
            )

    def function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function on fake tensors and record it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.recorder.program.is_below_autograd:
                self.note_effects(target, args, kwargs)
                for tensor in tensors_written(target, args, kwargs):
                    torch.autograd.graph.increment_version(tensor)  # autograd, which does so, is above
            try:
                with self.recorder.program.sizes.of_kernels(target in CONVOLUTIONS):
                    return target(*args, **kwargs)
            except DEPENDS_ON_DATA:
                where = line_of_frame()
                decided = self.recorder.decide(target, args, kwargs, where)
                if decided is None:
                    raise
                return decided
            except Exception as error:
                return fake_results(error, target, args, kwargs, self.recorder.program)

        with self.inside():
            return self.recorder.call_function(target, args, kwargs, run)

    def note_effects(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what an operator draws and writes."""
        if torch.Tag.nondeterministic_seeded in func.tags and not drops_nothing(func, args, kwargs):
            self.recorder.is_random = True
        for running in running_statistics_written(func, args):
            torch.autograd.graph.increment_version(running)
        if func._schema.is_mutable:
            self.recorder.note_written(storages_written(func, args, kwargs))


class _Functions(TorchFunctionMode):
    """Sees torch functions and tensor methods."""

    def __init__(self, interception: Interception) -> None:
        super().__init__()
        self._interception = interception

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._interception.is_inside or is_in_transform():
            return func(*args, **kwargs)
        if func in NOT_CAPTURED:
            raise CaptureError(f"cannot see through the module: {NOT_CAPTURED[func]}.", where=line_of_frame())
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._property(func, args[0])
        if name == "__set__":
            return self._set_property(func, *args)
        if func is torch.Tensor.requires_grad_:
            return set_requires_grad(self._interception.recorder, *args, *kwargs.values())
        if func is torch.Tensor.item and is_whole_number(args[0]):
            return self._number(args[0])
        if func is torch._C._set_grad_enabled:
            self._interception.grad_enabled = args[0]
        return self._interception.function(func, args, kwargs)

    def _number(self, tensor: torch.Tensor) -> Any:
        """Return the number in a tensor, or one that can only be compared."""
        try:
            return self._interception.function(torch.Tensor.item, (tensor,), {})
        except DEPENDS_ON_DATA as error:
            return DataDependentNumber(tensor, error)

    def _property(self, getter: Any, tensor: torch.Tensor) -> Any:
        value = getter(tensor)
        if not isinstance(value, torch.Tensor):
            return value
        name = getter.__self__.__name__
        return self._interception.function(read_property, (tensor, name), {})

    def _set_property(self, setter: Any, tensor: torch.Tensor, value: Any) -> None:
        name = setter.__self__.__name__
        if name != "requires_grad":
            raise CaptureError(
                f"cannot see through the module: it sets .{name} of a tensor.", where=line_of_frame()
            )
        set_requires_grad(self._interception.recorder, tensor, value)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators that run below the functions."""

    def __init__(self, interception: Interception) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._interception = interception

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, interception = kwargs or {}, self._interception
        interception.refuse_hidden_weights((args, kwargs))
        refuse_dtypes(func, args)
        interception.recorder.indices.check(func, args)
        interception.note_effects(func, args, kwargs)
        if interception.is_inside:
            interception.recorder.note_held(args)
        is_a_query = func.namespace == "prim" or not (func._schema.returns or func._schema.is_mutable)
        if interception.is_inside or is_a_query:
            made = without_kernel(func, args)
            return func(*args, **kwargs) if made is None else made
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:
            raise CaptureError(
                "cannot see through the module: it captures a graph of its own.", where=line_of_frame()
            )
        if interception.grad_enabled not in (None, torch.is_grad_enabled()):
            raise CaptureError(
                f"cannot see through the module: {func} runs in a function that has a backward of its own.",
                where=line_of_frame(),
            )
        with interception.recorder.program.below_autograd():
            return interception.function(func, args, kwargs)


def _eager() -> AbstractContextManager[Any]:
    """Run compiled functions as they were written; what a module compiles it keeps, as a leaf."""
    is_compiler_loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if is_compiler_loaded else nullcontext()
