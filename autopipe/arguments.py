"""Checks what the caller of ``split`` and ``plan`` gave, before any work is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from autopipe.cost import default_hardware, hardware
from autopipe.errors import ArgumentError, a_type
from autopipe.globs import check_matches, checked_globs, checked_groups, checked_pins
from autopipe.ir.hardware import Hardware
from autopipe.ir.integers import is_int
from autopipe.ir.plan import Plan
from autopipe.partition.choices import check_device_order, check_objective
from autopipe.schedule import build

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

COSTS = ("roofline", "measured")
MICROBATCHES_A_STAGE = 4
"""So many keep the bubble of 1F1B below a fifth (Huang et al., GPipe, 2019, section 2.3)."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the caller chose, checked and with defaults filled in.

    Args:
        n_stages: Stages.
        n_ranks: Ranks that share them.
        n_microbatches: Microbatches of a step.
        schedule: Name of the schedule.
        cost: "roofline" or "measured".
        hardware: Devices and links.
        memory_limit_bytes: What a rank may hold, or None.
        keep_together: Globs; what each match holds is never cut.
        same_stage: Groups of globs that share a stage.
        opaque: Globs of modules that run their own Python.
        pin: Glob -> stage; -1 is the last.
        objective: What the split makes least.
        device_order: "given", or "best" of those that devices which differ can be put in.
    """

    n_stages: int
    n_ranks: int
    n_microbatches: int
    schedule: str
    cost: str
    hardware: Hardware
    memory_limit_bytes: int | None
    keep_together: tuple[str, ...]
    same_stage: tuple[tuple[str, ...], ...]
    opaque: tuple[str, ...]
    pin: Mapping[str, int]
    objective: str = "bottleneck"
    device_order: str = "given"

    def is_opaque(self, fqn: str) -> bool:
        """Whether the caller wants this module whole."""
        return any(fnmatchcase(fqn, glob) for glob in self.opaque)


def checked_choices(  # noqa: PLR0913 - one argument an argument of the public call
    model: nn.Module,
    n_stages: int,
    *,
    n_ranks: int | None,
    n_microbatches: int | None,
    schedule: str,
    cost: str,
    hardware_choice: str | Hardware | None,
    memory_limit: int | str | None,
    keep_together: Sequence[str],
    same_stage: Sequence[Sequence[str]],
    opaque: Sequence[str],
    pin: Mapping[str, int] | None,
    objective: str = "bottleneck",
    device_order: str = "given",
) -> Choices:
    """Check every choice, and fill in defaults.

    Args:
        model: Globs must match its FQNs.
        n_stages: As the caller gave it; so are all others.
        n_ranks: None is one a stage.
        n_microbatches: None is four a stage.
        schedule: A name that ``autopipe.schedule.build`` knows.
        cost: "roofline" or "measured".
        hardware_choice: A name, a Hardware, or None for where the model is.
        memory_limit: Bytes, or a text such as "16GiB".
        keep_together: Globs.
        same_stage: Groups of globs.
        opaque: Globs.
        pin: Glob -> stage.
        objective: "bottleneck" or "step_time".
        device_order: "given" or "best".

    Raises:
        ArgumentError: Naming the argument that is wrong, and what would be right.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model is {a_type(model)}, not a torch.nn.Module.",
            remedy="autopipe.split(model, n_stages, example_args), the model itself first.",
        )
    _check_count("n_stages", n_stages, "a split has at least one stage")
    ranks = n_stages if n_ranks is None else n_ranks
    _check_count("n_ranks", ranks, "at least one rank runs the stages", such_as=n_stages)
    microbatches = MICROBATCHES_A_STAGE * n_stages if n_microbatches is None else n_microbatches
    _check_count("n_microbatches", microbatches, "a step has at least one microbatch")
    _check_schedule(schedule, n_stages, ranks)
    if cost not in COSTS:
        raise ArgumentError(f"cost={cost!r} is unknown.", remedy=f"one of {', '.join(map(repr, COSTS))}.")
    check_objective(objective)
    check_device_order(device_order)
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    whole, apart = checked_globs("keep_together", keep_together), checked_globs("opaque", opaque)
    groups = checked_groups("same_stage", same_stage)
    check_matches("keep_together", whole, modules, parameters)
    check_matches("opaque", apart, modules)
    for group in groups:
        check_matches("same_stage", group, modules, parameters)
    pins = checked_pins(pin, n_stages, modules, parameters)
    return Choices(
        n_stages,
        ranks,
        microbatches,
        schedule,
        cost,
        _hardware(model, hardware_choice),
        None if memory_limit is None else parse_bytes(memory_limit),
        whole,
        groups,
        apart,
        pins,
        objective,
        device_order,
    )


