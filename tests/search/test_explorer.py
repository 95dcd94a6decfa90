"""What is predicted for a layout is what its plan alone would have, and nothing is done twice."""

from __future__ import annotations

import json

import pytest

from autopipe.ir.alternatives import Alternative, Alternatives
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Hardware
from autopipe.partition import solve
from autopipe.search import Explorer, Shape, Wishes, all_reduce_ms
from tests.partition.random_graphs import wires

WIRES = wires(1000.0)


def chain(samples: int, n: int = 8) -> CostGraph:
    nodes = [
        CostNode(
            f"n{i}",
            fwd_ms=1.0 * samples,
            bwd_input_ms=2.0 * samples,
            out_bytes=100 * samples,
            grad_bytes=100 * samples,
            param_bytes=1000,
            saved_bytes=500 * samples,
        )
        for i in range(n)
    ]
    return CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(n - 1)])


class Counting:
    """Prices the chain and counts how often."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, hardware: Hardware, samples: int) -> CostGraph:
        self.asked.append((hardware.name, samples))
        return chain(samples)


def test_one_stage_takes_its_work_and_the_exchange() -> None:
    row = Explorer(Counting(), Wishes()).explore(Shape(1, 4, 3, 2), "1f1b", WIRES).row
    exchange_ms = 2 * 3 * (8 * 1000 / 4) / 1000.0  # 2 (r - 1) rounds of a quarter of the gradients
    assert row.exchange_ms == pytest.approx(exchange_ms)
    assert row.step_ms == pytest.approx(3 * 8 * 3.0 * 2 + exchange_ms)
    assert row.ms_per_sample == pytest.approx(row.step_ms / (4 * 3 * 2))


def test_a_replica_alone_exchanges_nothing() -> None:
    assert all_reduce_ms(10**9, 1, WIRES.links[0]) == 0.0


def test_equal_stages_take_the_time_of_the_formula() -> None:
    row = Explorer(Counting(), Wishes()).explore(Shape(4, 1, 8, 1), "1f1b", wires(1e12)).row
    assert row.step_ms == pytest.approx((8 + 4 - 1) * 2 * 3.0)


def test_nothing_is_priced_twice() -> None:
    counting = Counting()
    explorer = Explorer(counting, Wishes())
    for n_stages in (2, 3, 4):
        for schedule in ("1f1b", "gpipe"):
            explorer.explore(Shape(n_stages, 1, 8, 2), schedule, WIRES)
    assert counting.asked == [("wires", 2)]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_a_limit_is_kept_under_every_schedule(schedule: str) -> None:
    found = Explorer(Counting(), Wishes(memory_limit_bytes=26_000)).explore(
        Shape(2, 1, 6, 1), schedule, WIRES
    )
    if schedule == "gpipe":  # no stage fits as it is: both run their forward again
        assert found.row.n_recomputed == 2
        assert found.row.memory_bytes <= 26_000
        return
    flight = (2, 1)
    alone = solve(chain(1), 2, hardware=WIRES, memory_limit_bytes=26_000, in_flight=flight, n_microbatches=6)
    assert found.partition is not None
    assert found.partition.stage_of == alone.stage_of
    assert found.row.memory_bytes == max(stage.memory_bytes for stage in alone.stages) <= 26_000


def test_the_plan_of_a_row_is_proven_and_no_slower() -> None:
    explorer = Explorer(Counting(), Wishes())
    for n_stages in (2, 3, 5):
        found = explorer.explore(Shape(n_stages, 1, 8, 1), "1f1b", WIRES)
        proven = explorer.proven(found)
        assert proven.partition is not None
        assert proven.partition.certificate.stopped_by == "optimal"
        assert proven.row.lower_bound_ms <= proven.row.bottleneck_ms <= found.row.bottleneck_ms
        assert found.row.lower_bound_ms <= proven.row.lower_bound_ms


def test_a_limit_that_nothing_fits_is_refused() -> None:
    row = Explorer(Counting(), Wishes(memory_limit_bytes=9_000)).explore(Shape(2, 1, 6, 1), "1f1b", WIRES).row
    assert "fits 9000 bytes" in row.refused
    assert row.ms_per_sample == float("inf")


def test_what_is_held_follows_the_schedule() -> None:
    explorer = Explorer(Counting(), Wishes())
    one = explorer.explore(Shape(2, 1, 6, 1), "1f1b", WIRES).row
    all_of_them = explorer.explore(Shape(2, 1, 6, 1), "gpipe", WIRES).row
    parameters = 4 * 1000 * 4  # and their gradients and optimizer state
    assert one.memory_bytes == parameters + 2 * 4 * 500  # the first stage holds two microbatches
    assert all_of_them.memory_bytes == parameters + 6 * (
        4 * 500 + 100
    )  # the last one holds all, and their inputs


def test_a_step_that_is_too_long_to_predict_is_a_refused_row() -> None:
    found = Explorer(Counting(), Wishes()).explore(Shape(2, 1, 10**7, 1), "1f1b", WIRES)
    assert found.row.refused == "2 stages with 10000000 microbatches are too many."
    assert found.partition is None


def test_stages_with_replicas_of_their_own_are_shown_to_compare() -> None:
    long = CostNode("long", fwd_ms=6.0, out_bytes=100)
    short = CostNode("short", fwd_ms=2.0, param_bytes=10**6)  # its replicas would take long to agree
    graph = CostGraph.build([long, short], [("long", "short")])
    found = Explorer(lambda hardware, samples: graph, Wishes()).uneven(4, 10, 1, WIRES)
    assert found is not None
    row = found.row
    assert row.replicas == (3, 1)
    assert row.n_devices == 4
    assert row.bottleneck_ms == pytest.approx(2.1, rel=1e-6)
    assert row.step_ms == pytest.approx(6.1 + 2.1 + 9 * 2.1, rel=1e-6)


def test_a_layout_that_cannot_be_run_is_never_taken() -> None:
    runs = Alternative(1, 2, 4, 1, "1f1b", "cpu", step_ms=8.0)
    shown = Alternative(2, 1, 8, 1, "1f1b", "cpu", step_ms=1.0, replicas=(2, 1))
    table = Alternatives((shown, runs), 1)
    assert table.best == runs
    assert "2+1" in str(table)
    assert Alternatives.from_json(json.loads(json.dumps(table.to_json()))) == table
