"""A partition: which stage every node is in, what the stages cost, and the proof of how good that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autopipe.errors import PartitionError


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage costs for one microbatch.

    Args:
        index: Position in the pipeline.
        fwd_ms: Forward compute.
        bwd_ms: Backward compute; with ``recompute`` it contains a second forward.
        recv_bytes: Values that arrive over the link into the stage, and the gradients that leave for them.
        send_bytes: Values that leave over the link out of it, once each, and the gradients that return.
        comm_ms: Time of both on their links.
        total_ms: What the stage takes: compute + comm_ms, or their maximum where they overlap.
        param_bytes: Parameters, a tied one counted once.
        saved_bytes: Kept for the backward of one microbatch.
        in_flight: Microbatches whose forward is done and whose backward is not, at most.
        memory_bytes: Parameters, gradients, optimizer state and ``in_flight`` times what is kept.
        n_nodes: Nodes of the cost graph.
        recompute: Saved values are dropped and the forward runs again before the backward.
        n_replicas: Devices that run the stage in turns; ``total_ms`` is the time from one microbatch to the
            next, ``memory_bytes`` that of each.
    """

    index: int
    fwd_ms: float
    bwd_ms: float
    recv_bytes: int
    send_bytes: int
    comm_ms: float
    total_ms: float
    param_bytes: int
    saved_bytes: int
    in_flight: int
    memory_bytes: int
    n_nodes: int
    recompute: bool = False
    n_replicas: int = 1

    def verify(self) -> None:
        """Raise PartitionError, naming the field, unless every number is finite and not negative."""
        for name, value in asdict(self).items():
            if not math.isfinite(value) or value < 0:
                raise PartitionError(f"stage {self.index} has {name} = {value}.")
        if self.n_replicas < 1:
            raise PartitionError(f"stage {self.index} has {self.n_replicas} replicas.")

    def __str__(self) -> str:
        """Print as one line."""
        replicas = f" x {self.n_replicas}" if self.n_replicas > 1 else ""
        return (
            f"stage {self.index}{replicas}: {self.n_nodes} nodes, fwd {self.fwd_ms:g} ms, "
            f"bwd {self.bwd_ms:g} ms, comm {self.comm_ms:g} ms, total {self.total_ms:g} ms, "
            f"{self.memory_bytes} bytes{', forward run again' if self.recompute else ''}"
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """How good a partition is, and who says so.

    Args:
        method: The solver or rule that found the partition.
        bottleneck_ms: The largest stage (or rank) time of the partition.
        lower_bound_ms: No partition whatever has a smaller one.
        stopped_by: ``"optimal"``, or the budget that ended the search.
        objective: What was minimised: ``"bottleneck"``, or ``"step_time"``: the sum of all stage times plus
            the largest for each further microbatch.
        step_time_ms: The step time of the partition, where that was minimised.
        step_time_bound_ms: No partition whatever has a smaller one.

    Example:
        >>> Certificate("downsets", 10.0, 9.0, "work budget").gap
        0.09999999999999998
    """

    method: str
    bottleneck_ms: float
    lower_bound_ms: float
    stopped_by: str
    objective: str = "bottleneck"
    step_time_ms: float = 0.0
    step_time_bound_ms: float = 0.0

    @property
    def gap(self) -> float:
        """``1 - bound / bottleneck``: at most so much of the bottleneck could be saved."""
        return _share_to_save(self.bottleneck_ms, self.lower_bound_ms)

    @property
    def step_time_gap(self) -> float:
        """The same of the step time; 0 where that was not minimised."""
        return _share_to_save(self.step_time_ms, self.step_time_bound_ms)

    def verify(self) -> None:
        """Raise unless every bound is finite, not negative and not above what it bounds.

        Raises:
            PartitionError: The numbers contradict each other.
        """
        if not (math.isfinite(self.step_time_ms) and 0 <= self.step_time_bound_ms <= self.step_time_ms):
            raise PartitionError(
                f"certificate of {self.method!r}: bound {self.step_time_bound_ms} ms, "
                f"step time {self.step_time_ms} ms."
            )
        if not (math.isfinite(self.bottleneck_ms) and 0 <= self.lower_bound_ms <= self.bottleneck_ms):
            raise PartitionError(
                f"certificate of {self.method!r}: bound {self.lower_bound_ms} ms, "
                f"bottleneck {self.bottleneck_ms} ms."
            )


def _share_to_save(value_ms: float, bound_ms: float) -> float:
    return max(0.0, 1.0 - bound_ms / value_ms) if value_ms > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Partition:
    """Every node's stage, with costs and certificate.

    Args:
        stage_of: Node name to stage, in the order of the graph.
        rank_of_stage: The rank that runs each stage.
        stages: What each stage costs.
        certificate: The proof.
        recomputed: Values that reading stages compute again instead of receiving them.
        device_order: Which of the devices runs each stage, where their order was chosen; empty: as given.

    Example:
        >>> cost = StageCost(0, 1.0, 2.0, 0, 0, 0.0, 3.0, 8, 0, 1, 32, 1)
        >>> print(Partition({"a": 0}, (0,), (cost,), Certificate("by hand", 3.0, 3.0, "optimal")))
        1 stage, bottleneck 3 ms, lower bound 3 ms (gap 0.00 %), by hand
          stage 0: 1 nodes, fwd 1 ms, bwd 2 ms, comm 0 ms, total 3 ms, 32 bytes
    """

    stage_of: Mapping[str, int] = field(hash=False)
    rank_of_stage: tuple[int, ...]
    stages: tuple[StageCost, ...]
    certificate: Certificate
    recomputed: tuple[str, ...] = ()
    device_order: tuple[int, ...] = ()

    @property
    def n_stages(self) -> int:
        """Number of stages."""
        return len(self.rank_of_stage)

    @property
    def n_ranks(self) -> int:
        """Number of ranks."""
        return max(self.rank_of_stage) + 1

    @property
    def n_devices(self) -> int:
        """Devices of all stages together, replicas counted."""
        return sum(stage.n_replicas for stage in self.stages)

    @property
    def running_twice(self) -> tuple[int, ...]:
        """The stages that run their forward again before the backward, because they do not fit otherwise."""
        return tuple(stage.index for stage in self.stages if stage.recompute)

    def members(self, stage: int) -> tuple[str, ...]:
        """The nodes of one stage, in the order of the graph."""
        return tuple(name for name, index in self.stage_of.items() if index == stage)

    def verify(self) -> None:
        """Raise unless stages, ranks and costs agree.

        Raises:
            PartitionError: Names the node, stage or rank.
        """
        if len(self.stages) != self.n_stages:
            raise PartitionError(f"{len(self.stages)} stage costs for {self.n_stages} stages.")
        counted = [0] * self.n_stages
        for name, stage in self.stage_of.items():
            if not 0 <= stage < self.n_stages:
                raise PartitionError(f"node {name!r} is in stage {stage} of {self.n_stages}.")
            counted[stage] += 1
        for index, cost in enumerate(self.stages):
            cost.verify()
            if cost.index != index or cost.n_nodes != counted[index]:
                raise PartitionError(
                    f"stage {index}: its cost is of stage {cost.index}, {cost.n_nodes} nodes."
                )
        if sorted(set(self.rank_of_stage)) != list(range(self.n_ranks)):
            raise PartitionError(f"ranks {self.rank_of_stage} are not 0 to {self.n_ranks - 1}.")
        self.certificate.verify()

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types from which :meth:`from_json` makes an equal partition."""
        return {
            "stage_of": dict(self.stage_of),
            "rank_of_stage": list(self.rank_of_stage),
            "stages": [asdict(stage) for stage in self.stages],
            "certificate": asdict(self.certificate),
            "recomputed": list(self.recomputed),
            "device_order": list(self.device_order),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Partition:
        """The partition that :meth:`to_json` wrote; verified."""
        partition = cls(
            dict(data["stage_of"]),
            tuple(data["rank_of_stage"]),
            tuple(StageCost(**stage) for stage in data["stages"]),
            Certificate(**data["certificate"]),
            tuple(data.get("recomputed", ())),
            tuple(data.get("device_order", ())),
        )
        partition.verify()
        return partition

    def __str__(self) -> str:
        """The certificate and one line a stage."""
        c = self.certificate
        plural = "stage" if self.n_stages == 1 else "stages"
        lines = [
            f"{self.n_stages} {plural}, bottleneck {c.bottleneck_ms:g} ms, lower bound {c.lower_bound_ms:g} "
            f"ms (gap {c.gap:.2%}), {c.method}".replace("%)", " %)")
        ]
        if c.objective == "step_time":
            gap = f"{c.step_time_gap:.2%}".replace("%", " %")
            lines.append(
                f"  step time {c.step_time_ms:g} ms, lower bound {c.step_time_bound_ms:g} ms (gap {gap})"
            )
        return "\n".join([*lines, *(f"  {stage}" for stage in self.stages)])
