"""Checks what the caller of ``split`` and ``plan`` gave, before any work is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from torch import nn

from autopipe.cost import default_hardware, hardware
from autopipe.errors import ArgumentError
from autopipe.ir.hardware import Hardware
from autopipe.ir.plan import Plan
from autopipe.schedule import build

T = TypeVar("T")

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

    Raises:
        ArgumentError: Naming the argument that is wrong, and what would be right.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model is a {type(model).__name__}, not a torch.nn.Module.",
            remedy="autopipe.split(model, n_stages, example_args), the model itself first.",
        )
    _check_count("n_stages", n_stages, "a split has at least one stage")
    ranks = n_stages if n_ranks is None else n_ranks
    _check_count("n_ranks", ranks, "at least one rank runs the stages")
    microbatches = MICROBATCHES_A_STAGE * n_stages if n_microbatches is None else n_microbatches
    _check_count("n_microbatches", microbatches, "a step has at least one microbatch")
    build(schedule, n_stages, microbatches, ranks)
    if cost not in COSTS:
        raise ArgumentError(f"cost={cost!r} is unknown.", remedy=f"one of {', '.join(map(repr, COSTS))}.")
    if pin is not None and not isinstance(pin, Mapping):
        raise ArgumentError(
            f"pin={pin!r} is no dict from globs to stages.", remedy='pin={"embed": 0, "head": -1}'
        )
    names = [name for name, _ in model.named_modules() if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for argument, globs in (
        ("keep_together", _globs("keep_together", keep_together)),
        ("opaque", _globs("opaque", opaque)),
        ("pin", tuple(pin or {})),
        *(
            ("same_stage", _globs("same_stage", group))
            for group in _globs("same_stage", same_stage, of=Sequence)
        ),
    ):
        _check_globs(argument, globs, names)
    return Choices(
        n_stages,
        ranks,
        microbatches,
        schedule,
        cost,
        _hardware(model, hardware_choice),
        None if memory_limit is None else parse_bytes(memory_limit),
        tuple(keep_together),
        tuple(tuple(group) for group in same_stage),
        tuple(opaque),
        _checked_pins(pin or {}, n_stages),
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
    if (
        isinstance(limit, bool)
        or not isinstance(limit, int | str)
        or found is None
        or found[2].upper() not in UNITS
    ):
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
            f"plan is a {type(plan).__name__}.", remedy="a Plan, or the path of a file that plan.save wrote."
        )
    if loaded.n_stages != n_stages:
        raise ArgumentError(
            f"asked for {n_stages} stages with a plan of {loaded.n_stages}.",
            remedy=f"n_stages={loaded.n_stages}",
        )
    return loaded


def matching(globs: Iterable[str], names: Iterable[str]) -> Callable[[str], str | None]:
    """Return a function from an FQN to the outermost matched module that holds it, or None."""
    matched = {name for name in names if any(fnmatchcase(name, glob) for glob in globs)}

    def holder(fqn: str) -> str | None:
        parts = fqn.split(".")
        prefixes = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return next((prefix for prefix in prefixes if prefix in matched), None)

    return holder


def _check_count(name: str, value: object, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"{name} is {value!r}, a {type(value).__name__}.", remedy=f"{name}=4, an int.")
    if value < 1:
        raise ArgumentError(
            f"{name} is {value}.", why=f"{why[0].upper()}{why[1:]}.", remedy=f"{name}=1 or more."
        )


def _globs(argument: str, given: Sequence[T], of: type = str) -> tuple[T, ...]:
    if (
        isinstance(given, str)
        or not isinstance(given, Sequence)
        or not all(isinstance(item, of) for item in given)
    ):
        shape = "(('embed', 'head'),)" if of is Sequence else "('blocks.*',)"
        raise ArgumentError(
            f"{argument}={given!r} is no tuple of globs.", remedy=f"{argument}={shape}, with the comma."
        )
    return tuple(given)


def _check_globs(argument: str, globs: Sequence[str], names: Sequence[str]) -> None:
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            some, deeper = ", ".join(names[:4]), repr(f"*.{glob}")
            shown = f"{{{deeper}: 0}}" if argument == "pin" else f"({deeper},)"
            raise ArgumentError(
                f"{argument}: the glob {glob!r} matches no module and no parameter of the model.",
                why=f"Its names are {some}, ..." if some else "The model has none.",
                remedy=f"autopipe matches whole names: {argument}={shown} looks deeper.",
            )


def _checked_pins(pin: Mapping[str, int], n_stages: int) -> dict[str, int]:
    for glob, stage in pin.items():
        if isinstance(stage, bool) or not isinstance(stage, int) or not -n_stages <= stage < n_stages:
            raise ArgumentError(
                f"pin: {glob!r} is pinned to stage {stage!r} of {n_stages}.",
                remedy=f"0 to {n_stages - 1}; -1 is the last.",
            )
    return dict(pin)


def _hardware(model: nn.Module, choice: str | Hardware | None) -> Hardware:
    if isinstance(choice, Hardware):
        choice.verify()
        return choice
    if choice is None:
        first = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), "cpu")
        return default_hardware(first)
    if not isinstance(choice, str):
        raise ArgumentError(
            f"hardware is a {type(choice).__name__}.", remedy='hardware="h100", or a Hardware.'
        )
    return hardware(choice)
