"""The dated record of one run of a benchmark: a page with its tables, machine, versions and command.

Its file is ``docs/benchmarks/WHAT_HARDWARE_DATE.md``; a second run on the same machine and day replaces it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import autopipe

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True)
class Rows:
    """One table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As a page shows it: the first column to the left, numbers to the right."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [" | ".join(cells) for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *(f"| {line} |" for line in lines)])

    def show(self) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        Console(width=130).print(table)


def load() -> str:
    """How many processes of this machine want to run, over the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


@dataclass(frozen=True)
class Record:
    """What a run found; made at the start of the run, which is when it notes the load.

    Args:
        what: Names the file.
        title: Of the page.
        command: That makes it again.
        method: How it was measured, and what the columns are.
    """

    what: str
    title: str
    command: str
    method: str
    load_before: str = field(default_factory=load)
    started: datetime = field(default_factory=lambda: datetime.now(tz=UTC))

    def write(self, tables: Sequence[Rows], findings: Sequence[str]) -> Path:
        """Write the page, and print its tables and findings."""
        for table in tables:
            table.show()
        for finding in findings:
            print(f"* {finding}")
        day = self.started.date().isoformat()
        parts = [
            f"# {self.title}, {day}",
            *(f"* {finding}" for finding in findings),
            "",
            *(part for table in tables for part in (table.markdown(), "")),
            "## How",
            "",
            self.method,
            "",
            f"    {self.command}",
            "",
            *self._machine(),
        ]
        path = FOLDER / f"{self.what}_{_slug(_cpu())}-{os.cpu_count()}-cores_{day}.md"
        FOLDER.mkdir(parents=True, exist_ok=True)
        head, rest = parts[0], parts[1:]
        path.write_text("\n".join([head, "", *rest]) + "\n")
        print(f"wrote {path.relative_to(ROOT)}")
        return path

    def _machine(self) -> list[str]:
        minutes = (datetime.now(tz=UTC) - self.started).total_seconds() / 60
        memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        machine = f"{platform.system()} {platform.machine()}"
        ours = f"autopipe {autopipe.__version__}{_commit()}"
        return [
            f"* {_cpu()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {machine}",
            f"* Python {platform.python_version()}, torch {torch.__version__}, {ours}",
            f"* {minutes:.1f} minutes; load average {self.load_before} before, {load()} after: what is above "
            "the benchmark's own processes is other work on the same cores",
        ]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _slug(name: str) -> str:
    words = re.sub(r"\(\w+\)|@.*|\bprocessor\b|\bcpu\b", " ", name.lower())
    return "-".join(re.findall(r"[a-z0-9]+", words))


def _commit() -> str:
    """The commit of a checkout, and whether its files differ from it."""
    head, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "autopipe")
    return f" at {head}{' with changes' if changes else ''}" if head else ""


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
