"""What every test gets: one thread, one seed, the same examples each time, and golden files."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything loads torch: the suite runs one process a core, so more threads would only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test's verdict depends on the code alone: not on the clock, and not on the examples that chance brings.
# `--hypothesis-profile=default` searches at random again.
settings.register_profile(
    "suite", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--overwrite", action="store_true", help="renew golden files instead of comparing with them"
    )


def pytest_report_header() -> str:
    found = []
    for name in ("torch", "numpy", "networkx", "scipy", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers in each test, in whatever order and process; loads nothing by itself."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture
def overwrite(request: pytest.FixtureRequest) -> bool:
    """True if expected files are to be renewed."""
    return bool(request.config.getoption("--overwrite"))


@pytest.fixture
def golden(overwrite: bool) -> Callable[[str, str], None]:
    """``golden(text, "a.txt")``: text equals tests/golden/a.txt, or becomes it under ``--overwrite``."""

    def check(text: str, name: str) -> None:
        path = GOLDEN / name
        if overwrite:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no {name} yet; try: pytest --overwrite"
        assert text == path.read_text(encoding="utf-8"), (
            f"{name} differs; if that is right: pytest --overwrite"
        )

    return check
