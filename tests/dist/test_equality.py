"""Trained over processes a model is what it is trained in one: every model, a pairwise sample of the rest.

Dropout is on, and only rank 0 knows the seed. The tied, the normalising and the ragged are among the cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from models import NAMES
from tests.dist import training
from tests.dist.crew import Crew

# model, stages, ranks, schedule, microbatches, samples, steps
TWO: list[tuple[Any, ...]] = [
    ("gpt", 2, 2, "1f1b", 2, 4, 2),
    ("llama_like", 3, 2, "gpipe", 4, 4, 2),
    ("unet", 4, 2, "1f1b", 2, 2, 2),
    ("tied_lm", 3, 2, "1f1b", 4, 5, 3),
    ("two_tower", 2, 2, "gpipe", 3, 5, 2),
    ("mixture_of_experts", 2, 2, "1f1b", 2, 4, 1),
    ("encoder_decoder", 2, 2, "1f1b", 2, 4, 1),
    ("recommender", 4, 2, "gpipe", 4, 7, 2),
    ("lstm", 2, 2, "1f1b", 2, 4, 1),
    ("resnet", 3, 2, "1f1b", 3, 5, 3),
]
FOUR: list[tuple[Any, ...]] = [
    ("tied_lm", 4, 4, "gpipe", 2, 4, 2),
    ("recommender", 5, 4, "1f1b", 4, 6, 2),
    ("resnet", 4, 4, "1f1b", 4, 5, 2),
]


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    made = Crew(2, training.prepare, TWO)
    yield made
    made.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Crew]:
    made = Crew(4, training.prepare, FOUR)
    yield made
    made.close()


def test_every_model_is_in_the_sample() -> None:
    assert {case[0] for case in TWO} == set(NAMES)


@pytest.mark.parametrize("case", TWO, ids=lambda case: case[0])
def test_two_processes_train_as_one(two: Crew, case: tuple[Any, ...]) -> None:
    assert_parts(two.run(training.equals_one_process, case, within_s=240))


@pytest.mark.parametrize("case", FOUR, ids=lambda case: case[0])
def test_four_processes_train_as_one(four: Crew, case: tuple[Any, ...]) -> None:
    assert_parts(four.run(training.equals_one_process, case, within_s=240))


def test_parts_are_put_together_in_another_number_of_stages(two: Crew, tmp_path: Any) -> None:
    two.run(training.saves_and_loads, str(tmp_path))


def test_a_pipeline_does_not_return_stale_weights(two: Crew) -> None:
    two.run(training.refuses_stale_weights)


def test_a_rank_may_leave_out_what_its_stages_do_not_read(two: Crew) -> None:
    assert any(two.run(training.leaves_out_tensors))


def test_a_stage_that_does_not_fit_runs_again_in_its_process(two: Crew) -> None:
    assert all(two.run(training.runs_forwards_again, within_s=240))


def test_what_each_rank_computes_for_itself_is_not_sent(two: Crew) -> None:
    assert all(two.run(training.computes_tables_where_they_are_read, within_s=240))


def assert_parts(trained: list[list[str]]) -> None:
    """No two ranks train the same; together they have all but the two numbers that each has."""
    own = [{name for name in names if not name.startswith("_autopipe")} for names in trained]
    assert sum(map(len, own)) == len(set().union(*own))
