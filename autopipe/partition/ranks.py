"""Virtual stages: several on a rank, dealt out in turn."""

from __future__ import annotations

from dataclasses import replace

from autopipe.ir.partition import Partition, StageCost


def on_ranks(partition: Partition, n_ranks: int) -> Partition:
    """Deal the stages out to ranks in turn; with virtual stages the bottleneck is the slowest rank.

    Args:
        partition: One stage a rank.
        n_ranks: How many ranks there are.

    Returns:
        The partition with ranks; the bound is the larger of that for stages and an equal share.
    """
    n_stages = partition.n_stages
    if n_ranks == n_stages:
        return partition
    ranks = tuple(stage % n_ranks for stage in range(n_stages))
    loads = [0.0] * n_ranks
    for stage, rank in zip(partition.stages, ranks, strict=True):
        loads[rank] += stage.total_ms
    share = sum(_needed_ms(stage) for stage in partition.stages) / n_ranks
    certificate = partition.certificate
    bound = min(max(certificate.lower_bound_ms, share), max(loads))
    stopped = "optimal" if bound == max(loads) else "virtual stages: bound by stages and by equal shares"
    certificate = replace(certificate, bottleneck_ms=max(loads), lower_bound_ms=bound, stopped_by=stopped)
    return replace(partition, rank_of_stage=ranks, certificate=certificate)


def _needed_ms(stage: StageCost) -> float:
    """Compute that some rank does in any split: without a second forward, which another split may spare."""
    return stage.bwd_ms if stage.recompute else stage.fwd_ms + stage.bwd_ms
