"""The entry points that are patched for the time of one capture: modules, autograd functions, TorchScript."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd.function import _SingleLevelFunction
from torch.utils import checkpoint

from autopipe.ir.structure import tensors_in
from autopipe.trace.glue import Apply, Spelled

_active = threading.local()


class Intercepting(Protocol):
    """What takes the calls."""

    is_inside: bool

    def module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Call a module."""

    def function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function."""

    def autograd_function(self, target: Apply, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a custom autograd function."""

    def reentrant_checkpoint(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call a function under a reentrant checkpoint."""

    def vectorized(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a custom autograd function under ``torch.vmap``."""


@contextmanager
def entry_points(interception: Intercepting) -> Iterator[None]:
    """Hand the calls of this thread to an interception.

    Args:
        interception: Takes them.
    """
    module_call, function_apply = nn.Module.__call__, torch.autograd.Function.__dict__["apply"]
    script_call = torch._C.ScriptFunction.__call__
    nn.Module.__call__ = _intercepted_call(module_call)  # type: ignore[method-assign]
    torch.autograd.Function.apply = _intercepted_apply(function_apply)  # type: ignore[method-assign]
    # What was bound before, ``scan = Scan.apply`` in a file of the model, comes by here.
    bound_before = _intercepted_apply(torch._C._FunctionBase.__dict__["apply"])
    _SingleLevelFunction.apply = bound_before  # type: ignore[attr-defined]
    torch._C.ScriptFunction.__call__ = _intercepted_script(script_call)  # type: ignore[method-assign]
    _active.interception = interception
    try:
        yield
    finally:
        _active.interception = None
        del _SingleLevelFunction.apply  # type: ignore[attr-defined]
        torch._C.ScriptFunction.__call__ = script_call  # type: ignore[method-assign]
        nn.Module.__call__ = module_call  # type: ignore[method-assign]
        torch.autograd.Function.apply = function_apply  # type: ignore[method-assign]


def _intercepted_call(original: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        interception = getattr(_active, "interception", None)
        if interception is None:
            return original(self, *args, **kwargs)
        return interception.module(self, args, kwargs)

    return __call__


def _intercepted_script(original: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        interception = getattr(_active, "interception", None)
        if interception is None or interception.is_inside:
            return original(self, *args, **kwargs)
        return interception.function(Spelled(self, self.name), args, kwargs)

    return __call__


def _intercepted_apply(original: Any) -> Any:
    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        interception, run = getattr(_active, "interception", None), original.__get__(None, cls)
        if interception is None or interception.is_inside:
            return run(*args, **kwargs)
        if cls is checkpoint.CheckpointFunction:
            return interception.reentrant_checkpoint(args[0], args[2:])
        if not tensors_in((args, kwargs)):
            return run(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return interception.vectorized(run, args, kwargs)
        return interception.autograd_function(Apply(cls), args, kwargs)

    return classmethod(apply)
