"""What crosses between processes arrives as it does in one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.dist import between_steps, crossing, overlap
from tests.dist.crew import Crew


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew(2, crossing.prepare)
    yield made
    made.close()


def test_tensors_of_every_kind_cross(crew: Crew) -> None:
    assert crew.run(crossing.everything_crosses, True) == [0, 0]


def test_a_layout_that_is_not_what_was_expected_is_agreed_again(crew: Crew) -> None:
    n_changed = crew.run(crossing.everything_crosses, False)
    assert n_changed[0] == n_changed[1] > 0


def test_as_many_rows_arrive_as_the_values_select(crew: Crew) -> None:
    for found in crew.run(crossing.values_decide_how_many_rows_arrive):
        assert found[:2] == found[2:]
        assert found[0] != found[1]


def test_the_users_communicator_carries_only_the_users_messages(crew: Crew) -> None:
    found = crew.run(between_steps.users_messages_wait_through_steps)
    assert found == [[11.0, 11.0, 11.0, 3.0], [10.0, 10.0, 10.0, 3.0]]


def test_the_users_collectives_work_between_steps(crew: Crew) -> None:
    one, other = crew.run(between_steps.users_collectives_between_steps)
    with crossing.split().engine(n_microbatches=3, seed=0) as engine:
        alone = [engine.step(torch.full((5, 4), 1.0 + step), loss_fn=crossing.judge) for step in range(3)]
    assert one == other == [2 * float(out.loss) for out in alone]


def test_messages_travel_while_both_ranks_compute(crew: Crew) -> None:
    assert crew.run(overlap.arrives_during_another_forward) == [True, True]
