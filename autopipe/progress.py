"""Shows on a terminal that long work is under way; elsewhere nothing is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


@contextmanager
def progress(show: bool | None) -> Iterator[Say]:
    """Yield a function that says what is being done now.

    Args:
        show: True or False; None shows on a terminal only.

    Example:
        >>> with progress(show=False) as say:
        ...     say("capture")
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda _what: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("autopipe")

        def say(what: str) -> None:
            bar.update(task, description=f"autopipe: {what}", refresh=True)

        yield say
