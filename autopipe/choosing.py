"""Plans out of many: layouts are predicted on one capture, and the fastest becomes a plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from autopipe.arguments import MICROBATCHES_A_STAGE, Choices
from autopipe.errors import ArgumentError, InfeasibleError
from autopipe.ir.alternatives import Alternatives
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.integers import is_int
from autopipe.ir.plan import Plan
from autopipe.ir.tensor import evaluate_size
from autopipe.ir.traced import TracedModel
from autopipe.planning import assembled, groups_of, pins_of, priced
from autopipe.progress import Say
from autopipe.schedule import schedule_names
from autopipe.search import Explored, Explorer, Shape, Wishes, shapes_for

MAX_DEVICES = 16384
"""As many as trained Llama 3 405B (Grattafiori et al., 2024, section 3.3.2)."""

_MANY_DEVICES = 64
"""Devices above which no layout is sought whose stages have replicas of their own."""

_FACTORS = (0.25, 0.5, 1, 2, 4)
"""Microbatches that are tried, in samples of the example."""


@dataclass(frozen=True)
class Chooser:
    """Predicts layouts of one captured model, and makes plans of them.

    Args:
        model: The model.
        traced: Its capture.
        choices: What the caller chose of all that is the same for every layout.
        example: The microbatch that it was captured with.
        say: Is told what is being done.
    """

    model: nn.Module
    traced: TracedModel
    choices: Choices
    example: tuple[tuple[Any, ...], dict[str, Any]]
    say: Say

    @cached_property
    def explorer(self) -> Explorer:
        """What has been predicted so far."""
        groups = tuple(groups_of(self.traced, self.choices))
        pins = pins_of(self.traced, self.choices)
        choices = self.choices
        wishes = Wishes(choices.memory_limit_bytes, pins, groups, choices.objective, choices.device_order)
        return Explorer(self._priced, wishes)

    @cached_property
    def samples(self) -> int:
        """Samples of the example; 1 if it has no batch."""
        return next((size for _, size in self._batches()), 1)

    def sizes_to_try(self) -> list[int]:
        """Return the samples that a microbatch may have: more than the example's where the batch is open."""
        found = [self.samples]
        if self.choices.cost == "measured" or not all(name for name, _ in self._batches()):
            return found
        others = (self.samples * factor for factor in _FACTORS)
        return found + [int(n) for n in others if n == int(n) and n >= 1 and self._fits(int(n))]

    def explore(
        self, shapes: Iterable[Shape], schedules: Sequence[str], hardware: Hardware
    ) -> list[Explored]:
        """Predict every shape under every schedule."""
        found = []
        for shape in shapes:
            self.say(f"trying {shape.n_stages} stages x {shape.n_replicas} replicas")
            found += [self.explorer.explore(shape, schedule, hardware) for schedule in schedules]
        return found

    def uneven(self, n_devices: int, n_samples: int, n_stages: int | None) -> list[Explored]:
        """Predict stages with replicas of their own, to compare with, where their number is free."""
        n_microbatches = n_samples // self.samples
        if n_stages is not None or n_devices > _MANY_DEVICES or n_microbatches < 1:
            return []
        self.say("trying stages with replicas of their own")
        hardware = self.choices.hardware
        found = self.explorer.uneven(n_devices, n_microbatches, self.samples, hardware)
        return [found] if found is not None else []

    def under_fastest_schedule(self) -> Plan:
        """Return the plan of the chosen stages and microbatches under the fastest schedule."""
        shape = Shape(self.choices.n_stages, 1, self.choices.n_microbatches, self.samples)
        return self.fastest(self.explore([shape], schedules_of("auto"), self.choices.hardware))

    def fastest(self, rows: Sequence[Explored]) -> Plan:
        """Return the plan of the row that takes the least time for a sample, with the whole table.

        Raises:
            InfeasibleError: If there is no plan for any of them.
        """
        table = Alternatives(tuple(found.row for found in rows))
        if table.best.refused:
            raise self._none_fits(table)
        taken = table.rows.index(table.best)
        self.say("finding the best cuts of the fastest")
        proven = self.explorer.proven(rows[taken])
        shown = (*table.rows[:taken], proven.row, *table.rows[taken + 1 :])
        return replace(self.plan(proven), alternatives=Alternatives(shown, taken))

    def _none_fits(self, table: Alternatives) -> InfeasibleError:
        limit = self.choices.memory_limit_bytes
        if limit is None:
            return InfeasibleError(
                f"none of {len(table.rows)} layouts can be planned.",
                why=table.best.refused,
                remedy="fewer stages, or pins and groups that leave room for them.",
            )
        return InfeasibleError(
            f"none of {len(table.rows)} layouts can be planned within {limit} bytes a device.",
            why=table.best.refused,
            remedy="more devices, smaller microbatches, or a larger memory_limit.",
        )

    def plan(self, found: Explored) -> Plan:
        """Make a plan of one row.

        Raises:
            InfeasibleError: If the row was refused.
        """
        found = self.explorer.proven(found)
        row = found.row
        if found.partition is None or found.schedule is None:
            raise InfeasibleError(f"there is no plan with {row.n_stages} stages.", why=row.refused)
        choices = replace(
            self.choices,
            n_stages=row.n_stages,
            n_ranks=row.n_stages,
            n_microbatches=row.n_microbatches,
            schedule=row.schedule,
            hardware=found.hardware,
        )
        graphs = self.explorer.graphs(found.hardware, row.samples)
        sizes = self._sizes(row.samples)
        made = assembled(self.model, self.traced, choices, graphs, found.schedule, found.partition, sizes)
        step_ms = made.predictions["step_ms"] + row.exchange_ms
        notes = made.notes
        if row.n_replicas > 1:
            exchange = f"adding up their gradients takes {row.exchange_ms:.3g} ms of a step"
            notes += (f"{row.n_replicas} replicas, {row.n_devices} devices; {exchange}",)
        predictions = {**made.predictions, "step_ms": step_ms}
        return replace(made, n_replicas=row.n_replicas, predictions=predictions, notes=notes)

    def _priced(self, hardware: Hardware, samples: int) -> CostGraph:
        self.say(f"pricing {samples} samples on {hardware.name}")
        choices = replace(self.choices, hardware=hardware)
        return priced(self.model, self.traced, choices, self.example, self._sizes(samples))

    def _batches(self) -> list[tuple[str | None, int]]:
        """The size of every argument's batch dimension: its symbol, None if it is not open, and its value."""
        found: list[tuple[str | None, int]] = []
        for leaf in self.traced.inputs:
            if leaf.batch_dim is None:
                continue
            size = leaf.spec.shape[leaf.batch_dim]
            is_open = isinstance(size, str) and size in self.traced.sizes
            found.append((str(size) if is_open else None, evaluate_size(size, self.traced.sizes)))
        return found

    def _sizes(self, samples: int) -> dict[str, int]:
        """Values of all symbolic sizes for microbatches of so many samples."""
        return {**self.traced.sizes, **{name: samples for name, _ in self._batches() if name}}

    def _fits(self, samples: int) -> bool:
        """Whether the capture is right for microbatches of that size."""
        sizes = self._sizes(samples)
        shapes = [leaf.spec.concrete_shape(sizes) for leaf in self.traced.inputs]
        return self.traced.bind(shapes) is not None


