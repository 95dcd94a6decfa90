"""What a page says that its code prints: a ```text prints block after a ```python block is its output."""

from __future__ import annotations

import inspect
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROUNDING = re.compile(r"else \d\.\de-\d\d")
"""By how much sums in another order differ: each kind of processor has its own."""
BLOCK = re.compile(r"^```(python|text prints)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    return [
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "\n```text prints" in page.read_text("utf-8")
    ]


def n_blocks(page: Path) -> int:
    """How many blocks of Python the page's test runs."""
    return sum(block[1] == "python" for block in BLOCK.finditer(page.read_text("utf-8")))


def test_the_tutorial_shows_what_it_prints() -> None:
    assert ROOT / "docs" / "tutorial.md" in pages()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_page_shows_what_its_code_prints(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8")  # a terminal that can print every character

    def shown(block: re.Match[str]) -> str:
        if block[1] == "text prints":
            printed.seek(0)
            return f"```text prints\n{printed.read()}```"
        printed.seek(0)
        printed.truncate()
        with redirect_stdout(printed):
            exec(compile(inspect.cleandoc("\n" + block[2]), page.name, "exec"), namespace)
        return block[0]

    true = BLOCK.sub(shown, page.read_text("utf-8"))
    if overwrite:
        page.write_text(true, "utf-8")
    assert ROUNDING.sub("else", page.read_text("utf-8")) == ROUNDING.sub("else", true), (
        "if that is right: python -m pytest tests/test_printed.py --overwrite"
    )
