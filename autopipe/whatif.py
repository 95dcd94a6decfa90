"""Many plans of one model for about the price of one: other stages, links, microbatches, schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from torch import nn

from autopipe.arguments import MICROBATCHES_A_STAGE, Choices, check_switches, checked_choices
from autopipe.choosing import Chooser, first_schedule, schedules_of
from autopipe.errors import ArgumentError
from autopipe.example import example_of
from autopipe.ir.alternatives import Alternative, Alternatives
from autopipe.ir.hardware import Hardware
from autopipe.ir.plan import Plan
from autopipe.progress import progress as progress_shown
from autopipe.runtime.placed import check_one_device
from autopipe.schedule import check_size
from autopipe.search import Explored, Shape
from autopipe.trace import capture


class WhatIf:
    """A table of plans, one a row; ``autopipe.what_if`` makes one.

    A row is the best split along a few linear orders of the graph; the plan of a row is searched in full and
    proven, and no slower.

    Args:
        chooser: Knows the model.
        found: The rows, and what is behind each.
    """

    def __init__(self, chooser: Chooser, found: Sequence[Explored]) -> None:
        """Hold both."""
        self._chooser, self._found = chooser, tuple(found)
        self.alternatives = Alternatives(tuple(one.row for one in self._found))

    @property
    def rows(self) -> tuple[Alternative, ...]:
        """The numbers, in the order of the question: machines, then stages, microbatches, schedules."""
        return self.alternatives.rows

    @property
    def best(self) -> Alternative:
        """The row that takes the least time for a sample."""
        return self.alternatives.best

    def plan(self, row: Alternative | int | None = None) -> Plan:
        """Return the plan behind a row.

        Args:
            row: A row, or its index; None: the best.

        Returns:
            The plan, as ``autopipe.plan`` makes it.

        Raises:
            InfeasibleError: If there is no such plan; says why.
        """
        row = self.best if row is None else row
        index = row if isinstance(row, int) else self.rows.index(row)
        return self._chooser.plan(self._found[index])

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._found)

    def __str__(self) -> str:
        """Print the table."""
        return str(self.alternatives)


def what_if(  # noqa: PLR0913 - the public signature, as in api.py
    model: nn.Module,
    n_stages: int | Sequence[int],
    example_args: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    n_microbatches: int | Sequence[int] | None = None,
    schedule: str | Sequence[str] = "1f1b",
    hardware: str | Hardware | Sequence[str | Hardware] | None = None,
    memory_limit: int | str | None = None,
    keep_together: Sequence[str] = (),
    same_stage: Sequence[Sequence[str]] = (),
    opaque: Sequence[str] = (),
    pin: Mapping[str, int] | None = None,
    objective: str = "bottleneck",
    progress: bool | None = None,
) -> WhatIf:
    """Plan a model for every combination of some choices; it is captured once, and priced once a device.

    Args:
        model: Any model, on one device, "meta" included. It is left as it is.
        n_stages: A number of stages, or several: ``range(2, 17)``.
        example_args: Positional arguments of ONE microbatch, as ``autopipe.plan`` takes them.
        example_kwargs: Keyword arguments of the same call.
        n_microbatches: Microbatches of a step, one number or several. None: four a stage.
        schedule: A name, or several; "auto" is all there are.
        hardware: A name or a ``Hardware``, or several: ``["h100", "h100+infiniband"]``.
        memory_limit: What a rank may hold, in bytes or as "16GiB".
        keep_together: Globs over FQNs; no cut falls inside a match.
        same_stage: Groups of globs; what a group matches shares one stage.
        opaque: Globs over FQNs; each match runs its own Python as one node.
        pin: Glob -> stage; -1 is the last.
        objective: "bottleneck", the slowest stage, or "step_time", fill and drain included.
        progress: Show what is being done; None: on a terminal only.

    Returns:
        The table; a row for which there is no plan says why.

    Raises:
        ArgumentError: If an argument is wrong.
        CaptureError: If the model depends on data outside all modules that could be kept whole.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(6)))
        >>> table = what_if(model, [2, 3], (torch.empty(8, 256, device="meta"),), hardware="h100")
        >>> [row.n_stages for row in table.rows], table.plan(0).n_stages
        ([2, 3], 2)
    """
    check_switches(progress=progress)
    stages = _several("n_stages", n_stages)
    machines = _several("hardware", hardware)
    schedules = [name for given in _several("schedule", schedule) for name in schedules_of(given)]
    microbatches = _several("n_microbatches", n_microbatches)

    def checked(count: int, machine: str | Hardware | None, step: int | None, name: str) -> Choices:
        return checked_choices(
            model,
            count,
            n_ranks=None,
            n_microbatches=step,
            schedule=first_schedule(name),
            cost="roofline",
            hardware_choice=machine,
            memory_limit=memory_limit,
            keep_together=keep_together,
            same_stage=same_stage,
            opaque=opaque,
            pin=pin,
            objective=objective,
        )

    asked = [checked(*one) for one in product(stages, machines, microbatches, schedules)]
    for choices in asked:
        check_size(choices.n_stages, choices.n_microbatches)
    hardwares = list({choices.hardware.name: choices.hardware for choices in asked}.values())
    example = example_of(model, example_args, example_kwargs)
    check_one_device(model)
    with progress_shown(progress) as say:
        say("capturing the model")
        traced = capture(model, *example, opaque=asked[0].is_opaque)
        chooser = Chooser(model, traced, asked[0], example, say)
        shapes = [
            Shape(count, 1, step or MICROBATCHES_A_STAGE * count, chooser.samples)
            for count, step in product(stages, microbatches)
        ]
        found = [row for machine in hardwares for row in chooser.explore(shapes, schedules, machine)]
    return WhatIf(chooser, found)


def _several(name: str, given: Any) -> list[Any]:
    """Return one value, or several, as a list."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given]
    if not given:
        raise ArgumentError(f"{name} is empty.", remedy=f"{name}: one value or more.")
    return list(given)
