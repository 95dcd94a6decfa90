"""Cases for a crew: messages over lanes, which are gloo's here. All else is the code that CUDA stages run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist

from autopipe.runtime import lanes
from autopipe.runtime.lanes import LaneKind, Lanes
from tests.dist import crossing, failing, training


def gloo_group(store: Any, rank: int, n_ranks: int, patience: Any) -> Any:
    return dist.ProcessGroupGloo(store, rank, n_ranks, patience)


@contextmanager
def carried_by_lanes() -> Iterator[list[int]]:
    """Note the bytes of every message that a lane brings meanwhile."""
    usual, carried = Lanes.receive, list[int]()

    def noted(self: Lanes, nbytes: int, peer: int, what: str) -> torch.Tensor:
        carried.append(nbytes)
        return usual(self, nbytes, peer, what)

    Lanes.receive = noted
    try:
        yield carried
    finally:
        Lanes.receive = usual


@contextmanager
def over_lanes(place: str) -> Iterator[list[int]]:
    """Let engines made inside have lanes, where places differ."""
    usual = lanes.lane_kind
    lanes.lane_kind = lambda _device: LaneKind(place, gloo_group)
    try:
        with carried_by_lanes() as carried:
            yield carried
    finally:
        lanes.lane_kind = usual


def prepare(cases: list[tuple[Any, ...]]) -> None:
    training.prepare(cases)
    crossing.prepare()
    failing.prepare()


def trains(rank: int, case: tuple[Any, ...], same_place: bool) -> int:
    """Compare with one process; return how many messages a lane brought."""
    with over_lanes("one" if same_place else f"of {rank}") as carried:
        training.equals_one_process(rank, case)
    return len(carried)


def crosses(rank: int, knows_layouts: bool) -> int:
    with over_lanes(f"of {rank}") as carried:
        crossing.everything_crosses(rank, knows_layouts)
    return len(carried)


def fails(rank: int, culprit: int, at: Any, fire: str) -> dict[str, Any]:
    """Fail on one rank; the step after it connects anew, lanes too."""
    ranks = tuple(range(dist.get_world_size()))
    with over_lanes(f"of {rank}"):
        failing._groups[ranks] = dist.group.WORLD
        return failing.in_an_action(rank, ranks, culprit, at, fire)


def prepare_nothing() -> None:
    """CUDA does not survive a fork, so that each rank captures for itself."""


def trains_on_cuda(rank: int) -> int:
    """Compare with the same stages in one process on the CPU; return how many messages a lane brought."""
    torch.cuda.set_device(rank)
    file, losses = training.load("tied_lm"), []
    for devices, group in ((None, None), ([f"cuda:{rank}"] * 3, dist.group.WORLD)):
        training.split.cache_clear()
        _, pipe, _ = training.split("tied_lm", 3, 2)
        options = {"n_microbatches": 4, "seed": 0, "timeout_s": 60}
        with carried_by_lanes() as carried, pipe.engine(devices, group, **options) as engine:
            step = training.step_of(engine.eval(), file)
            losses.append([float(step(file.make_batch(5, seed=0))[0]) for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    return len(carried)
