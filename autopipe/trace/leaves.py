"""Which modules are kept whole: one ``call_module`` node, with its hooks and its own Python inside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrize

from autopipe.errors import CaptureError

CONTAINERS = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""Modules of torch.nn that are seen through; every other unit of torch (MultiheadAttention) is kept whole."""

HAS_HOOKS = "it has hooks"

_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)

_RECORDING = "transformers.utils.output_capturing"
"""Where the forward hooks come from by which transformers collects hidden states and attentions.

They only read, and only inside the model's own forward: they run during capture, and the modules are seen
through.
"""


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks of its own."""
    return has_forward_hooks(module) or any(getattr(module, name, None) for name in _BACKWARD_HOOKS)


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether hooks may change what the module is given or returns."""
    return any(not _is_recording(hook) for name in _FORWARD_HOOKS for hook in getattr(module, name).values())


def recording_hooks(module: nn.Module) -> list[Callable[[nn.Module, Any, Any], Any]]:
    """Return the hooks that collect what modules return, for the model's own output."""
    return [hook for hook in module._forward_hooks.values() if _is_recording(hook)]


def _is_recording(hook: Callable[..., Any]) -> bool:
    return getattr(hook, "__module__", "") == _RECORDING


def refuse_hooks_around(model: nn.Module) -> None:
    """Check that no hook wants to run around the whole model.

    Raises:
        CaptureError: If the model has hooks, or there are hooks on all modules.
    """
    if has_hooks(model):
        raise CaptureError(
            "the model itself has hooks, and no stage runs the whole model.",
            where=type(model).__name__,
            remedy="register the hooks on the modules inside it, or wrap the model in another module",
        )
    if has_hooks_on_all():
        on_all = [name for name in _GLOBAL_HOOKS if getattr(nn_module, name)]
        raise CaptureError(
            "there are hooks on all modules, and stages do not call the modules that are seen through.",
            where=f"torch.nn.modules.module.{on_all[0]}",
            remedy="remove them while the split model runs, or register them on the modules that need them",
        )


def has_hooks_on_all() -> bool:
    """Whether hooks run around every module, such as those of ``register_module_forward_hook``."""
    return any(getattr(nn_module, name) for name in _GLOBAL_HOOKS)


def why_leaf(module: nn.Module) -> str | None:
    """Say why a module is kept whole, or None if it is seen through.

    Args:
        module: Any module.

    Returns:
        "" for a plain leaf, a sentence for a module with children that is kept whole, else None.

    Example:
        >>> why_leaf(nn.Linear(2, 2)), why_leaf(nn.Sequential(nn.ReLU()))
        ('', None)
    """
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module"
    if is_compiled(module):
        return "it is compiled"
    if not module._modules or all(child is None for child in module._modules.values()):
        return ""
    if parametrize.is_parametrized(module):
        return "it is parametrized"
    if type(module).__module__.startswith("torch.") and not isinstance(module, CONTAINERS):
        return (
            "" if isinstance(module, nn.MultiheadAttention) else f"{type(module).__name__} is a unit of torch"
        )
    return HAS_HOOKS if has_hooks(module) else None


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` or ``module.compile()`` made the module's call."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # importing it takes seconds
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)
