"""``--hardware``: a name, or a file that describes the machines and links."""

from __future__ import annotations

import json
from pathlib import Path

from autopipe.errors import ArgumentError, PartitionError
from autopipe.ir.hardware import Hardware


def hardware_from(choice: str | None) -> str | Hardware | None:
    """Read a hardware file, and pass anything else on.

    Args:
        choice: A name, the path of a .json file in the form of ``Hardware.to_json``, or None.

    Returns:
        What ``autopipe.plan`` takes.

    Raises:
        ArgumentError: If the file is missing or describes no hardware.
    """
    if choice is None or not choice.endswith(".json"):
        return choice
    if not Path(choice).is_file():
        raise ArgumentError(f"--hardware: there is no file {choice}.", where=f"in {Path.cwd()}")
    try:
        return Hardware.from_json(json.loads(Path(choice).read_text("utf-8")))
    except (PartitionError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"--hardware: {choice} describes no hardware.",
            why=f"{type(error).__name__}: {error}",
            remedy="json.dumps(autopipe.cost.hardware('h100').to_json()) shows the form.",
        ) from error
