"""The command line, ``autopipe inspect | plan | show | simulate | doctor``: one file a command.

Commands return text; ``command.py`` writes it, and turns errors into messages and exit codes. Nothing here
loads torch before a command needs it, so that ``autopipe --help`` is quick.
"""

from __future__ import annotations

from autopipe.cli.app import app, main

__all__ = ["app", "main"]
