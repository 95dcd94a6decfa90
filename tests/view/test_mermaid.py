"""Mermaid: golden, escaped, and only constructs that the flowchart language has."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from autopipe.view import partition_mermaid
from tests.view import plans

STRING = r'"(?:[\w .,:()/+-]|#\d+;|<br/>)*"'
LINES = "|".join(
    [
        r"flowchart TB",
        rf"subgraph stage\d+\[{STRING}\]",
        rf"n\d+\[{STRING}\]",
        r"end",
        r"(?:n|stage)\d+ (?:-->|-\.->|==>) (?:n|stage)\d+",
        rf"(?:n|stage)\d+ ==>\|{STRING}\| (?:n|stage)\d+",
        r"linkStyle \d+(?:,\d+)* stroke:#\w{6},stroke-width:3px",
        r"style stage\d+ fill:#\w{6},stroke:#\w{6},color:#\w{6}",
        r"classDef boxes\d+ fill:#\w{6},stroke:#\w{6},color:#\w{6}",
        r"class n\d+(?:,n\d+)* boxes\d+",
    ]
)


@pytest.mark.parametrize("name", ["unet", "hostile"])
def test_text_is_the_golden_one(name: str, golden: Callable[[str, str], None]) -> None:
    golden(partition_mermaid(getattr(plans, name)()), f"partition_{name}.mmd")


@pytest.mark.parametrize("plan", [plans.unet(), plans.unet().small(), plans.hostile(), plans.gpt(4, 1, 1)])
def test_every_line_is_in_the_language(plan: plans.Plan) -> None:
    lines = partition_mermaid(plan).splitlines()
    assert [line for line in lines if not re.fullmatch(LINES, line.strip())] == []


def test_linkstyle_counts_links_as_they_are_written() -> None:
    lines = [line.strip() for line in partition_mermaid(plans.unet()).splitlines()]
    links = [line for line in lines if re.match(r"(?:n|stage)\d+ (?:-|=)", line)]
    styled = {int(n) for line in lines if line.startswith("linkStyle") for n in line.split()[1].split(",")}
    assert styled == {index for index, link in enumerate(links) if "==>" in link}
