"""The timeline as a picture: to scale, every span there, legible."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autopipe.ir.action import Op
from autopipe.ir.plan import Plan
from autopipe.ir.timeline import Span, Timeline
from autopipe.schedule.predict import predict
from autopipe.view import gantt_svg
from tests.view import plans
from tests.view.markup import SVG, svg, texts, titles


def predicted(plan: Plan) -> Timeline:
    return predict(plan.schedule, plan.partition, plan.transfers, plan.hardware)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gpt", lambda: plans.gpt(8, 4, 8)),
        ("unet", plans.unet),
        ("two_ranks", lambda: plans.gpt(4, 4, 4, n_ranks=2)),
    ],
)
def test_picture_is_the_golden_one(
    name: str, make: Callable[[], Plan], golden: Callable[[str, str], None]
) -> None:
    golden(gantt_svg(predicted(make()), title="1f1b") + "\n", f"timeline_{name}.svg")


def test_every_span_is_drawn_to_scale() -> None:
    timeline = predicted(plans.unet())
    root = svg(gantt_svg(timeline))
    drawn = {}
    for bar in root.iter(f"{SVG}rect"):
        if (tip := bar.find(f"{SVG}title")) is not None:
            drawn[(tip.text or "").split(": ")[0]] = float(bar.attrib["x"]), float(bar.attrib["width"])
    assert len(drawn) == len(timeline.spans)
    compute = [span for span in timeline.spans if span.lane == "compute"]
    first, last = min(compute, key=lambda s: s.start_ms), max(compute, key=lambda s: s.start_ms)
    scale = drawn[last.label][0] / last.start_ms
    assert drawn[first.label][0] == 0
    for span in compute:
        x, width = drawn[span.label]
        assert x == pytest.approx(span.start_ms * scale, abs=0.01)
        assert width == pytest.approx(span.duration_ms * scale, abs=1.01)  # a pixel apart from the next


def test_title_says_step_and_bubble() -> None:
    timeline = predicted(plans.gpt(8, 4, 8))
    assert "1f1b x 8: step 132.1 ms, bubble 37 %" in texts(svg(gantt_svg(timeline, title="1f1b x 8")))


def test_axis_covers_the_step() -> None:
    said = texts(svg(gantt_svg(predicted(plans.gpt(48, 16, 64)))))
    ticks = [float(word) for word in said[said.index("0") : said.index("s")]]
    assert ticks[-1] <= 1.34 < ticks[-1] + (ticks[1] - ticks[0])
    assert ticks == sorted(ticks)


def test_updates_and_split_backwards_have_their_own_colours() -> None:
    ops = [Op.F, Op.I, Op.W, Op.U]
    spans = tuple(
        Span(0, 0, op, None if op is Op.U else 0, float(i), i + 1.0, f"0{op}") for i, op in enumerate(ops)
    )
    root = svg(gantt_svg(Timeline(spans, 1)))
    said = texts(root)
    assert {"forward", "backward, for the inputs", "backward, for the weights", "update"} <= set(said)
    fills = {g.attrib["fill"] for g in root.iter(f"{SVG}g") if g.find(f"{SVG}rect") is not None}
    assert len(fills) == 4


@pytest.mark.parametrize(
    "timeline", [Timeline((), 2), Timeline((Span(0, 0, Op.F, 0, 0.0, 0.0, "0F0"),), 1), Timeline((), 0)]
)
def test_empty_timeline_is_drawn(timeline: Timeline) -> None:
    svg(gantt_svg(timeline))


def test_labels_that_a_user_made_up_are_escaped() -> None:
    span = Span(0, 0, Op.F, 0, 0.0, 1.0, "</svg><script>")
    assert any("</svg><script>" in tip for tip in titles(svg(gantt_svg(Timeline((span,), 1), title="<b>"))))


def many_spans(n_ranks: int, n_microbatches: int) -> Timeline:
    """Each rank computes forward and backward by turns, with a message that takes no time to speak of."""
    spans = []
    for rank in range(n_ranks):
        for microbatch in range(n_microbatches):
            start = 4.0 * microbatch
            for op, begin, end in ((Op.F, 0.0, 1.0), (Op.SEND, 1.0, 1.001), (Op.B, 2.0, 4.0)):
                label = f"{rank}{op}{microbatch}"
                spans.append(Span(rank, rank, op, microbatch, start + begin, start + end, label))
    return Timeline(tuple(spans), n_ranks)


def test_a_picture_of_many_spans_stays_small_and_shows_every_lane() -> None:
    few, many = (gantt_svg(many_spans(4, n)) for n in (1000, 20_000))
    assert len(many) < 2 * len(few) < 2_000_000
    told = titles(svg(many))
    assert "stage 3: 20000 x forward, 20.0 s together; stage 3: 20000 x backward, 40.0 s together" in told
    assert "stage 0: 20000 x send, 20.0 ms together" in told
    assert any("240,000 spans" in word for word in texts(svg(many)))


def test_many_spans_are_drawn_where_they_are() -> None:
    timeline = many_spans(16, 220)
    root = svg(gantt_svg(timeline))
    width = float(root.attrib["width"]) - 86
    lane = next(g for g in root.iter(f"{SVG}g") if "stage 5: 220 x forward" in (g[0].text or ""))
    assert len(lane) == 3  # what it holds, its forwards and its backwards
    for path, begin in zip(lane[1:], (0.0, 2.0), strict=True):
        starts_ms = [
            float(bar.split()[0]) / width * timeline.makespan_ms for bar in path.attrib["d"].split("M")[1:]
        ]
        assert starts_ms == pytest.approx([4.0 * n + begin for n in range(220)], abs=0.5)
