"""Which nodes are drawn as one box, and what flows between the boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.ir.plan import Plan
from autopipe.view.modules import ModuleGraph, module_graph
from tests.view import plans
from tests.view.plans import Builder

PLANS: dict[str, Callable[[], Plan]] = {
    "gpt": lambda: plans.gpt(8, 4, 8),
    "cut": plans.gpt_cut_in_a_block,
    "unet": plans.unet,
    "hostile": plans.hostile,
}
every_plan = pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)


def labels(plan: Plan) -> list[list[str]]:
    """The boxes of each stage, details in parentheses."""
    graph = module_graph(plan)
    return [
        [
            f"{box.label} ({box.detail})" if box.detail else box.label
            for box in graph.boxes
            if box.stage == stage
        ]
        for stage in range(plan.n_stages)
    ]


def check(graph: ModuleGraph, plan: Plan) -> None:
    """Every node is in one box of its stage, sums are kept, and no box reads a later one."""
    assert plan.cost_graph is not None
    held = [name for box in graph.boxes for name in box.nodes]
    assert sorted(held) == sorted(plan.partition.stage_of)
    assert all(plan.partition.stage_of[name] == box.stage for box in graph.boxes for name in box.nodes)
    nodes = plan.cost_graph.nodes
    assert sum(box.fwd_ms for box in graph.boxes) == pytest.approx(sum(node.fwd_ms for node in nodes))
    assert sum(box.bwd_ms for box in graph.boxes) == pytest.approx(sum(node.bwd_ms for node in nodes))
    assert all(wire.src < wire.dst for wire in graph.wires if wire.src is not None and wire.dst is not None)
    assert sum(graph.sent_bytes().values()) == sum(link.nbytes for link in plan.transfers)


@every_plan
def test_boxes_hold_every_node_once_and_in_order(make: Callable[[], Plan]) -> None:
    check(module_graph(make()), make())


def test_transformer_is_drawn_by_blocks() -> None:
    assert labels(plans.gpt(8, 4, 8)) == [
        ["arange", "wte", "wpe", "add", "drop", "h.0", "h.1"],
        ["h.2", "h.3"],
        ["h.4", "h.5"],
        ["h.6", "h.7", "ln_f", "lm_head"],
    ]


def test_repeated_blocks_are_folded() -> None:
    assert labels(plans.gpt(8, 2, 8)) == [
        ["arange", "wte", "wpe", "add", "drop", "h.0 ... h.3 (4 modules)"],
        ["h.4 ... h.7 (4 modules)", "ln_f", "lm_head"],
    ]


def test_blocks_with_skips_are_not_folded() -> None:
    assert labels(plans.unet()) == [
        ["sin ... cat (3 ops)", "time_mlp.0 ... time_mlp.2 (3 modules)", "conv_in", "down.0"],
        ["down.1", "down.2"],
        ["mid", "up.0"],
        ["up.1", "up.2", "norm_out", "silu", "conv_out"],
    ]


def test_a_block_that_the_cut_goes_through_is_two_parts() -> None:
    first, second = labels(plans.gpt_cut_in_a_block())
    assert first[-2:] == ["h.0", "h.1 (part)"]
    assert second[0] == "h.1 (part)"


def test_wrappers_are_opened() -> None:
    b = Builder("Wrapped")
    x = b.op("model.embed", "@", ms=1)
    x = b.op("model", "mul", x)
    for layer in range(2):
        x = b.op(f"model.layers.{layer}.fc", "@", x, ms=1)
    b.op("model.norm", "@", x)
    assert labels(b.plan(lambda node: int("layers.1" in node.fqn or "norm" in node.fqn), 2)) == [
        ["embed", "mul (model)", "layers.0"],
        ["layers.1", "norm"],
    ]


def test_lists_of_the_same_name_keep_their_owners() -> None:
    b = Builder("Seq2Seq")
    x = b.op("encoder.layer.0", "@", ms=1)
    b.op("decoder.layer.0", "@", x, ms=1)
    assert labels(b.plan(lambda node: int(node.fqn.startswith("decoder")), 1)) == [
        ["encoder.layer.0"],
        ["decoder.layer.0"],
    ]


def test_modules_that_read_each_other_are_split() -> None:
    """a.x -> b.x -> a.y: drawn whole, a and b would be a circle."""
    b = Builder("Circle")
    x = b.op("a.x", "@", ms=1)
    y = b.op("b.x", "@", x, ms=1)
    b.op("a.y", "@", y, ms=1)
    plan = b.plan(lambda node: 0, 1)
    check(module_graph(plan), plan)
    assert [box.nodes for box in module_graph(plan).boxes] == [("a_x",), ("b_x",), ("a_y",)]


def test_tied_weight_is_counted_once_in_a_box() -> None:
    plan = plans.gpt(1, 1, 1)
    assert plan.cost_graph is not None
    whole = replace(plan, keys={name: f"net|{name}|0" for name in plan.keys})
    boxes = module_graph(whole).boxes
    assert sum(box.param_bytes for box in boxes) == sum(node.param_bytes for node in plan.cost_graph.nodes)


def test_value_that_crosses_names_its_bytes_both_ways() -> None:
    plan = plans.unet()
    graph = module_graph(plan)
    box = {one.label: index for index, one in enumerate(graph.boxes)}
    (skip,) = [wire for wire in graph.wires if (wire.src, wire.dst) == (box["down.0"], box["up.2"])]
    assert skip.sent
    assert [(flow.nbytes, flow.grad_nbytes) for flow in skip.flows] == [(8 * plans.MIB, 8 * plans.MIB)]


def test_recomputed_value_is_not_sent() -> None:
    plan = plans.unet()
    kept = tuple(link for link in plan.transfers if link.value != "time_mlp_2")
    graph = module_graph(replace(plan, transfers=kept))
    assert {wire.flows[0].value for wire in graph.wires if wire.cut and not wire.sent} == {"time_mlp_2"}


def test_small_form_shows_stages_messages_and_modules_only() -> None:
    plan = plans.gpt(8, 2, 8)
    graph = module_graph(plan.small())
    assert [box.label for box in graph.boxes] == [box.label for box in module_graph(plan).boxes]
    assert [(wire.src_stage, wire.dst_stage, wire.dst, wire.sent) for wire in graph.wires] == [
        (0, 1, None, True)
    ]


@given(st.data())
def test_any_graph_is_drawn_in_order(data: st.DataObject) -> None:
    """Random graphs with random module names: no circles, nothing lost."""
    b = Builder("Random")
    names: list[str] = []
    modules = st.sampled_from(["", "a", "a.b", "a.b.0", "a.b.1", "a.b.2", "c.0.d", "c.1", "c.2", "0", "1.x"])
    for index in range(data.draw(st.integers(1, 12))):
        reads = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        names.append(b.op(data.draw(modules), f"op{index}", *reads, ms=1))
    last_of_stage = st.integers(0, len(names) - 1)
    cuts = sorted({*data.draw(st.lists(last_of_stage, max_size=2)), len(names) - 1})
    place = {name: index for index, name in enumerate(names)}
    plan = b.plan(lambda node: sum(place[node.name] > cut for cut in cuts), 2)
    graph = module_graph(plan)
    check(graph, plan)
    drawn = nx.DiGraph((wire.src, wire.dst) for wire in graph.wires)
    assert nx.is_directed_acyclic_graph(drawn)
    assert len(module_graph(plan.small()).boxes) >= 1
