"""What a call returns when it cannot run on fake tensors: learnt by running it on small real ones.

A module that branches on data, or an operator whose fake kernel is missing, is run outside the capture: at
the sizes of the example, with several values, and once for each symbolic size at the next larger one. Where
a size of the result moved with the sizes of the arguments it is symbolic. The results themselves are thrown
away. What is learnt so is checked in every run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import CaptureError
from autopipe.ir.structure import tensors_in
from autopipe.trace.branches import DEPENDS_ON_DATA
from autopipe.trace.effects import storage_of
from autopipe.trace.foreign import has_no_values
from autopipe.trace.poured import poured
from autopipe.trace.program import Program
from autopipe.trace.recorder import Recorder
from autopipe.trace.trials import LIMIT_BYTES, Trials


def fake_results(
    error: Exception, target: Callable[..., Any], args: Any, kwargs: Any, program: Program
) -> Any:
    """Return fake results of a function whose fake kernel failed.

    Args:
        error: What the fake kernel raised.
        target: The function.
        args: Its positional arguments, fake tensors inside.
        kwargs: Its keyword arguments.
        program: Knows the symbolic sizes and the device.

    Raises:
        Exception: ``error`` itself, if the result depends on data or the function fails on real tensors too.
    """
    if isinstance(error, (*DEPENDS_ON_DATA, CaptureError)):
        raise error
    structure, holes = Trials(target, (args, kwargs), program).results(error)
    if not structure.n_holes or len(structure.leaves) != structure.n_holes:
        raise error
    out, *left = structure.fill(holes)
    if left:
        raise error
    return out


def fake_results_of_module(
    error: Exception, module: nn.Module, args: Any, kwargs: Any, recorder: Recorder
) -> Any:
    """Return fake results of a module that cannot run on fake tensors; a copy of it runs on real ones.

    Args:
        error: What the module raised on fake tensors.
        module: The module, its weights fake.
        args: Its positional arguments, fake tensors inside.
        kwargs: Its keyword arguments.
        recorder: Knows the real weights, the sizes and the device.

    Raises:
        CaptureError: If the sizes of its results depend on the values that it is given.
        Exception: ``error`` itself, if the copy fails on real tensors too.
    """
    weights = [*module.parameters(), *module.buffers()]
    if sum(weight.numel() * weight.element_size() for weight in weights) > LIMIT_BYTES:
        raise error
    try:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            real_of = recorder.values.real_of
            memo = {id(weight): _real_weight(real_of.get(id(weight), weight)) for weight in weights}
            real = copy.deepcopy(module, memo)
    except Exception as copying:
        raise error from copying
    copies = [memo[id(weight)] for weight in weights]
    versions = [copied._version for copied in copies]
    given, parameters = (args, kwargs), list(module.parameters())
    try:
        trials = Trials(real.forward, given, recorder.program, parameters)
        structure, holes = trials.results(error)
    except CaptureError:
        raise
    except Exception:
        examples = recorder.values.examples_among(tensors_in(given))
        if not examples:
            raise
        trials = Trials(real.forward, given, recorder.program, parameters, examples)
        structure, holes = trials.results(error)
    changed = [copied._version != before for copied, before in zip(copies, versions, strict=True)]
    own = [weight for weight, is_changed in zip(weights, changed, strict=True) if is_changed]
    for fake in (*own, *trials.written()):
        torch.autograd.graph.increment_version(fake)
    _note_held(module, real, recorder)
    out, *left = structure.fill(holes)
    for changed_given in left:
        poured(changed_given, given)
    return out


def _note_held(module: nn.Module, copied: nn.Module, recorder: Recorder) -> None:
    """Note the plain tensors that a module holds, and which of them its runs have changed in a copy."""
    for inner, other in zip(module.modules(), copied.modules(), strict=False):
        for name, tensor in vars(inner).items():
            if isinstance(tensor, torch.Tensor):
                recorder.held[id(tensor)] = tensor
                after = vars(other).get(name)
                if isinstance(after, torch.Tensor) and after._version:
                    recorder.note_written({storage_of(tensor)})


def _real_weight(weight: torch.Tensor) -> torch.Tensor:
    if has_no_values(weight):
        copied = torch.zeros(weight.shape, dtype=weight.dtype)
    else:
        copied = weight.detach().cpu().clone()
    return nn.Parameter(copied, weight.requires_grad) if isinstance(weight, nn.Parameter) else copied