def parse_bytes(limit: int | str) -> int:
    """Read a number of bytes.

    Args:
        limit: An int, or a number with a unit: KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).

    Raises:
        ArgumentError: If it is neither, or not positive.

    Example:
        >>> parse_bytes("1.5GiB"), parse_bytes(1024)
        (1610612736, 1024)
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(limit))
    if not (is_int(limit) or isinstance(limit, str)) or found is None or found[2].upper() not in UNITS:
        raise ArgumentError(f"memory_limit={limit!r} is no number of bytes.", remedy='memory_limit="16GiB"')
    value = int(float(found[1]) * UNITS[found[2].upper()])
    if value <= 0:
        raise ArgumentError(f"memory_limit={limit!r} leaves no memory.", remedy='memory_limit="16GiB"')
    return value


def checked_plan(plan: Plan | str | Path | None, n_stages: int) -> Plan | None:
    """Return the plan that the caller gave, loaded if it is a path.

    Raises:
        ArgumentError: If it is neither a plan nor a path that can be read, or was made for another number of
            stages.
        PlanMismatchError: If the file is damaged, or written by a newer version.
    """
    if plan is None:
        return None
    if plan == "":
        raise ArgumentError(
            "plan is an empty path.", remedy='plan="plan.json", a file that plan.save wrote, or plan=None.'
        )
    try:
        loaded = Plan.load(plan) if isinstance(plan, str | Path) else plan
    except OSError as error:
        raise ArgumentError(
            f"the plan {plan} cannot be read.",
            why=f"{type(error).__name__}: {error.strerror}.",
            remedy="plan.save(path) writes one.",
        ) from error
    if not isinstance(loaded, Plan):
        raise ArgumentError(
            f"plan is {a_type(plan)}.", remedy="a Plan, or the path of a file that plan.save wrote."
        )
    if loaded.n_stages != n_stages:
        raise ArgumentError(
            f"asked for {n_stages} stages with a plan of {loaded.n_stages}.",
            remedy=f"n_stages={loaded.n_stages}",
        )
    return loaded


def check_switches(verify: object = False, progress: object = None) -> None:
    """Check the arguments that are yes or no.

    Raises:
        ArgumentError: If one is neither; ``progress`` may be None.
    """
    if not isinstance(verify, bool):
        raise ArgumentError(f"verify is {verify!r}, {a_type(verify)}.", remedy="verify=True or verify=False.")
    if progress is not None and not isinstance(progress, bool):
        raise ArgumentError(
            f"progress is {progress!r}, {a_type(progress)}.",
            remedy="progress=True or progress=False; progress=None shows it on a terminal only.",
        )


def _check_count(name: str, value: object, why: str, such_as: int = 4) -> None:
    if not is_int(value):
        raise ArgumentError(f"{name} is {value!r}, {a_type(value)}.", remedy=f"{name}={such_as}, an int.")
    if value < 1:
        raise ArgumentError(
            f"{name} is {value}.", why=f"{why[0].upper()}{why[1:]}.", remedy=f"{name}=1 or more."
        )


def _check_schedule(name: str, n_stages: int, n_ranks: int) -> None:
    """Check what a schedule is made from, without the work of making it."""
    build(name, 1, 1)
    if n_ranks > n_stages:
        raise ArgumentError(
            f"{n_ranks} ranks for {n_stages} stages.",
            why="Every rank holds at least one stage.",
            remedy=f"n_ranks={n_stages}",
        )


def _hardware(model: nn.Module, choice: str | Hardware | None) -> Hardware:
    if isinstance(choice, Hardware):
        choice.verify()
        return choice
    if choice is None:
        first = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), "cpu")
        return default_hardware(first)
    if not isinstance(choice, str):
        raise ArgumentError(f"hardware is {a_type(choice)}.", remedy='hardware="h100", or a Hardware.')
    return hardware(choice)
