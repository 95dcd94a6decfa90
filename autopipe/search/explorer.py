"""Answers "what would this layout take" again and again, and does no work twice.

::

    prices        one cost graph for each kind of device and size of a microbatch
    partitions    one solve for each graph, links, number of stages, and memory that the schedule needs
    steps         one simulation for each partition, schedule and number of microbatches

A table of many layouts is of the best splits along a few linear orders, which is where the optimum mostly
lies; the layout that is taken is searched in full and proven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autopipe.errors import ArgumentError, PartitionError
from autopipe.ir.alternatives import Alternative
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.partition import Partition
from autopipe.ir.schedule import Schedule
from autopipe.partition import BUDGET, Known, Objective, Replicas, Rules, solve
from autopipe.schedule import build, check_size, in_flight
from autopipe.schedule.predict import predict_step_ms
from autopipe.search.crossing import transfers_between
from autopipe.search.exchange import all_reduce_ms
from autopipe.search.shapes import Shape
from autopipe.search.wishes import Wishes

Priced = Callable[[Hardware, int], CostGraph]
"""From machines with one kind of device and the samples of a microbatch to prices."""

Held = tuple[int, ...] | None
"""Microbatches in flight, stage by stage; None: as 1F1B holds them."""

Solved = Callable[[int | None, Held], Partition | PartitionError]
"""From a memory limit and what is in flight to the best split, or why there is none."""


@dataclass(frozen=True, slots=True)
class Explored:
    """A row of the table, and what is behind it.

    Args:
        row: The numbers.
        hardware: The machines, in the order in which they are used.
        asked: The layout, schedule aside, and the machines as they were given.
        schedule: Its actions; None where there is no such plan.
        partition: Its split; None where there is none.
    """

    row: Alternative
    hardware: Hardware
    asked: tuple[Shape, Hardware] | None = None
    schedule: Schedule | None = None
    partition: Partition | None = None


class Explorer:
    """Predicts layouts of one captured model.

    Args:
        priced: Prices the model.
        wishes: What every partition keeps to.

    Example:
        >>> from autopipe.ir.cost_graph import CostNode
        >>> from autopipe.ir.hardware import Device, Link
        >>> a, b = CostNode("a", fwd_ms=3.0, out_bytes=1000, grad_bytes=1000), CostNode("b", fwd_ms=3.0)
        >>> chain = CostGraph.build([a, b], [("a", "b")])
        >>> gpu, wire = Device("gpu", {}, 1e12, 2**34, 0.0, ""), Link("wire", 1e12, 0.0, "")
        >>> explorer = Explorer(lambda hardware, samples: chain, Wishes())
        >>> row = explorer.explore(Shape(2, 1, 4, 1), "1f1b", Hardware("two", (gpu,), (wire,))).row
        >>> round(row.step_ms, 3)
        15.0
    """

    def __init__(self, priced: Priced, wishes: Wishes) -> None:
        """Start with nothing known."""
        self._price, self._wishes = priced, wishes
        self._graphs: dict[tuple[str, int], CostGraph] = {}
        self._partitions: dict[tuple[object, ...], Partition | PartitionError] = {}
        self._known = Known()

    def graphs(self, hardware: Hardware, samples: int) -> list[CostGraph]:
        """Return the prices of one microbatch of so many samples: for all positions, or one a position."""
        for device in hardware.devices:
            if (device.name, samples) not in self._graphs:
                self._graphs[device.name, samples] = self._price(hardware.on_one(device), samples)
        found = [self._graphs[device.name, samples] for device in hardware.devices]
        return found if any(graph is not found[0] for graph in found) else found[:1]

    def explore(
        self, shape: Shape, schedule_name: str, hardware: Hardware, *, proven: bool = False
    ) -> Explored:
        """Predict one layout.

        Args:
            shape: Stages, replicas and microbatches.
            schedule_name: A name that ``autopipe.schedule.build`` knows.
            hardware: Devices and links; replicas of a stage are joined by its slowest link.
            proven: Search in full, with a proof; else along a few linear orders.

        Returns:
            The row; refused, with the reason, where there is no partition.
        """
        row = Alternative(
            shape.n_stages,
            shape.n_replicas,
            shape.n_microbatches,
            shape.samples,
            schedule_name,
            hardware.name,
        )
        asked, solved = (shape, hardware), partial(self._solved, shape, hardware, proven)
        free = solved(None, None)
        if isinstance(free, PartitionError):
            return Explored(replace(row, refused=free.what), hardware)
        try:
            check_size(shape.n_stages, shape.n_microbatches)
        except ArgumentError as error:
            return Explored(replace(row, refused=error.what), hardware)
        schedule = build(schedule_name, shape.n_stages, shape.n_microbatches)
        partition = self._within_limit(free, shape, schedule, hardware, solved)
        if isinstance(partition, PartitionError):
            return Explored(replace(row, refused=partition.what), hardware)
        if partition.device_order:
            hardware = hardware.in_order(partition.device_order)
        graph = self.graphs(hardware, shape.samples)[0]
        step_ms = predict_step_ms(schedule, partition, transfers_between(graph, partition), hardware)
        wire = min(hardware.links, key=lambda link: link.bytes_per_s)
        largest = max(stage.param_bytes for stage in partition.stages)
        exchange_ms = all_reduce_ms(largest, shape.n_replicas, wire)
        row = replace(
            row,
            n_recomputed=sum(stage.recompute for stage in partition.stages),
            bottleneck_ms=partition.certificate.bottleneck_ms,
            lower_bound_ms=partition.certificate.lower_bound_ms,
            exchange_ms=exchange_ms,
            step_ms=step_ms + exchange_ms,
            memory_bytes=max(stage.memory_bytes for stage in partition.stages),
        )
        return Explored(row, hardware, asked, schedule, partition)

    def proven(self, found: Explored) -> Explored:
        """Search a layout in full.

        Args:
            found: What is known of it.

        Returns:
            The same layout, its partition with a proof; itself where there is none.
        """
        if found.asked is None:
            return found
        shape, hardware = found.asked
        return self.explore(shape, found.row.schedule, hardware, proven=True)

    def uneven(
        self, n_devices: int, n_microbatches: int, samples: int, hardware: Hardware
    ) -> Explored | None:
        """Predict the best layout whose stages have replicas of their own.

        Args:
            n_devices: Devices.
            n_microbatches: Of a step, dealt out to the replicas of a stage in turn.
            samples: Samples of a microbatch.
            hardware: Devices and links, all alike.

        Returns:
            The row: every stage once, and the slowest for each further microbatch; None where replicas are
            the same in all stages, or where there is none.

        Complexity: dynamic programming over a few linear orders.
        """
        limit = self._wishes.memory_limit_bytes
        layout = self._laid_out(n_devices, n_microbatches, samples, hardware, None)
        if layout is not None and limit is not None and max(s.memory_bytes for s in layout.stages) > limit:
            layout = self._laid_out(n_devices, n_microbatches, samples, hardware, limit)
        if layout is None or layout.n_devices < n_devices:
            return None
        stages, certificate = layout.stages, layout.certificate
        replicas = tuple(stage.n_replicas for stage in stages)
        if len(set(replicas)) == 1:
            return None
        through_ms = sum(stage.fwd_ms + stage.bwd_ms + stage.comm_ms for stage in stages)
        row = Alternative(
            len(stages),
            1,
            n_microbatches,
            samples,
            "1f1b",
            hardware.name,
            bottleneck_ms=certificate.bottleneck_ms,
            lower_bound_ms=certificate.lower_bound_ms,
            step_ms=through_ms + (n_microbatches - 1) * certificate.bottleneck_ms,
            memory_bytes=max(stage.memory_bytes for stage in stages),
            replicas=replicas,
        )
        return Explored(row, hardware)

    def _laid_out(
        self, n_devices: int, n_microbatches: int, samples: int, hardware: Hardware, limit: int | None
    ) -> Partition | None:
        graphs = self.graphs(hardware, samples)
        if self._wishes.pin or len(graphs) > 1 or len(set(hardware.links)) > 1:
            return None
        try:
            return solve(
                graphs[0],
                n_devices,
                hardware=hardware,
                memory_limit_bytes=limit,
                together=self._wishes.together,
                n_microbatches=n_microbatches,
                replicas=Replicas(),
                budget=0,
                known=self._known,
            )
        except PartitionError:
            return None

    def _within_limit(
        self, free: Partition, shape: Shape, schedule: Schedule, hardware: Hardware, solved: Solved
    ) -> Partition | PartitionError:
        """The best split within the memory limit: that without a limit, if it fits."""
        limit, held = self._wishes.memory_limit_bytes, in_flight(schedule)
        placed = hardware.in_order(free.device_order) if free.device_order else hardware
        graphs = self.graphs(placed, shape.samples)
        free = self._holding(free, held, graphs, placed, shape.n_microbatches)
        if limit is not None and max(stage.memory_bytes for stage in free.stages) > limit:
            return solved(limit, held)
        return free

    def _solved(
        self, shape: Shape, hardware: Hardware, proven: bool, limit: int | None, held: Held
    ) -> Partition | PartitionError:
        found = self._remembered(shape, hardware, BUDGET if proven else 0, limit, held)
        if isinstance(found, PartitionError) and not proven:  # along no order: is there any at all?
            return self._remembered(shape, hardware, BUDGET, limit, held)
        return found

    def _remembered(
        self, shape: Shape, hardware: Hardware, budget: int, limit: int | None, held: Held
    ) -> Partition | PartitionError:
        graphs = self.graphs(hardware, shape.samples)
        graph = graphs[0]
        counted = graph.tied or self._wishes.objective == "step_time"
        spread = shape.n_microbatches if counted else None
        key = (id(graph), hardware.links, hardware.overlap, shape.n_stages, spread, limit, held, budget)
        if key not in self._partitions:
            try:
                self._partitions[key] = solve(
                    graphs if len(graphs) > 1 else graph,
                    shape.n_stages,
                    hardware=hardware,
                    in_flight=held,
                    memory_limit_bytes=limit,
                    allow_recompute=True,
                    pin=self._wishes.pin,
                    together=self._wishes.together,
                    n_microbatches=shape.n_microbatches,
                    objective=self._wishes.objective,
                    device_order=self._wishes.device_order,
                    budget=budget,
                    known=self._known,
                )
            except PartitionError as error:
                self._partitions[key] = error
        return self._partitions[key]

    def _holding(
        self,
        partition: Partition,
        held: tuple[int, ...],
        graphs: Sequence[CostGraph],
        hardware: Hardware,
        n_microbatches: int,
    ) -> Partition:
        """The same split under a schedule that keeps another number of microbatches."""
        if held == tuple(stage.in_flight for stage in partition.stages):
            return partition
        again = frozenset(partition.recomputed)
        rules = Rules(in_flight=held, n_microbatches=n_microbatches, recomputed=again)
        objective = Objective(graphs, hardware, partition.n_stages, rules, self._known)
        return replace(partition, stages=objective.price_all(partition.stage_of))
