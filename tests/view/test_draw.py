"""Files: the suffix says which picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopipe.errors import ArgumentError
from autopipe.view import (
    draw,
    draw_timeline,
    gantt_svg,
    gantt_text,
    partition_dot,
    partition_mermaid,
    partition_svg,
)
from tests.view import plans
from tests.view.test_gantt import predicted

PLAN = plans.unet()


def test_suffix_picks_the_picture(tmp_path: Path) -> None:
    assert draw(PLAN, tmp_path / "a.svg").read_text("utf-8") == partition_svg(PLAN)
    assert draw(PLAN, str(tmp_path / "a.dot")).read_text("utf-8") == partition_dot(PLAN)
    assert draw(PLAN, tmp_path / "a.mmd").read_text("utf-8") == partition_mermaid(PLAN)
    assert draw(PLAN, tmp_path / "a.HTML").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert json.loads(draw(PLAN, tmp_path / "a.json").read_text("utf-8"))["traceEvents"]


def test_given_timeline_is_shown_instead_of_the_predicted_one(tmp_path: Path) -> None:
    other = predicted(plans.gpt(8, 2, 3))
    assert "step, measured" in draw(PLAN, tmp_path / "a.html", other).read_text("utf-8")
    assert "step, predicted" in draw(PLAN, tmp_path / "b.html").read_text("utf-8")
    assert draw(PLAN, tmp_path / "a.json", other).read_bytes() != draw(PLAN, tmp_path / "b.json").read_bytes()


def test_timeline_is_drawn_by_suffix_too(tmp_path: Path) -> None:
    timeline = predicted(PLAN)
    assert draw_timeline(timeline, tmp_path / "a.svg", title="x").read_text("utf-8") == gantt_svg(
        timeline, title="x"
    )
    assert draw_timeline(timeline, tmp_path / "a.txt").read_text("utf-8") == gantt_text(timeline) + "\n"
    assert json.loads(draw_timeline(timeline, tmp_path / "a.json").read_text("utf-8"))["traceEvents"]


@pytest.mark.parametrize("name", ["plan.png", "plan", "plan.svgz", ".svg"])
def test_unknown_suffix_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be drawn as") as caught:
        draw(PLAN, tmp_path / name)
    assert ".svg, .html, .dot, .mmd or .json" in str(caught.value)
    with pytest.raises(ArgumentError, match=r"(?s)a timeline cannot be drawn as .*\.svg, \.json or \.txt"):
        draw_timeline(predicted(PLAN), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
