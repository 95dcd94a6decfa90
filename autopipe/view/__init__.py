"""What a plan and a timeline look like: as text, as pictures, as one page. Never loads torch."""

from __future__ import annotations

from autopipe.view.chrome_trace import chrome_trace
from autopipe.view.dot import partition_dot
from autopipe.view.draw import draw, draw_timeline
from autopipe.view.gantt import gantt_svg
from autopipe.view.mermaid import partition_mermaid
from autopipe.view.partition_svg import partition_svg
from autopipe.view.report import report_html
from autopipe.view.staircase import gantt_text
from autopipe.view.summary import summary

__all__ = [
    "chrome_trace",
    "draw",
    "draw_timeline",
    "gantt_svg",
    "gantt_text",
    "partition_dot",
    "partition_mermaid",
    "partition_svg",
    "report_html",
    "summary",
]
