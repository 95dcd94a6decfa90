"""Whatever fails on one rank, every rank raises the same first cause in time, and the next call works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dist import failing
from tests.dist.crew import Crew
from tests.dist.failing import TIMEOUT_S

ALL = (0, 1, 2)
KILLED = [((3, 5, 6), ("F", 0, 2)), ((2, 4, 6), ("B", 1, 0)), ((0, 1, 6), ("B", 2, 3))]
MEET_TO_BE_KILLED = (0, 1, 5)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew(7, failing.prepare)
    made.run(failing.make_groups, ALL, *(ranks for ranks, _ in KILLED), MEET_TO_BE_KILLED)
    yield made
    made.close()


def assert_together(found: list[Any], kind: str, *words: str, within_s: float = TIMEOUT_S) -> None:
    for each in found:
        assert each["kind"] == kind, each["text"]
        assert all(word in each["text"] for word in words), each["text"]
        assert each["seconds"] < within_s + 1.0
        assert each["threads"] <= 0
    assert len({each.get("after") for each in found}) == 1


@pytest.mark.parametrize("microbatch", [0, 3])
@pytest.mark.parametrize("kind", ["F", "B"])
@pytest.mark.parametrize("rank", ALL)
def test_a_failing_stage_is_named_on_every_rank(crew: Crew, rank: int, kind: str, microbatch: int) -> None:
    found = crew.run(failing.in_an_action, ALL, rank, (kind, rank, microbatch), "boom", ranks=[*ALL])
    words = [f"stage {rank} failed in {rank}{kind}{microbatch}", f"rank {rank}", f"microbatch {microbatch}"]
    assert_together(found, "EngineError", *words, "ValueError: boom", within_s=1.0)


@pytest.mark.parametrize(
    ("rank", "action"),
    [(0, "0SEND_F1>1:x"), (1, "1RECV_F2<0:x"), (2, "2SEND_B0>1:x"), (1, "1RECV_B3<2:x"), (0, "0RECV_B0<1:x")],
)
def test_a_failing_message_is_named_on_every_rank(crew: Crew, rank: int, action: str) -> None:
    found = crew.run(failing.in_a_message, ALL, rank, action, ranks=[*ALL])
    words = [f"stage {rank} failed in {action.partition('>')[0].partition('<')[0]}", f"rank {rank}", "boom"]
    assert_together(found, "EngineError", *words, within_s=1.0)


@pytest.mark.parametrize(
    ("rank", "what", "kind", "word"),
    [
        (2, "loss", "EngineError", "boom"),
        (1, "shape", "PlanMismatchError", "float32[8, 4] on rank 0, float32[6, 4] on rank 1"),
        (2, "dtype", "PlanMismatchError", "float64[8, 4] on rank 2"),
        (0, "call", "PlanMismatchError", "rank 0 is at the beginning of forward"),
        (1, "clip", "PlanMismatchError", "rank 1 at clip_grad_norm_"),
        (1, "no loss_fn", "PlanMismatchError", "loss_fn given is True on rank 0, False on rank 1"),
        (2, "no_grad", "ArgumentError", "a step needs gradients, but they are off"),
        (1, "eval", "PlanMismatchError", "training is True on rank 0, False on rank 1"),
        (2, "missing", "ArgumentError", "this rank was given no"),
        (1, "late", "EngineError", "rank 1 does not answer"),
    ],
)
def test_ranks_that_differ_raise_the_same(crew: Crew, rank: int, what: str, kind: str, word: str) -> None:
    found = crew.run(failing.different, ALL, rank, what, ranks=[*ALL])
    if what == "late":
        found[1]["seconds"] = 0.0
    assert_together(found, kind, word)


def test_an_interrupted_rank_ends_the_others(crew: Crew) -> None:
    found = crew.run(failing.in_an_action, ALL, 1, ("F", 1, 2), "interrupt", ranks=[*ALL])
    assert found.pop(1)["kind"] == "KeyboardInterrupt"
    assert_together(found, "EngineError", "rank 1 stopped", "KeyboardInterrupt", within_s=1.0)


def test_a_rank_that_is_stuck_is_named(crew: Crew) -> None:
    found = crew.run(failing.in_an_action, ALL, 1, ("B", 1, 1), "stick", ranks=[*ALL])
    found[1]["seconds"] = 0.0
    assert_together(found, "EngineError", "rank 1 does not answer")


@pytest.mark.parametrize(("how", "word"), [("close", "rank 2 closed its engine"), ("error", "boom")])
def test_a_rank_that_leaves_is_named(crew: Crew, how: str, word: str) -> None:
    found = crew.run(failing.leaving, ALL, 2, how, ranks=[*ALL])
    found.pop(2)
    assert_together(found, "EngineError", "rank 2", word)


def test_a_lost_store_ends_every_rank_and_each_says_where_it_was(crew: Crew) -> None:
    found = crew.run(failing.without_store, ALL, 1, ranks=[*ALL])
    assert_together(found, "EngineError", "the store", "rank 0, or the launcher", "DistNetworkError")
    assert "had failed" in found[1]["text"]
    assert "stage 1 failed in 1F1" in found[1]["text"]
    # Whether rank 1's first message was still on its way when it failed is not ours to say.
    assert re.search("rank 2, in 2RECV_F[01]<1:", found[2]["text"])


@pytest.mark.parametrize(
    ("what", "kind", "word"),
    [
        ("size", "ArgumentError", "the group has 3 ranks, the plan 2"),
        ("version", "PlanMismatchError", "autopipe is 0.1.0 on rank 0, 0.0.1 on rank 1"),
        ("model", "PlanMismatchError", "extra.weight is absent on rank 0"),
        ("requires_grad", "PlanMismatchError", "b.weight is True on rank 0, False on rank 1"),
        ("plan", "PlanMismatchError", "is stage 1 on rank 0, stage 0 on rank 1"),
        ("mode", "PlanMismatchError", "training is True on rank 0, False on rank 1"),
        ("microbatches", "PlanMismatchError", "n_microbatches is 4 on rank 0, 2 on rank 1"),
        ("argument", "ArgumentError", "there is no loss_reduction 'median'"),
        ("half a microbatch", "ArgumentError", "n_microbatches is 2.5"),
        ("device", "ArgumentError", "device cuda:77 is not there"),
        ("address", "EngineError", "rank 1, GLOO_SOCKET_IFNAME=nowhere0"),
    ],
)
def test_ranks_that_cannot_work_together_say_so_when_they_meet(
    crew: Crew, what: str, kind: str, word: str
) -> None:
    assert_together(crew.run(failing.meeting, ALL, 1, what, ranks=[*ALL]), kind, word)


def test_a_measured_plan_comes_from_rank_0(crew: Crew) -> None:
    first, *others = crew.run(failing.measured_differently, ALL, ranks=[*ALL])
    assert all(other == first for other in others)


def test_a_rank_that_never_comes_is_named(crew: Crew) -> None:
    found = crew.run(failing.meeting, ALL, 1, "never", ranks=[*ALL])
    found.pop(1)
    assert_together(found, "EngineError", "rank 1 never came", within_s=2.0)


@pytest.mark.parametrize(("ranks", "at"), KILLED)
def test_a_rank_that_is_killed_is_named(crew: Crew, ranks: tuple[int, ...], at: tuple[str, int, int]) -> None:
    place = at[1]
    found = crew.run(failing.in_an_action, ranks, ranks[place], at, "die", ranks=[*ranks])
    assert found.pop(place) is None
    assert_together(found, "EngineError", f"rank {place} does not answer", "killed")


def test_a_rank_that_is_killed_while_they_meet_is_named(crew: Crew) -> None:
    found = crew.run(failing.meeting, MEET_TO_BE_KILLED, 5, "die", ranks=[*MEET_TO_BE_KILLED])
    assert found.pop(2) is None
    assert_together(found, "EngineError", "rank 2 never came", within_s=2.0)
