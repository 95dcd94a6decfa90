"""A plan made for what the command line names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autopipe.cli.command import users_code
from autopipe.cli.hardware_choice import hardware_from
from autopipe.cli.model_source import ModelSource
from autopipe.ir.plan import Plan


@dataclass(frozen=True, slots=True)
class Making:
    """What every plan needs.

    Args:
        source: The model and its example.
        hardware: As the command line gave it.
        cost: "roofline" or "measured".
        opaque: Globs of modules to be kept whole.
    """

    source: ModelSource
    hardware: str | None
    cost: str
    opaque: tuple[str, ...]

    def plan(self, n_stages: int | None, **choices: Any) -> Plan:
        """Load the model and plan it.

        Args:
            n_stages: How many stages; None with ``n_devices``.
            **choices: What else ``autopipe.plan`` takes.

        Returns:
            The plan.

        Raises:
            AutopipeError: As ``autopipe.plan`` does; ArgumentError if the model itself raises.
        """
        hardware = hardware_from(self.hardware)
        loaded = self.source.load()
        from autopipe.api import plan

        with model_runs(self.source.spec):
            return plan(
                loaded.model,
                n_stages,
                loaded.args,
                loaded.kwargs,
                cost=self.cost,
                hardware=hardware,
                opaque=self.opaque,
                **choices,
            )


@contextmanager
def model_runs(spec: str) -> Iterator[None]:
    """Run the model's own code on fake tensors; torch's log of what fails there stays quiet.

    Args:
        spec: The model, as messages call it.

    Raises:
        ArgumentError: If the model raises what the capture does not explain.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was = logger.disabled
    logger.disabled = True
    try:
        with users_code(f"planning {spec}"):
            yield
    finally:
        logger.disabled = was
