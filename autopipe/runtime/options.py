"""The arguments of an engine, checked before anything is moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from autopipe.errors import ArgumentError
from autopipe.ir.integers import is_int


def check_meeting(group: Any, timeout_s: Any) -> None:
    """Check what an engine needs to meet the other ranks, and so to tell them what else is wrong.

    Args:
        group: A torch.distributed process group, or None.
        timeout_s: After how long a rank that does not answer counts as lost.

    Raises:
        ArgumentError: Naming the argument, and what to give instead.
    """
    _check_group(group)
    if not (is_int(timeout_s) or isinstance(timeout_s, float)) or not timeout_s > 0:
        raise ArgumentError(f"timeout_s is {timeout_s!r}.", remedy="timeout_s=300, seconds")


def check_options(options: Mapping[str, Any], n_stages: int) -> None:
    """Check the arguments of ``Pipeline.engine`` that can be judged by themselves.

    Args:
        options: ``devices``, ``n_microbatches``, ``batch_dims`` and ``seed``.
        n_stages: How many stages the pipeline has.

    Raises:
        ArgumentError: Naming the argument, and what to give instead.

    Example:
        >>> check_options({"n_microbatches": 2.5}, n_stages=4)
        Traceback (most recent call last):
        autopipe.errors.ArgumentError: n_microbatches is 2.5.
          Try: n_microbatches=8, an int
    """
    _check_devices(options.get("devices"), n_stages)
    n_microbatches, seed = options.get("n_microbatches"), options.get("seed")
    if n_microbatches is not None and not is_int(n_microbatches):
        raise ArgumentError(f"n_microbatches is {n_microbatches!r}.", remedy="n_microbatches=8, an int")
    if n_microbatches is not None and n_microbatches < 1:
        raise ArgumentError(f"n_microbatches is {n_microbatches}.", remedy="n_microbatches=1 or more")
    if seed is not None and not is_int(seed):
        raise ArgumentError(f"seed is {seed!r}.", remedy="seed=0, an int; or None for torch.initial_seed()")
    batch_dims = options.get("batch_dims")
    if batch_dims is not None and not _are_dims(batch_dims):
        raise ArgumentError(
            f"batch_dims is {batch_dims!r}.",
            why="It says by the argument's name which dimension is the batch, or None.",
            remedy='batch_dims={"mask": None, "frames": 1}',
        )


def _check_devices(devices: Any, n_stages: int) -> None:
    if devices is None:
        return
    if isinstance(devices, str | int | torch.device):
        raise ArgumentError(
            f"devices is {devices!r}.",
            why="There is one device a stage; the same may be named again.",
            remedy=f"devices={[str(devices)] * n_stages}",
        )
    for device in devices:
        try:
            torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ArgumentError(
                f"{device!r} is no device.",
                why=str(error).splitlines()[0],
                remedy='names such as "cpu", "cuda:0"',
            ) from error


def _check_group(group: Any) -> None:
    if group is None:
        return
    from torch.distributed import ProcessGroup, is_available, is_initialized

    if not is_available() or not is_initialized():
        raise ArgumentError(
            "there is no process group.",
            remedy="start with torchrun and call torch.distributed.init_process_group() first,\n"
            "or leave group= out: all stages run in this process.",
        )
    if not isinstance(group, ProcessGroup):
        raise ArgumentError(
            f"group is {group!r}, a {type(group).__name__}.", remedy="group=torch.distributed.group.WORLD"
        )


def _are_dims(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (dim is None or is_int(dim)) for name, dim in value.items()
    )
