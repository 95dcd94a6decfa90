"""The split model: one fx.GraphModule a stage, what crosses between them, and who owns what is tied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import fx

from autopipe.ir.tensor import TensorSpec
from autopipe.ir.traced import TracedModel

ArgumentKind = Literal["input", "size", "recv"]


@dataclass(frozen=True, slots=True)
class Port:
    """One value at the border of a stage.

    Args:
        value: The node that makes the value.
        spec: Its shape and dtype.
        peer: The stage at the other end.
        carries_grad: Whether a gradient comes back.
        output_only: Sent to the last stage only because the model returns it; stays home where nobody asks
            for it.
    """

    value: str
    spec: TensorSpec
    peer: int
    carries_grad: bool
    output_only: bool = False

    def verify(self) -> None:
        """Check that the tensor can carry the gradient that it is said to; else a bug of autopipe."""
        self.spec.verify()
        assert self.peer >= 0, f"{self.value} has stage {self.peer} at its other end"
        assert self.spec.is_differentiable or not self.carries_grad, f"{self} cannot carry a gradient"

    def __str__(self) -> str:
        """Print as ``block_a f32[B, 16] -> 2``."""
        return f"{self.value} {self.spec} <-> stage {self.peer}"


@dataclass(frozen=True, slots=True)
class Argument:
    """What one positional argument of a stage's module is.

    Args:
        kind: "input": a tensor among the model's arguments; "size": the int value of a symbolic size;
            "recv": a value from an earlier stage.
        name: The input leaf, the symbolic size, or the value.
    """

    kind: ArgumentKind
    name: str

    def verify(self) -> None:
        """Check that the kind is one of the three and that there is a name; else a bug of autopipe."""
        assert self.kind in get_args(ArgumentKind), f"argument {self.name!r} is of kind {self.kind!r}"
        assert self.name, f"an argument of kind {self.kind} has no name"

    def __str__(self) -> str:
        """Print as ``recv block_a``."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class StageModule:
    """One stage.

    Args:
        index: Its place, from 0.
        module: ``module(*arguments)`` returns the tuple of ``results``. Its submodules are the user's own.
        arguments: What each positional argument of ``module`` is.
        results: The value behind each element of the returned tuple: what is sent, and what the model
            returns.
        recv: Values from earlier stages.
        send: Values to later stages, one entry a value and receiving stage.
        fqns: FQNs of the leaves, then of the parameters and buffers used outside leaves, in program order.
        written: Names, in ``module``, of the parameters, buffers and constants that a forward writes, so that
            what still needs their old values has to keep a copy.
        mutated: The same, with those that only torch's own modules see, such as the statistics of a
            BatchNorm: what a second forward of a microbatch must not write again.
    """

    index: int
    module: fx.GraphModule
    arguments: tuple[Argument, ...]
    results: tuple[str, ...]
    recv: tuple[Port, ...]
    send: tuple[Port, ...]
    fqns: tuple[str, ...]
    written: tuple[str, ...] = ()
    mutated: tuple[str, ...] = ()

    def verify(self) -> None:
        """Check arguments and results against the ports; a mismatch is a bug of autopipe."""
        received = {port.value for port in self.recv}
        for port in (*self.recv, *self.send):
            port.verify()
        for argument in self.arguments:
            argument.verify()
            assert argument.kind != "recv" or argument.name in received, (
                f"stage {self.index} lacks {argument.name}"
            )
        for port in self.send:
            assert port.value in self.results, f"stage {self.index} sends {port.value} but does not return it"

    def __str__(self) -> str:
        """Print the ports and the leaves."""
        lines = [f"stage {self.index}: {', '.join(self.fqns) or 'no modules'}"]
        lines += [f"  recv {port.value} {port.spec} <- {port.peer}" for port in self.recv]
        lines += [f"  send {port.value} {port.spec} -> {port.peer}" for port in self.send]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class TiedTensor:
    """A parameter or buffer that several stages use.

    Args:
        fqn: Its canonical FQN.
        owner: The earliest stage that uses it.
        replicas: The other stages that use it, ascending.
        is_parameter: False for a buffer.
    """

    fqn: str
    owner: int
    replicas: tuple[int, ...]
    is_parameter: bool

    def verify(self) -> None:
        """Check that the owner is the earliest stage; else a bug of autopipe."""
        users = [self.owner, *self.replicas]
        assert users == sorted(set(users)), f"{self.fqn}: stages {users} are not owner first, ascending"

    def __str__(self) -> str:
        """Print as ``embed.weight: stage 0 owns, stages (2,) hold replicas``."""
        return f"{self.fqn}: stage {self.owner} owns, stages {self.replicas} hold replicas"


@dataclass(frozen=True, slots=True)
class StagedModel:
    """All stages of a model for one signature.

    Args:
        traced: The capture that was cut.
        stages: The stages, by index.
        tied: Parameters and buffers that several stages use.
        stage_of: Node name -> stage, of every node that runs.
        out_stages: Stage that makes each output leaf (parallel to ``traced.out_names``), None for a plain
            value.
        parameters_of: Canonical FQN of every parameter and buffer -> the stages that use it, ascending.
    """

    traced: TracedModel
    stages: tuple[StageModule, ...]
    tied: tuple[TiedTensor, ...]
    stage_of: Mapping[str, int]
    out_stages: tuple[int | None, ...]
    parameters_of: Mapping[str, tuple[int, ...]]

    def verify(self) -> None:
        """Check that every value received is sent by an earlier stage; a mismatch is a bug of autopipe."""
        for tied in self.tied:
            tied.verify()
        for stage in self.stages:
            stage.verify()
            for port in stage.recv:
                sent = [(p.value, p.peer) for p in self.stages[port.peer].send]
                assert (port.value, stage.index) in sent, (
                    f"stage {stage.index} recv {port.value!r}: nobody sends it"
                )
                assert port.peer < stage.index, f"stage {stage.index} recv {port.value!r} from a later stage"

    def __str__(self) -> str:
        """Print every stage and what is tied."""
        lines = [str(stage) for stage in self.stages]
        lines += [f"tied {tied}" for tied in self.tied]
        return "\n".join(lines)
