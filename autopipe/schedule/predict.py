"""What a partition would take under a schedule: the simulator, fed with the partition's own costs."""

from __future__ import annotations

from collections.abc import Sequence

from autopipe.ir.action import Transfer
from autopipe.ir.hardware import Hardware
from autopipe.ir.partition import Partition
from autopipe.ir.schedule import Schedule
from autopipe.ir.timeline import Timeline
from autopipe.schedule.comms import insert_comms, verify_transfers
from autopipe.schedule.placed import Placed
from autopipe.schedule.simulate import LinkMs, simulate


def predict(
    schedule: Schedule, partition: Partition, transfers: Sequence[Transfer], hardware: Hardware
) -> Timeline:
    """Run a schedule on a clock with the costs of a partition.

    Args:
        schedule: The schedule, without messages.
        partition: Costs of its stages.
        transfers: What crosses between them, for one microbatch.
        hardware: The links that it crosses, and whether it does so while a rank computes.

    Returns:
        The timeline of one training step.

    Example:
        >>> from autopipe.ir.hardware import Device, Link
        >>> from autopipe.ir.partition import Certificate, StageCost
        >>> from autopipe.schedule import build
        >>> gpu = Device("gpu", {}, 1e12, 2**34, 0.0, "an example")
        >>> wire = Hardware("wire", (gpu,), (Link("wire", 1e9, 0.0, "an example"),))
        >>> costs = tuple(StageCost(i, 1.0, 2.0, 0, 0, 0.0, 3.0, 0, 0, 1, 0, 1) for i in range(2))
        >>> split = Partition({"a": 0, "b": 1}, (0, 1), costs, Certificate("by hand", 3.0, 3.0, "optimal"))
        >>> predict(build("1f1b", 2, 2), split, (), wire).makespan_ms
        6.0
    """
    return simulate(
        insert_comms(schedule, transfers),
        [stage.fwd_ms for stage in partition.stages],
        [stage.bwd_ms for stage in partition.stages],
        transfers=transfers,
        link_ms=_link_ms(hardware),
        overlap=hardware.overlap,
    )


def predict_step_ms(
    schedule: Schedule, partition: Partition, transfers: Sequence[Transfer], hardware: Hardware
) -> float:
    """Time one training step as :func:`predict` does, and keep nothing of it.

    Args:
        schedule: The schedule, without messages.
        partition: Costs of its stages.
        transfers: What crosses between them, for one microbatch.
        hardware: The links that it crosses, and whether it does so while a rank computes.

    Returns:
        Milliseconds.
    """
    verify_transfers(schedule, transfers)
    schedule.verify()
    fwd_ms, bwd_ms = (
        [stage.fwd_ms for stage in partition.stages],
        [stage.bwd_ms for stage in partition.stages],
    )
    run = Placed(schedule, transfers).run(fwd_ms, bwd_ms, _link_ms(hardware), overlap=hardware.overlap)
    return run.end_ms


def _link_ms(hardware: Hardware) -> LinkMs:
    def link_ms(src: int, dst: int, nbytes: int) -> float:
        return hardware.transfer_ms(nbytes, hardware.link_in(max(src, dst)))

    return link_ms