def plan_for_devices(
    chooser: Chooser,
    n_devices: int,
    n_stages: int | None,
    n_microbatches: int | None,
    schedules: Sequence[str],
) -> Plan:
    """Choose stages, replicas, microbatches and schedule for some devices.

    Args:
        chooser: Knows the model.
        n_devices: Devices.
        n_stages: Only layouts with so many stages; None: any.
        n_microbatches: Of a step, all replicas together, each of the size of the example; None: as many
            samples as four of them a device have, in microbatches of a size that is chosen.
        schedules: Names of the schedules to choose from.

    Returns:
        The plan that takes the least time for a sample.

    Raises:
        InfeasibleError: If none fits the memory limit.
    """
    sizes = chooser.sizes_to_try() if n_microbatches is None else [chooser.samples]
    n_samples = chooser.samples * (n_microbatches or MICROBATCHES_A_STAGE * n_devices)
    shapes = shapes_for(n_devices, n_samples, sizes, n_stages)
    rows = chooser.explore(shapes, schedules, chooser.choices.hardware)
    return chooser.fastest(rows + chooser.uneven(n_devices, n_samples, n_stages))


def schedules_of(schedule: str) -> tuple[str, ...]:
    """Return the schedules to choose from: one by its name, or all for "auto"."""
    return schedule_names() if schedule == "auto" else (schedule,)


def first_schedule(schedule: str | None) -> str:
    """Return a schedule to check the other arguments with."""
    return "1f1b" if schedule in (None, "auto") else str(schedule)


def within_device(choices: Choices) -> Choices:
    """Return the choices with a memory limit: that of the smallest device, if the caller gave none."""
    limit = choices.memory_limit_bytes or min(device.memory_bytes for device in choices.hardware.devices)
    return replace(choices, memory_limit_bytes=limit)


def check_shape(n_stages: object, n_devices: object, n_ranks: object) -> None:
    """Check how many stages and devices a plan is asked for.

    Raises:
        ArgumentError: If neither is given, if there are more stages than devices, or if ranks are shared.
    """
    if n_devices is None:
        if n_stages is None:
            raise ArgumentError(
                "neither n_stages nor n_devices is given.",
                remedy="autopipe.plan(model, 4, example_args), or n_devices=8 to have the stages chosen.",
            )
        return
    if not is_int(n_devices) or n_devices < 1:
        raise ArgumentError(f"n_devices is {n_devices!r}.", remedy="n_devices=8, an int, 1 or more.")
    if n_devices > MAX_DEVICES:
        raise ArgumentError(
            f"n_devices is {n_devices}.",
            why=f"Layouts are gone through for {MAX_DEVICES} devices at most.",
            remedy=f"n_devices={MAX_DEVICES} or fewer, or n_stages=8 for each of the replicas.",
        )
    if n_ranks is not None:
        raise ArgumentError(
            "n_ranks and n_devices are both given.",
            why="With n_devices every stage has a device of its own.",
            remedy="one of the two.",
        )
    if isinstance(n_stages, int) and n_stages > n_devices:
        raise ArgumentError(
            f"asked for {n_stages} stages on {n_devices} devices.", remedy=f"n_devices={n_stages} or more."
        )
