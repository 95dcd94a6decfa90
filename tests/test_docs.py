"""What the documentation says is there, is true and leads somewhere."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

from tests.api_page import docstring, parameters, public_members, render
from tests.test_printed import n_blocks
from tests.test_printed import pages as printed_pages

ROOT = Path(__file__).parents[1]
API_PAGE = ROOT / "docs" / "reference" / "api.md"

# Where public names live, from the top of the house down. Each has an __all__.
PACKAGES = (
    "autopipe",
    "autopipe.cli",
    "autopipe.verify",
    "autopipe.view",
    "autopipe.runtime",
    "autopipe.weights",
    "autopipe.trace",
    "autopipe.cost",
    "autopipe.partition",
    "autopipe.search",
    "autopipe.rewrite",
    "autopipe.schedule",
    "autopipe.ir",
    "autopipe.errors",
)


def exists(package: str) -> bool:
    path = ROOT.joinpath(*package.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def built() -> list[str]:
    return [name for name in PACKAGES if exists(name) and hasattr(importlib.import_module(name), "__all__")]


def public_things(package: str) -> Iterator[tuple[str, object]]:
    module = importlib.import_module(package)
    for name in module.__all__:
        yield f"{package}.{name}", getattr(module, name)


def public_functions(package: str) -> Iterator[tuple[str, FunctionType]]:
    """The functions, and the methods of what users hold: the classes of the package at the top."""
    for name, thing in public_things(package):
        if isinstance(thing, FunctionType):
            yield name, thing
        elif isinstance(thing, type) and package == "autopipe":
            methods = ((f"{name}.{part}", member) for part, member in public_members(thing))
            yield from ((part, member) for part, member in methods if isinstance(member, FunctionType))


def test_the_public_packages_are_there() -> None:
    assert set(PACKAGES) == set(built())


def test_every_package_of_the_house_is_among_the_public_ones() -> None:
    packages = {f"autopipe.{path.parent.name}" for path in (ROOT / "autopipe").glob("*/__init__.py")}
    assert packages <= set(PACKAGES)


EACH_PACKAGE = pytest.mark.parametrize("package", built())


@EACH_PACKAGE
def test_every_public_name_says_what_it_is(package: str) -> None:
    things = public_things(package)
    assert [
        name for name, thing in things if isinstance(thing, type | FunctionType) and not docstring(thing)
    ] == []


@EACH_PACKAGE
def test_every_public_function_says_what_it_takes(package: str) -> None:
    silent = [
        f"{name}({one.name})"
        for name, function in public_functions(package)
        for one in parameters(function)
        if not re.search(rf"\*{{0,2}}\b{one.name}\b.*:", docstring(function).partition("Args:")[2])
    ]
    assert silent == []


@EACH_PACKAGE
def test_every_public_function_says_what_it_returns(package: str) -> None:
    silent = [
        name
        for name, function in public_functions(package)
        if parameters(function)
        and inspect.signature(function).return_annotation not in (None, "None", "NoReturn")
        and not re.search(r"^(Returns|Yields):", docstring(function), re.MULTILINE)
    ]
    assert silent == []


def test_the_reference_lists_every_public_name(overwrite: bool) -> None:
    page = render({package: dict(public_things(package)) for package in built()})
    if overwrite:
        API_PAGE.parent.mkdir(parents=True, exist_ok=True)
        API_PAGE.write_text(page, encoding="utf-8")
    stale = "docs/reference/api.md is stale; try: python -m pytest tests/test_docs.py --overwrite"
    assert API_PAGE.read_text(encoding="utf-8") == page, stale


def pages() -> list[Path]:
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "models").glob("*.md")),
    ]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)|\b(?:src|href)=\"([^\"]+)\"")


def python_blocks(page: Path) -> list[str]:
    """The page's ```python blocks, each behind as many empty lines as it has above it in the page."""
    text = page.read_text(encoding="utf-8")
    found = (one for one in FENCE.finditer(text) if one[2] == "python")
    return ["\n" * text.count("\n", 0, one.start(3)) + inspect.cleandoc("\n" + one[3]) for one in found]


def pages_with_python() -> list[Path]:
    """Those whose blocks run here.

    test_printed runs the blocks of pages that show what they print, test_readme and test_train_scripts those
    of the README and the script of the page on torchrun.
    """
    elsewhere = {*printed_pages(), ROOT / "README.md"}
    return [page for page in pages() if python_blocks(page) and page not in elsewhere]


def test_the_readme_has_the_two_blocks_that_run_elsewhere() -> None:
    assert len(python_blocks(ROOT / "README.md")) == 2


def test_a_page_that_shows_what_it_prints_has_no_block_that_only_runs_here() -> None:
    indented = [page_id(page) for page in printed_pages() if len(python_blocks(page)) != n_blocks(page)]
    assert indented == []


@pytest.mark.parametrize("page", pages_with_python(), ids=page_id)
def test_python_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a reader would type them; their files go to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [one[1] or one[2] for one in LINK.finditer(prose)]
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not resolves(page, target)] == []


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_files_that_the_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:autopipe|docs|models|tests)/[\w/.-]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


def resolves(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists() or not there.is_relative_to(ROOT):
        return False
    return not anchor or there.suffix != ".md" or anchor in anchors(there)


def anchors(page: Path) -> set[str]:
    """The fragment that a browser of the repository gives each heading."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
