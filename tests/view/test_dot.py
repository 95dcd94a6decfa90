"""DOT: golden, escaped, and every node declared before it is used."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from autopipe.view import partition_dot
from tests.view import plans

STRING = r'"(?:[^"\\]|\\["\\n])*"'
LINES = "|".join(
    [
        r"digraph partition \{",
        rf"label={STRING};",
        rf"(?:\w+={STRING}; )+\w+={STRING};",
        rf"(?:node|edge) \[\w+={STRING}(?:, \w+={STRING})*\];",
        r"subgraph cluster_\d+ \{",
        rf"(?:n|stage)\d+ \[\w+={STRING}(?:, \w+={STRING})*\];",
        rf"(?:n|stage)\d+ -> (?:n|stage)\d+ \[\w+={STRING}(?:, \w+={STRING})*\];",
        r"\}",
    ]
)


@pytest.mark.parametrize("name", ["unet", "hostile"])
def test_text_is_the_golden_one(name: str, golden: Callable[[str, str], None]) -> None:
    golden(partition_dot(getattr(plans, name)()), f"partition_{name}.dot")


@pytest.mark.parametrize("plan", [plans.unet(), plans.unet().small(), plans.hostile(), plans.gpt(4, 1, 1)])
def test_every_line_is_in_the_language(plan: plans.Plan) -> None:
    text = partition_dot(plan)
    wrong = [line for line in text.splitlines() if not re.fullmatch(LINES, line.strip())]
    assert wrong == []
    declared = set(re.findall(r"^ +((?:n|stage)\d+) \[", text, re.MULTILINE))
    used = set(re.findall(r"((?:n|stage)\d+) ->", text)) | set(re.findall(r"-> ((?:n|stage)\d+)", text))
    assert used <= declared
    assert text.count("{") - text.count("{{x}}${") * 3 == text.count("}") - text.count("{{x}}${y}") * 3


def test_crossing_values_are_bold_and_say_their_bytes_once() -> None:
    text = partition_dot(plans.unet())
    bold = [line for line in text.splitlines() if "penwidth" in line]
    assert len(bold) == 12
    assert (
        sum('label="10 KiB"' in line for line in bold) == 3
    )  # one for each stage that reads the time embedding
