"""The picture of the partition: well-formed, complete, and nothing on top of anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from autopipe.ir.plan import Plan
from autopipe.view import partition_svg
from autopipe.view.columns import Net, Rect, lay_out
from autopipe.view.modules import module_graph
from tests.view import plans
from tests.view.markup import svg, texts, titles

PLANS: dict[str, Callable[[], Plan]] = {
    "gpt": lambda: plans.gpt(8, 4, 8),
    "gpt_16": lambda: plans.gpt(48, 16, 64),
    "one_stage": lambda: plans.gpt(2, 1, 1),
    "cut": plans.gpt_cut_in_a_block,
    "unet": plans.unet,
    "unet_small_form": lambda: plans.unet().small(),
    "hostile": plans.hostile,
}
every_plan = pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)


@pytest.mark.parametrize("name", ["gpt", "unet", "unet_small_form", "hostile"])
def test_picture_is_the_golden_one(name: str, golden: Callable[[str, str], None]) -> None:
    golden(partition_svg(PLANS[name]()) + "\n", f"partition_{name}.svg")


@every_plan
def test_picture_says_every_stage_box_and_message(make: Callable[[], Plan]) -> None:
    plan = make()
    root = svg(partition_svg(plan))
    said = texts(root)
    assert [word for word in said if word.startswith("stage ")] == [
        f"stage {s}" for s in range(plan.n_stages)
    ]
    assert said.count("bottleneck") == 1
    tips = "\n".join(titles(root))
    assert all(link.value in tips for link in plan.transfers)
    assert tips.count("operation") >= len(module_graph(plan).boxes)


def touch(a: Rect, b: Rect) -> bool:
    return a.x < b.right and b.x < a.right and a.y < b.bottom and b.y < a.bottom


def crossed(net: Net, rect: Rect) -> bool:
    """Whether a segment of the net runs through the rectangle; its border may be touched."""
    for path in net.paths:
        for (x1, y1), (x2, y2) in pairwise(path):
            assert x1 == x2 or y1 == y2
            if touch(Rect(min(x1, x2), min(y1, y2), abs(x1 - x2), abs(y1 - y2)), rect):
                return True
    return False


@every_plan
def test_nothing_lies_on_anything_else(make: Callable[[], Plan]) -> None:
    layout = lay_out(module_graph(make()))
    assert not any(touch(a, b) for a, b in combinations(layout.boxes, 2))
    assert not any(touch(a, b) for a, b in combinations(layout.frames, 2))
    for net in (*layout.inner, *layout.crossing):
        assert not any(crossed(net, box) for box in layout.boxes)
        assert all(0 < x < layout.width and 0 < y < layout.height for path in net.paths for x, y in path)


@every_plan
def test_boxes_lie_in_the_frame_of_their_stage(make: Callable[[], Plan]) -> None:
    graph = module_graph(make())
    layout = lay_out(graph)
    for box, rect in zip(graph.boxes, layout.boxes, strict=True):
        frame = layout.frames[box.stage]
        assert frame.x < rect.x < rect.right < frame.right
        assert frame.y < rect.y < rect.bottom < frame.bottom


@every_plan
def test_wires_lead_from_their_maker_to_their_readers(make: Callable[[], Plan]) -> None:
    graph = module_graph(make())
    layout = lay_out(graph)
    for net in layout.crossing:
        first = net.wires[0]
        start = layout.frames[first.src_stage] if first.src is None else layout.boxes[first.src]
        assert {path[0][0] for path in net.paths} == {start.right}
        ends = {
            layout.boxes[w.dst].x if w.dst is not None else layout.frames[w.dst_stage].x for w in net.wires
        }
        assert {path[-1][0] for path in net.paths} == ends
    assert sum(len(net.wires) for net in (*layout.inner, *layout.crossing)) == len(graph.wires)


def test_different_trunks_of_a_gutter_do_not_overlap() -> None:
    layout = lay_out(module_graph(plans.unet()))
    spans: dict[float, list[tuple[float, float, int | None]]] = {}
    for net in layout.crossing:
        for path in net.paths:
            for (x1, y1), (x2, y2) in pairwise(path):
                if x1 == x2 and y1 != y2:
                    spans.setdefault(x1, []).append((min(y1, y2), max(y1, y2), net.wires[0].src))
    for found in spans.values():
        for (low, high, source), (low_2, high_2, source_2) in combinations(found, 2):
            assert source == source_2 or high <= low_2 or high_2 <= low


def test_what_is_not_sent_is_dashed() -> None:
    plan = plans.unet()
    assert "stroke-dasharray" not in partition_svg(plan)
    kept = tuple(link for link in plan.transfers if link.value != "time_mlp_2")
    root = svg(partition_svg(replace(plan, transfers=kept)))
    assert "not sent" in texts(root)
    assert any("does not receive it but makes it again" in tip for tip in titles(root))


def test_rank_is_named_where_it_is_not_the_stage() -> None:
    said = texts(svg(partition_svg(plans.gpt(8, 4, 8, n_ranks=2))))
    assert [word for word in said if word.startswith("on rank")] == ["on rank 0", "on rank 1"]


def test_markup_in_names_stays_text() -> None:
    root = svg(partition_svg(plans.hostile()))
    tips = "\n".join(titles(root))
    assert "</script><script>alert(1)</script>" in tips
    assert "quote\"apos'amp&lt<" in tips
    assert "back\\slash" in tips
