"""``autopipe inspect``."""

from __future__ import annotations

from autopipe.cli.module_costs import module_costs, whole_cost
from autopipe.ir.cost_graph import CostGraph, CostNode, TiedParam
from tests.cli.running import MODEL, data, run


def test_rows_are_the_modules_in_program_order_and_add_up() -> None:
    told = data("inspect", *MODEL)
    names = [row["module"] for row in told["modules"]]
    assert names == ["blocks.0", "", "blocks.1", "blocks.2", "blocks.3", "head"]
    for column in ("n_nodes", "param_bytes", "saved_bytes"):
        assert sum(row[column] for row in told["modules"]) == told[column]


def test_depth_decides_how_far_rows_are_told_apart() -> None:
    told = data("inspect", *MODEL, "--depth", 1)
    assert [row["module"] for row in told["modules"]] == ["blocks", "", "head"]


def test_the_text_has_the_rows_the_total_and_the_cuts() -> None:
    lines = run("inspect", *MODEL).stdout.splitlines()
    assert lines[0].split()[:2] == ["module", "nodes"]
    assert lines[2].startswith(" (Blocks itself)")
    assert lines[-2].split()[:2] == ["total", "9"]
    assert lines[-1] == " legal cuts: 8   stages: 9 at most   costs: roofline, cpu"


def test_hardware_changes_the_times() -> None:
    slow, fast = (
        data("inspect", *MODEL, "--set", "width=512", "--hardware", name) for name in ("cpu", "h100")
    )
    assert fast["bwd_ms"] < slow["bwd_ms"]


def tied_graph() -> CostGraph:
    nodes = [
        CostNode("embed", "embed", fwd_ms=1, out_bytes=8, param_bytes=100),
        CostNode("block", "h.0.mlp", fwd_ms=2, out_bytes=8, param_bytes=10),
        CostNode("inner", "h.0.act", fwd_ms=1, out_bytes=4),
        CostNode("head", "head", fwd_ms=3, bwd_input_ms=1, bwd_weight_ms=2, out_bytes=16, param_bytes=100),
    ]
    edges = [("embed", "block"), ("block", "inner"), ("inner", "head")]
    return CostGraph.build(nodes, edges, tied=[TiedParam("embed.weight", 100, ("embed", "head"))])


def test_a_tied_parameter_is_counted_once_in_the_total_and_by_each_module_that_reads_it() -> None:
    graph = tied_graph()
    assert [row.param_bytes for row in module_costs(graph)] == [100, 10, 100]
    assert whole_cost(graph).param_bytes == 110


def test_a_modules_output_is_what_others_read() -> None:
    assert [(row.module, row.out_bytes) for row in module_costs(tied_graph())] == [
        ("embed", 8),
        ("h.0", 4),
        ("head", 0),
    ]
