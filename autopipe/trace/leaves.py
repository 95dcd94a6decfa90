"""Which modules are kept whole: one ``call_module`` node, with its hooks and its own Python inside."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

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

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks of its own."""
    return any(getattr(module, name, None) for name in _HOOKS)


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
    if isinstance(module, torch._dynamo.eval_frame.OptimizedModule):
        return "it is compiled"
    if parametrize.is_parametrized(module):
        return "it is parametrized" if next(module.children(), None) is not None else ""
    if next(module.children(), None) is None:
        return ""
    if type(module).__module__.startswith("torch.") and not isinstance(module, CONTAINERS):
        return (
            "" if isinstance(module, nn.MultiheadAttention) else f"{type(module).__name__} is a unit of torch"
        )
    return "it has hooks" if has_hooks(module) else None
