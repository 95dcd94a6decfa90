"""The README shows what its code prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import python_blocks

README = Path(__file__).parents[1] / "README.md"
SHOWN = re.compile(r"<!-- tests/golden/readme_summary.txt -->\n```text\n(.*?)```", re.DOTALL)


PICTURE = README.parent / "docs" / "img" / "readme_timeline.svg"


def test_the_readme_shows_the_summary_and_the_step_of_its_first_block(
    capsys: pytest.CaptureFixture[str], golden: Callable[[str, str], None], overwrite: bool, tmp_path: Path
) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(python_blocks(README)[0], str(README), "exec"), namespace)
    namespace["pipe"].draw_timeline(PICTURE if overwrite else tmp_path / "timeline.svg")
    assert overwrite or (tmp_path / "timeline.svg").read_bytes() == PICTURE.read_bytes()
    printed = capsys.readouterr().out
    golden(printed, "readme_summary.txt")
    page = README.read_text(encoding="utf-8")
    shown = SHOWN.search(page)
    assert shown is not None
    if overwrite:
        README.write_text(page[: shown.start(1)] + printed + page[shown.end(1) :], encoding="utf-8")
    else:
        assert shown[1] == printed, "README.md is stale; try: pytest tests/test_readme.py --overwrite"
