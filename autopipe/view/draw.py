"""Pictures into files: the suffix of the file says which."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from autopipe.errors import ArgumentError
from autopipe.ir.plan import Plan
from autopipe.ir.timeline import Timeline
from autopipe.schedule.predict import predict
from autopipe.view.chrome_trace import chrome_trace
from autopipe.view.dot import partition_dot
from autopipe.view.gantt import gantt_svg
from autopipe.view.mermaid import partition_mermaid
from autopipe.view.partition_svg import partition_svg
from autopipe.view.report import report_html
from autopipe.view.staircase import gantt_text

__all__ = ["draw", "draw_timeline"]


def draw(plan: Plan, path: str | Path, timeline: Timeline | None = None) -> Path:
    """Write a picture of a plan into a file.

    ::

        .svg    the partition: a column a stage            .dot    the same for Graphviz
        .html   one page with everything; opens offline    .mmd    the same for Mermaid
        .json   the timeline as a Chrome trace

    Args:
        plan: The plan.
        path: The file; what is there is replaced.
        timeline: Shown by ``.html`` and ``.json``; None: what the plan predicts.

    Returns:
        The path.

    Raises:
        ArgumentError: If the suffix is none of these.
    """

    def known() -> Timeline:
        return timeline or predict(plan.schedule, plan.partition, plan.transfers, plan.hardware)

    forms: dict[str, Callable[[], str]] = {
        ".svg": lambda: partition_svg(plan),
        ".html": lambda: report_html(plan, known(), is_measured=timeline is not None),
        ".dot": lambda: partition_dot(plan),
        ".mmd": lambda: partition_mermaid(plan),
        ".json": lambda: _json(known()),
    }
    return _write(path, forms, "a plan")


def draw_timeline(timeline: Timeline, path: str | Path, *, title: str = "") -> Path:
    """Write a picture of a timeline into a file.

    Args:
        timeline: Measured or predicted.
        path: The file, ``.svg`` for a picture, ``.json`` for a Chrome trace, ``.txt`` for text; what is there
            is replaced.
        title: Headline of the picture.

    Returns:
        The path.

    Raises:
        ArgumentError: If the suffix is none of these.
    """
    forms: dict[str, Callable[[], str]] = {
        ".svg": lambda: gantt_svg(timeline, title=title),
        ".json": lambda: _json(timeline),
        ".txt": lambda: gantt_text(timeline) + "\n",
    }
    return _write(path, forms, "a timeline")


def _json(timeline: Timeline) -> str:
    return json.dumps(chrome_trace(timeline), separators=(",", ":")) + "\n"


def _write(path: str | Path, forms: dict[str, Callable[[], str]], what: str) -> Path:
    path = Path(path)
    form = forms.get(path.suffix.lower())
    if form is None:
        raise ArgumentError(
            f"{what} cannot be drawn as {path.suffix or 'a file without suffix'}.",
            where=str(path),
            remedy=f"{path.stem or 'plan'}{_either(forms)}",
        )
    path.write_text(form(), encoding="utf-8")
    return path


def _either(suffixes: Iterable[str]) -> str:
    *others, last = suffixes
    return f"{', '.join(others)} or {last}"
