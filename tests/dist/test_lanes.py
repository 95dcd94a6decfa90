"""Over lanes between devices the numbers and the failures are those of messages through the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from autopipe.runtime.lanes import LaneKind, lane_kind
from tests.dist import laned
from tests.dist.crew import Crew

TIED: tuple[Any, ...] = ("tied_lm", 3, 3, "1f1b", 4, 5, 2)
SKIPS: tuple[Any, ...] = ("unet", 3, 3, "gpipe", 2, 3, 1)


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    made = Crew(2, laned.prepare, [])
    yield made
    made.close()


@pytest.fixture(scope="module")
def three() -> Iterator[Crew]:
    made = Crew(3, laned.prepare, [TIED, SKIPS])
    yield made
    made.close()


@pytest.mark.parametrize("case", [TIED, SKIPS], ids=lambda case: case[0])
def test_training_over_lanes_is_that_of_one_process(three: Crew, case: tuple[Any, ...]) -> None:
    assert all(three.run(laned.trains, case, False, within_s=240))


def test_ranks_that_share_a_device_have_no_lane(three: Crew) -> None:
    assert three.run(laned.trains, TIED, True, within_s=240) == [0, 0, 0]


@pytest.mark.parametrize("knows_layouts", [True, False])
def test_tensors_of_every_kind_cross_a_lane(two: Crew, knows_layouts: bool) -> None:
    assert all(two.run(laned.crosses, knows_layouts))


def test_a_failure_ends_all_ranks_and_the_next_step_has_new_lanes(three: Crew) -> None:
    found = three.run(laned.fails, 1, ("B", 1, 2), "boom")
    assert all("stage 1 failed in 1B2" in each["text"] for each in found)
    assert len({each["after"] for each in found}) == 1


def test_a_killed_rank_is_named_over_lanes(three: Crew) -> None:
    found = three.run(laned.fails, 2, ("F", 2, 1), "die")
    assert found.pop() is None
    assert all("rank 2 does not answer" in each["text"] for each in found)


def test_only_cuda_has_lanes() -> None:
    assert lane_kind(torch.device("cpu")) == LaneKind()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_cuda_stages_send_over_nccl() -> None:
    made = Crew(2, laned.prepare_nothing)
    try:
        assert all(made.run(laned.trains_on_cuda, within_s=120))
    finally:
        made.close()
