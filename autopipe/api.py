"""The two calls: ``plan`` decides where to cut a model, ``split`` also cuts it.

Only this file and ``pipeline.py`` know the order of the passes::

    capture -> cost graph -> partition -> stages -> schedule -> plan
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autopipe.arguments import Choices, check_switches, checked_choices, checked_plan
from autopipe.captures import Captures
from autopipe.choosing import (
    Chooser,
    check_shape,
    first_schedule,
    plan_for_devices,
    schedules_of,
    within_device,
)
from autopipe.example import example_of
from autopipe.ir.hardware import Hardware
from autopipe.ir.plan import Plan
from autopipe.ir.traced import TracedModel
from autopipe.pipeline import Pipeline
from autopipe.planning import fingerprint_of, plan_for
from autopipe.progress import Say
from autopipe.progress import progress as progress_shown
from autopipe.runtime.placed import check_one_device
from autopipe.schedule import check_size
from autopipe.trace import capture, outside_modes, signature_of


def split(
    model: nn.Module,
    n_stages: int,
    example_args: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    n_ranks: int | None = None,
    n_microbatches: int | None = None,
    schedule: str = "1f1b",
    cost: str = "roofline",
    hardware: str | Hardware | None = None,
    memory_limit: int | str | None = None,
    keep_together: Sequence[str] = (),
    same_stage: Sequence[Sequence[str]] = (),
    opaque: Sequence[str] = (),
    pin: Mapping[str, int] | None = None,
    objective: str = "bottleneck",
    device_order: str = "given",
    plan: Plan | str | Path | None = None,
    verify: bool = False,
    progress: bool | None = None,
) -> Pipeline:
    """Split a model into balanced pipeline stages.

    Args:
        model: Any model, on one device, "meta" included. Its structure, forward and hooks are left as they
            are; the stages hold its own modules and parameters.
        n_stages: How many stages.
        example_args: Positional arguments of ONE microbatch: real, fake or meta tensors. Without an example
            the model's own is taken (``dummy_inputs``, ``example_input_array``).
        example_kwargs: Keyword arguments of the same call.
        n_ranks: How many ranks share the stages; stage s lives on rank ``s % n_ranks``. None: one stage a
            rank.
        n_microbatches: Microbatches of a step. None: four a stage.
        schedule: "1f1b" or "gpipe"; "auto" is the faster one.
        cost: "roofline" prices operations by FLOPs and bytes, on any machine; "measured" runs and times them.
        hardware: A name such as "h100" or "a100+infiniband", or a ``Hardware``. None: what the model lies on.
        memory_limit: What a rank may hold, in bytes or as "16GiB"; a stage that does not fit otherwise keeps
            its inputs only, and runs its forward again in the backward.
        keep_together: Globs over FQNs; no cut falls inside a match.
        same_stage: Groups of globs; what a group matches shares one stage.
        opaque: Globs over FQNs; each match runs its own Python as one node.
        pin: Glob -> stage; -1 is the last.
        objective: What is to be least: "bottleneck", the slowest stage, or "step_time", every stage once plus
            the slowest for each further microbatch: for few microbatches, where fill and drain count.
        device_order: "best" tries every order of devices that differ by position; "given" takes theirs.
        plan: A plan made before, or the path of one: used instead of solving again.
        verify: Run split against unsplit before returning.
        progress: Show what is being done; None: on a terminal only.

    Returns:
        The pipeline.

    Raises:
        ArgumentError: If an argument is wrong; nothing was changed.
        CaptureError: If the model depends on data outside all modules that could be kept whole.
        PartitionError: If there are fewer legal cuts than stages ask for.
        InfeasibleError: If no partition fits the memory limit.
        PlanMismatchError: If ``plan`` was made for another model.
        VerifyError: With ``verify``, if the split is not equal to the model.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        >>> pipe = split(model, 2, (torch.ones(4, 8),))
        >>> len(pipe), pipe(torch.ones(4, 8)).equal(model(torch.ones(4, 8)))
        (2, True)
    """
    check_switches(verify, progress)
    choices = checked_choices(
        model,
        n_stages,
        n_ranks=n_ranks,
        n_microbatches=n_microbatches,
        schedule=first_schedule(schedule),
        cost=cost,
        hardware_choice=hardware,
        memory_limit=memory_limit,
        keep_together=keep_together,
        same_stage=same_stage,
        opaque=opaque,
        pin=pin,
        objective=objective,
        device_order=device_order,
    )
    check_size(choices.n_stages, choices.n_microbatches)
    pipe = _split(
        model,
        choices,
        example_of(model, example_args, example_kwargs),
        checked_plan(plan, n_stages),
        progress,
        schedule,
    )
    if verify:
        pipe.verify().raise_if_different()
    return pipe


def plan(
    model: nn.Module,
    n_stages: int | None = None,
    example_args: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    n_devices: int | None = None,
    n_ranks: int | None = None,
    n_microbatches: int | None = None,
    schedule: str | None = None,
    cost: str = "roofline",
    hardware: str | Hardware | None = None,
    memory_limit: int | str | None = None,
    keep_together: Sequence[str] = (),
    same_stage: Sequence[Sequence[str]] = (),
    opaque: Sequence[str] = (),
    pin: Mapping[str, int] | None = None,
    objective: str = "bottleneck",
    device_order: str = "given",
    progress: bool | None = None,
) -> Plan:
    """Decide where to cut a model, without cutting it; errors are those of ``split``.

    Args:
        model: Any model, on one device, "meta" included. It is left as it is.
        n_stages: How many stages. None: chosen, with ``n_devices``.
        example_args: Positional arguments of ONE microbatch: real, fake or meta tensors. Without an example
            the model's own is taken (``dummy_inputs``, ``example_input_array``).
        example_kwargs: Keyword arguments of the same call.
        n_devices: Choose stages, replicas of the whole pipeline, microbatches and schedule for so many
            devices, by the predicted time of a sample; ``plan.alternatives`` is the table.
        n_ranks: How many ranks share the stages; stage s lives on rank ``s % n_ranks``. None: one stage a
            rank.
        n_microbatches: Microbatches of a step. None: four a stage. With ``n_devices``: of all replicas
            together; None: four a device, and of another size than the example if that is faster.
        schedule: "1f1b" or "gpipe"; "auto" is the faster one. None: "1f1b", or "auto" with ``n_devices``.
        cost: "roofline" prices operations by FLOPs and bytes, on any machine; "measured" runs and times them.
        hardware: A name such as "h100" or "a100+infiniband", or a ``Hardware``. None: what the model lies on.
        memory_limit: What a rank may hold, in bytes or as "16GiB". None: anything; with ``n_devices`` what
            the device has. A stage that does not fit otherwise runs its forward again in the backward.
        keep_together: Globs over FQNs; no cut falls inside a match.
        same_stage: Groups of globs; what a group matches shares one stage.
        opaque: Globs over FQNs; each match runs its own Python as one node.
        pin: Glob -> stage; -1 is the last.
        objective: What is to be least: "bottleneck", the slowest stage, or "step_time", every stage once plus
            the slowest for each further microbatch: for few microbatches, where fill and drain count.
        device_order: "best" tries every order of devices that differ by position; "given" takes theirs.
        progress: Show what is being done; None: on a terminal only.

    Returns:
        The plan: ``autopipe.split(model, plan.n_stages, example_args, plan=plan)`` uses it.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        >>> plan(model, 2, (torch.empty(4, 8, device="meta"),)).fqns_per_stage()
        [['0', '1'], ['2']]
    """
    check_shape(n_stages, n_devices, n_ranks)
    check_switches(progress=progress)
    choices = checked_choices(
        model,
        n_devices or 1 if n_stages is None else n_stages,
        n_ranks=n_ranks,
        n_microbatches=n_microbatches,
        schedule=first_schedule(schedule),
        cost=cost,
        hardware_choice=hardware,
        memory_limit=memory_limit,
        keep_together=keep_together,
        same_stage=same_stage,
        opaque=opaque,
        pin=pin,
        objective=objective,
        device_order=device_order,
    )
    if n_devices is None:
        check_size(choices.n_stages, choices.n_microbatches)
    example = example_of(model, example_args, example_kwargs)
    check_one_device(model)
    with progress_shown(progress) as say, outside_modes():
        say("capturing the model")
        traced = capture(model, *example, opaque=choices.is_opaque)
        if n_devices is not None:
            return plan_for_devices(
                Chooser(model, traced, within_device(choices), example, say),
                n_devices,
                n_stages,
                n_microbatches,
                schedules_of(schedule or "auto"),
            )
        return _planned(model, traced, choices, example, say, schedule)


def _planned(
    model: nn.Module,
    traced: TracedModel,
    choices: Choices,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    say: Say,
    schedule: str | None,
) -> Plan:
    """Plan a number of stages under the one schedule, or under the fastest."""
    if schedule != "auto":
        return plan_for(model, traced, choices, example, say)
    return Chooser(model, traced, choices, example, say).under_fastest_schedule()


def _split(
    model: nn.Module,
    choices: Choices,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    made_before: Plan | None,
    progress: bool | None,
    schedule: str,
) -> Pipeline:
    check_one_device(model)
    if made_before is not None:
        made_before.check_model(fingerprint_of(model))
    with progress_shown(progress) as say, outside_modes():
        say("capturing the model")
        signature = signature_of(model, *example)
        traced = capture(model, *example, opaque=choices.is_opaque)
        chosen = made_before or _planned(model, traced, choices, example, say, schedule)
        say("building the stages")
        captures = Captures(model, chosen.cut, choices.is_opaque)
        captures.add(traced, signature)
    return Pipeline(model, chosen, captures, example)
