"""The commands put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from autopipe.cli.command import command
from autopipe.cli.doctor import doctor
from autopipe.cli.inspect import inspect
from autopipe.cli.plan import plan
from autopipe.cli.show import show
from autopipe.cli.simulate import simulate
from autopipe.version import __version__

EPILOG = "Exit codes: 0 done; 1 there is no such split; 2 something asked for is wrong; 3 a bug of autopipe."

# Plain text: help and errors read the same on a terminal, in a pipe and in a log.
app = typer.Typer(
    name="autopipe",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
COMMANDS: tuple[tuple[Callable[..., str], str], ...] = (
    (inspect, "What each module costs, and how many legal cuts there are."),
    (plan, "Split a model into stages, say how good the split is, save it."),
    (show, "A saved plan as text, and as pictures."),
    (simulate, "A saved plan's training step on a clock."),
    (doctor, "What the capture cannot see through, and what would help."),
)
for function, words in COMMANDS:
    app.command(short_help=words, epilog=EPILOG)(command(function))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autopipe {__version__}")
        raise typer.Exit


@app.callback()
def autopipe(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version, and end."),
    ] = False,
) -> None:
    """Split a PyTorch model into balanced pipeline stages, and see why it is cut there."""


def main() -> None:
    """Run the command line with the arguments of this process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    app(prog_name="autopipe")
