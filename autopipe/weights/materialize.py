"""Makes some tensors of a meta model real, and gives them their values.

::

    check      names, shapes and dtypes of the checkpoint, from its headers
    build      what is not read, by build() if that is given: all, or with a checkpoint what no state dict has
    allocate   each other tensor alone, on the device; the Parameter objects stay
    initialise what is not read, if there is no build()
    read       each tensor's own bytes, block by block
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.weights.checkpoint import Stored, stored_tensors
from autopipe.weights.converted import Converted, by_transformers_rules
from autopipe.weights.held import Held, held_by, names_within, tensor_now
from autopipe.weights.own_init import KeyedDraws, run_own_init
from autopipe.weights.rebuilt import Build, rebuilt

_SHOWN = 5


def materialize(
    model: nn.Module,
    tensors: Sequence[torch.Tensor],
    device: torch.device,
    *,
    weights: str | Path | None,
    build: Build | None,
    seed: int,
) -> None:
    """Give values to those of a model's tensors that are on the meta device.

    Args:
        model: The model.
        tensors: Which of its parameters and buffers; those that have values are left alone.
        device: Where they go.
        weights: A safetensors checkpoint, a folder or a file; None: all of them are made.
        build: Makes the model, and so what is not read; None: the modules' own initialisation does.
        seed: Of the initialisation.

    Raises:
        ArgumentError: If the checkpoint lacks a name, or has another shape or dtype; or if something is left
            without a value. The model is as before then.
    """
    chosen = {id(tensor) for tensor in tensors if tensor.is_meta}
    held = [each for each in held_by(model) if id(each.tensor) in chosen]
    stored = {} if weights is None else _stored(model, held, weights)
    unread = [each for each in held if each.fqn not in stored]
    made = {} if build is None else _built(build, unread, seed)
    with _allocated(held, device, made):
        if unread and build is None:
            _initialise(model, unread, device, seed, inside_too=weights is None)
        with torch.no_grad():
            for each in held:
                if each.fqn in stored:
                    stored[each.fqn].read_into(each.tensor)


def _stored(model: nn.Module, held: Sequence[Held], weights: str | Path) -> dict[str, Stored | Converted]:
    """Return where the value of each tensor that a state dict has lies, by canonical name."""
    there = stored_tensors(weights)
    by_rules = by_transformers_rules(model, there)
    prefix = getattr(model, "base_model_prefix", "")
    may_lack = [*(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())]
    found: dict[str, Stored | Converted] = {}
    missing = []
    for each in held:
        source = next((by_rules[fqn] for fqn in each.fqns if fqn in by_rules), None)
        name = _name_in(there.keys(), each.fqns, prefix if isinstance(prefix, str) else "")
        if source is None and name is not None:
            source = there[name]
        if source is not None:
            source.check(each.fqn, each.tensor)
            found[each.fqn] = source
        elif each.is_kept and not any(re.search(name, each.fqn) for name in may_lack):
            missing.append(each.fqn)
    if missing:
        raise ArgumentError(
            f"the checkpoint lacks {_listed(missing)}.",
            f"It has {_listed(sorted(there))}: {weights}",
            remedy="weights= of this very model, under its own names or those that transformers gives them.",
        )
    return found


def _name_in(names: Set[str], fqns: Sequence[str], prefix: str) -> str | None:
    """Return the name under which a checkpoint has a tensor.

    A tied tensor is stored once, under any of its names. transformers leaves the prefix of the base model out
    where the base model alone was saved, and has it where the base model is loaded from a whole one.

    Example:
        >>> _name_in({"h.0.weight"}, ["lm.weight", "model.h.0.weight"], "model")
        'h.0.weight'
    """
    inside = prefix + "."
    for fqn in fqns:
        if fqn in names:
            return fqn
    for fqn in fqns if prefix else ():
        for name in (fqn.removeprefix(inside), inside + fqn):
            if name in names:
                return name
    return None


@contextmanager
def _allocated(held: Sequence[Held], device: torch.device, built: dict[str, torch.Tensor]) -> Iterator[None]:
    """Put memory behind meta tensors, which stay the objects that they are; take it away if something fails.

    What was built becomes theirs: copied, it would take its memory twice.

    Modules, tied ones among them, optimizers and lists of parameters hold these objects.
    """
    swapped: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for each in held:
            if each.fqn in built:
                made = built.pop(each.fqn).to(device)
            else:
                made = torch.empty_like(each.tensor, device=device, requires_grad=False)
            made.requires_grad_(each.tensor.requires_grad)
            torch._C._swap_tensor_impl(each.tensor, made)
            swapped.append((each.tensor, made))
        yield
    except BaseException:
        for tensor, meta in swapped:
            torch._C._swap_tensor_impl(tensor, meta)
        raise


def _built(build: Build, held: Sequence[Held], seed: int) -> dict[str, torch.Tensor]:
    """Return what the constructor makes of some tensors, each with memory of its own."""
    values = rebuilt(build, [each.fqn for each in held], seed) if held else {}
    seen: set[int] = set()
    for each in held:
        value = values[each.fqn]
        if (value.shape, value.dtype) != (each.tensor.shape, each.tensor.dtype):
            raise ArgumentError(
                f"{each.fqn} is {_described(each.tensor)}, build() makes {_described(value)}.",
                remedy="build= makes the same model as the one that was split.",
            )
        storage = value.untyped_storage()
        if storage.nbytes() != value.nbytes or storage._cdata in seen:
            values[each.fqn] = value.clone()
        seen.add(storage._cdata)
    return values


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _initialise(
    model: nn.Module, held: Sequence[Held], device: torch.device, seed: int, *, inside_too: bool
) -> None:
    """Run the model's own initialisation over tensors, and see to it that each got a value."""
    with torch.no_grad():
        for each in held:
            _blank(each.tensor)
    names = {each.tensor.untyped_storage()._cdata: each.fqn for each in held}
    indices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=indices), device:
        modules = _modules_around(model, held, inside_too=inside_too)
        run_own_init(model, modules, KeyedDraws(seed, device, names))
    if left := [each.fqn for each in held if _is_blank(tensor_now(model, each.fqn))]:
        raise ArgumentError(
            f"nothing gives a value to {_listed(left)}.",
            why="Neither a reset_parameters of its module nor an _init_weights around it did, "
            "and no checkpoint has it.",
            remedy="materialize(..., build=function), which makes the model; or a reset_parameters()\n"
            "in the module.",
        )


def _modules_around(
    model: nn.Module, held: Sequence[Held], *, inside_too: bool
) -> list[tuple[str, nn.Module]]:
    """Return the modules that hold one of the tensors, or with ``inside_too`` one further inside."""
    fqns = [fqn for each in held for fqn in each.fqns]
    owners = {fqn.rpartition(".")[0] for fqn in fqns}
    return [
        (fqn, module)
        for fqn, module in model.named_modules()
        if fqn in owners or (inside_too and names_within(fqns, fqn))
    ]


def _blank(tensor: torch.Tensor) -> None:
    """Fill a tensor with what no initialisation gives it."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).max)


def _is_blank(tensor: torch.Tensor | None) -> bool:
    if tensor is None or tensor.numel() == 0:
        return False
    if tensor.is_meta:
        return True
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().all())
    return tensor.dtype != torch.bool and bool((tensor == torch.iinfo(tensor.dtype).max).all())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
