"""What was decided for a model, and why: saved as JSON, compared, drawn, and given to trainers.

A plan names nodes by the keys that the capture gave them (module FQN, operation, ordinal of the call), so
that it fits every capture of the same model, whatever the arguments are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autopipe.errors import PlanMismatchError
from autopipe.ir.action import Transfer
from autopipe.ir.alternatives import Alternatives
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.cut import Cut
from autopipe.ir.fingerprint import Fingerprint
from autopipe.ir.hardware import Hardware
from autopipe.ir.partition import Certificate, Partition
from autopipe.ir.schedule import Schedule

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A partition of one model, with everything that led to it.

    Args:
        fingerprint: The model that it was made for.
        hardware: What the costs were computed for.
        cost_source: Where the costs come from: "roofline" or "measured".
        keys: Node name -> the node's key, in program order.
        fqns: FQNs of the leaf modules and bare parameters of each stage.
        partition: The split, its costs and its certificate.
        baselines: Bottleneck of what others do, by name, in ms; a rule that yields no split of this shape is
            left out.
        transfers: What crosses between stages, for one microbatch of the example.
        schedule: The compute actions of every rank.
        predictions: Simulated ``step_ms`` and ``bubble_fraction``.
        sizes: Value of each symbolic size in the example.
        notes: Sentences for the summary, such as outputs that nobody may have asked for.
        cost_graph: What was cut; None in the small form.
        schema_version: Version of the file's layout.
        n_replicas: Copies of the pipeline that the batch is dealt out to; the partition is that of each.
        alternatives: What was considered before these stages, replicas and microbatches were chosen; None
            where the caller chose them.
    """

    fingerprint: Fingerprint
    hardware: Hardware
    cost_source: str
    keys: Mapping[str, str] = field(hash=False)
    fqns: tuple[tuple[str, ...], ...]
    partition: Partition
    baselines: Mapping[str, float] = field(hash=False)
    transfers: tuple[Transfer, ...]
    schedule: Schedule
    predictions: Mapping[str, float] = field(hash=False)
    sizes: Mapping[str, int] = field(hash=False)
    notes: tuple[str, ...] = ()
    cost_graph: CostGraph | None = None
    schema_version: int = SCHEMA_VERSION
    n_replicas: int = 1
    alternatives: Alternatives | None = None

    @property
    def n_stages(self) -> int:
        """How many stages the model is split into."""
        return self.partition.n_stages

    @property
    def stage_of_key(self) -> dict[str, int]:
        """The stage of every node, by its key."""
        return {
            key: self.partition.stage_of[name]
            for name, key in self.keys.items()
            if name in self.partition.stage_of
        }

    @property
    def cut(self) -> Cut:
        """Where it cuts, for any capture of the model."""
        again = frozenset(self.keys[name] for name in self.partition.recomputed)
        return Cut(self.n_stages, self.stage_of_key, again)

    def fqns_per_stage(self) -> list[list[str]]:
        """Return the FQNs of the modules of each stage, the form that torchtitan and others read."""
        return [list(fqns) for fqns in self.fqns]

    def verify(self) -> None:
        """Check the parts, and that they speak of the same stages.

        Raises:
            PlanMismatchError: If they do not.
        """
        self.fingerprint.verify()
        self.partition.verify()
        self.schedule.verify()
        self.hardware.verify()
        if not self.partition.n_stages == self.schedule.n_stages == len(self.fqns):
            raise PlanMismatchError(
                f"the partition has {self.partition.n_stages} stages, the schedule {self.schedule.n_stages}, "
                f"the lists of modules {len(self.fqns)}."
            )
        unknown = [name for name in self.partition.stage_of if name not in self.keys]
        if unknown:
            raise PlanMismatchError(f"node {unknown[0]} has a stage but no key.")

    def check_model(self, other: Fingerprint, *, name: str = "the plan") -> None:
        """Raise unless the plan was made for a model with this fingerprint.

        Args:
            other: The fingerprint of the model at hand.
            name: What the message calls the plan.

        Raises:
            PlanMismatchError: Naming the first difference.
        """
        differences = self.fingerprint.differences(other)
        if differences:
            raise PlanMismatchError(
                f"{name} was made for another model.",
                where=f"First difference of {len(differences)}: {differences[0]}.",
                remedy="make the plan again with autopipe.plan(model, n_stages, example_args).",
            )

    def small(self) -> Plan:
        """Return the plan without its cost graph: enough to split, a hundredth of the size."""
        return replace(self, cost_graph=None)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; the same plan gives the same bytes.

        Args:
            path: The file.
        """
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what ``save`` wrote.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            PlanMismatchError: If the file is damaged, or written by a newer version.
        """
        try:
            data = json.loads(Path(path).read_text())
            version = data["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise PlanMismatchError(
                f"{path} is not a plan.",
                why=f"{type(error).__name__}: {error}",
                remedy="plan.save(path) writes one.",
            ) from error
        if version != SCHEMA_VERSION:
            raise PlanMismatchError(
                f"{path} has schema version {version}.",
                why=f"This version of autopipe reads version {SCHEMA_VERSION}.",
                remedy="use the autopipe that wrote it, or make the plan again.",
            )
        try:
            return cls.from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanMismatchError(
                f"{path} is damaged.", why=f"{type(error).__name__}: {error}", remedy="make the plan again."
            ) from error

    def diff(self, other: Plan) -> list[str]:
        """Say in words how another plan differs.

        Args:
            other: The plan to compare with.

        Returns:
            One sentence a difference; empty for equal plans.
        """
        found = self.fingerprint.differences(other.fingerprint)
        found += _moves(self.stage_of_key, other.stage_of_key)
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if part.name not in _COMPARED_IN_WORDS and mine != theirs:
                found.append(f"{part.name} differs" + _values(mine, theirs))
        found += _certificates(self.partition.certificate, other.partition.certificate)
        if not found and self.partition != other.partition:
            found.append("the costs of the stages differ")
        if not found and self != other:
            found.append("nodes or modules are named differently")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` reads."""
        return {
            "schema_version": self.schema_version,
            "fingerprint": self.fingerprint.to_json(),
            "hardware": self.hardware.to_json(),
            "cost_source": self.cost_source,
            "keys": dict(self.keys),
            "fqns": [list(fqns) for fqns in self.fqns],
            "partition": self.partition.to_json(),
            "baselines": dict(self.baselines),
            "transfers": [asdict(transfer) for transfer in self.transfers],
            "schedule": self.schedule.to_json(),
            "predictions": dict(self.predictions),
            "sizes": dict(self.sizes),
            "notes": list(self.notes),
            "cost_graph": None if self.cost_graph is None else self.cost_graph.to_json(),
            "n_replicas": self.n_replicas,
            "alternatives": None if self.alternatives is None else self.alternatives.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Read what ``to_json`` wrote; verified.

        Args:
            data: Plain data.

        Returns:
            The plan.
        """
        graph, considered = data["cost_graph"], data.get("alternatives")
        plan = cls(
            Fingerprint.from_json(data["fingerprint"]),
            Hardware.from_json(data["hardware"]),
            data["cost_source"],
            dict(data["keys"]),
            tuple(tuple(fqns) for fqns in data["fqns"]),
            Partition.from_json(data["partition"]),
            dict(data["baselines"]),
            tuple(Transfer(**transfer) for transfer in data["transfers"]),
            Schedule.from_json(data["schedule"]),
            dict(data["predictions"]),
            dict(data["sizes"]),
            tuple(data["notes"]),
            None if graph is None else CostGraph.from_json(graph),
            data["schema_version"],
            data.get("n_replicas", 1),
            None if considered is None else Alternatives.from_json(considered),
        )
        plan.verify()
        return plan

    def __str__(self) -> str:
        """Print the model, and its partition."""
        return f"Plan for {self.fingerprint}\n{self.partition}"


_COMPARED_IN_WORDS = ("fingerprint", "keys", "partition", "fqns")


def _moves(mine: Mapping[str, int], theirs: Mapping[str, int]) -> list[str]:
    both = [key for key in mine if key in theirs]
    found = [
        f"{key} moved from stage {mine[key]} to stage {theirs[key]}"
        for key in both
        if mine[key] != theirs[key]
    ]
    found += [f"{key} is only in the first plan" for key in mine if key not in theirs]
    return found + [f"{key} is only in the second plan" for key in theirs if key not in mine]


def _certificates(mine: Certificate, theirs: Certificate) -> list[str]:
    """Say which fields of the certificate differ, each by its name, numbers in full."""
    pairs = [(part.name, getattr(mine, part.name), getattr(theirs, part.name)) for part in fields(mine)]
    return [f"the certificate's {name} is {b!r}, not {a!r}" for name, a, b in pairs if a != b]


def _values(a: Any, b: Any) -> str:
    return f": {a!r}, then {b!r}" if isinstance(a, str | int | float) else ""
