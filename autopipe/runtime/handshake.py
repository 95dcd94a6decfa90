"""What the ranks of an engine must have in common, compared before any of them waits for a message."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autopipe.errors import PlanMismatchError
from autopipe.ir.stages import StagedModel
from autopipe.runtime.peers import Peers
from autopipe.trace import signature_of
from autopipe.version import __version__

Record = Mapping[str, Mapping[str, Any]]  # topic -> name -> what this rank has

_SHOWN = 3
_ABSENT = "absent"
_REMEDIES = {
    "versions": "install the same versions on every host",
    "the model": "build the same model on every rank",
    "the plan": "split with the same arguments on every rank, or with plan= a file that all read",
    "the signature": "split with the same example, model.train() or model.eval() on every rank",
    "requires_grad": "freeze the same parameters on every rank",
    "the engine": "pipe.engine(...) with the same arguments on every rank",
}


def record_of(model: nn.Module, staged: StagedModel, options: Mapping[str, Any]) -> Record:
    """Return what this rank has.

    Args:
        model: The user's model.
        staged: The split for the example.
        options: The engine's arguments.

    Returns:
        Topic -> name -> value, plain data.
    """
    traced = staged.traced
    tensors = [*model.named_parameters(), *model.named_buffers()]
    state = signature_of(model, (), {}).state
    arguments = {leaf.path: f"{leaf.spec}, batch {leaf.batch_dim}" for leaf in traced.inputs}
    return {
        "versions": {"torch": torch.__version__, "autopipe": __version__},
        "the model": {"class": type(model).__name__}
        | {fqn: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for fqn, t in tensors},
        "requires_grad": {fqn: parameter.requires_grad for fqn, parameter in model.named_parameters()},
        "the signature": {name: repr(value) for name, value in state} | arguments,
        "the plan": {
            traced.info[name].key: f"stage {stage}" for name, stage in sorted(staged.stage_of.items())
        },
        "the engine": {name: repr(value) for name, value in options.items()},
    }


def agree(peers: Peers, record: Record) -> None:
    """Compare the records of all ranks; every rank makes the same comparison.

    Args:
        peers: The ranks.
        record: Of this one.

    Raises:
        PlanMismatchError: On every rank, naming what differs between which ranks.
        AutopipeError: The first cause, if a rank failed before, or does not come.
    """
    answers = peers.introduce(zlib.compress(pickle.dumps(record), 1), "record")
    compare([pickle.loads(zlib.decompress(answer)) for answer in answers])


def compare(records: Sequence[Record]) -> None:
    """Raise unless all records are equal.

    Raises:
        PlanMismatchError: Naming what differs between which ranks.

    Example:
        >>> compare([{"versions": {"torch": "2.12"}}, {"versions": {"torch": "2.13"}}])
        Traceback (most recent call last):
        autopipe.errors.PlanMismatchError: the ranks do not agree about versions.
          torch is 2.12 on rank 0, 2.13 on rank 1.
          Try: install the same versions on every host
    """
    for topic, mine in records[0].items():
        for rank, record in enumerate(records):
            if record[topic] == mine:
                continue
            theirs = record[topic]
            names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            told = [
                f"{name} is {mine.get(name, _ABSENT)} on rank 0, {theirs.get(name, _ABSENT)} on rank {rank}."
                for name in names[:_SHOWN]
            ]
            more = [f"So do {len(names) - _SHOWN} more."] if len(names) > _SHOWN else []
            raise PlanMismatchError(
                f"the ranks do not agree about {topic}.",
                "\n".join([*told, *more]),
                remedy=_REMEDIES.get(topic, ""),
            )
