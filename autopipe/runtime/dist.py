"""Messages between stages that live in several processes.

Each message is bytes of a length that both ends know: from the capture, whose shapes they share, or, where a
value turned out to be of another one, from the last time. Messages between two ranks are received in the
order in which they are sent (``schedule.comms`` puts them so), hence one stream a pair of ranks is enough,
and a receive can be posted before anybody knows when its message will come::

    row of rank 1    1RECV_F1  1F1  1SEND_F1  1RECV_B0  1B0  1SEND_B0  1RECV_F2 ...
    posted at once   ────────────────────────────────────► the next two computes' receives

A send never waits: the message is a copy, kept until the receiver has it. When a message of a peer arrives
that the peer sent after it had received one of ours, ours is gone and its memory is given back.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import torch

from autopipe.ir.action import Message
from autopipe.ir.schedule import Action, Op, Schedule
from autopipe.runtime.local import LocalTransport
from autopipe.runtime.peers import Peers
from autopipe.runtime.tensor_bytes import N_DESCRIPTION_BYTES, Flags, Layout, order_of, packed
from autopipe.runtime.wires import Receive, Sent, Wires

_STREAM, _DESCRIPTIONS = 0, 1  # tags
_COMPUTES_AHEAD = 2

LayoutOf = Callable[[Message], Layout]


class DistTransport:
    """Carries messages between the stages of this process and those of others.

    Args:
        peers: The ranks.
        wires: Carry one tensor.
        devices: ``[n_stages]``; only those of the stages here are looked at.
    """

    def __init__(self, peers: Peers, wires: Wires, devices: Sequence[torch.device]) -> None:
        """Start with nothing under way."""
        self._peers, self._wires, self._devices = peers, wires, tuple(devices)
        self._known: Schedule | None = None
        self._arriving: list[Action] = []
        self._computes_before: dict[Action, int] = {}
        self._local = LocalTransport(devices)
        self._changed: dict[tuple[object, Message], Layout] = {}
        self.clear()

    def expect(self, layout_of: LayoutOf, call: object) -> None:
        """Say which layout each message of the coming step has by the capture.

        Args:
            layout_of: The layout of a value; that of its gradient is the same.
            call: Equal for calls whose messages are alike; what turned out to be different in one is expected
                in the next.
        """
        self._layout_of, self._call = layout_of, call

    def rows_here(self, schedule: Schedule) -> Sequence[int]:
        """Return this rank, and post its first receives."""
        if schedule is not self._known:
            self._read(schedule)
        self._to_post.clear()
        self._to_post.extend(self._arriving)
        self._post_until(_COMPUTES_AHEAD)
        return [self._peers.rank]

    def _read(self, schedule: Schedule) -> None:
        """Find what this rank receives and when, and connect who has messages for each other."""
        self._known, self._rank_of = schedule, schedule.rank_of_stage
        self._arriving.clear()
        self._computes_before.clear()
        n_computes = 0
        for action in schedule.rows[self._peers.rank]:
            n_computes += not action.op.is_comm
            if action.op is Op.RECV and self._peer(action) != self._peers.rank:
                self._arriving.append(action)
                self._computes_before[action] = n_computes
        self._steps = {
            action: step for row in schedule.rows for step, action in enumerate(row) if action.op.is_comm
        }
        self._wires.open({(self._rank_of[action.stage], self._peer(action)) for action in self._steps})

    def send(self, action: Action, tensor: torch.Tensor | None) -> None:
        """Copy the tensor, and start to send the copy."""
        peer = self._peer(action)
        if peer == self._peers.rank:
            self._local.send(action, tensor)
            return
        agreed = self._agreed(action.message)
        requires_grad = tensor is not None and tensor.requires_grad and action.carries == "F"
        received_at = self._steps[_other_end(action)]
        sent = self._wires.send(tensor, agreed, peer, _STREAM, requires_grad=requires_grad)
        self._sent[peer].append((received_at, sent))
        if tensor is not None and Flags.OTHER_LAYOUT in sent.flags:
            layout = Layout.of(tensor)
            self._changed[self._call, action.message] = layout
            for more in (layout.described(), packed(tensor, layout, requires_grad=False)):
                self._sent[peer].append((received_at, self._wires.send_bytes(more, peer, _DESCRIPTIONS)))

    def is_ready(self, action: Action) -> bool:
        """Whether ``receive`` may be called: from another rank always, as it can wait there."""
        return self._peer(action) != self._peers.rank or self._local.is_ready(action)

    def receive(self, action: Action) -> torch.Tensor | None:
        """Wait for a message, at most as long as the engine's timeout."""
        peer = self._peer(action)
        if peer == self._peers.rank:
            return self._local.receive(action)
        self._post_until(self._computes_before[action] + _COMPUTES_AHEAD)
        flags, tensor = self._posted.pop(action)(str(action))
        self._let_go(peer, self._steps[_other_end(action)])
        if Flags.THERE not in flags:
            return None
        if Flags.OTHER_LAYOUT in flags:
            tensor = self._described(action, peer)
        return tensor.to(self._devices[action.stage]).requires_grad_(Flags.REQUIRES_GRAD in flags)

    def finish(self) -> None:
        """Wait until everything that was sent is gone, and what was received is there."""
        self._wires.finish()
        for sent in self._sent.values():
            while sent:
                sent.popleft()[1].wait()

    def clear(self) -> None:
        """Forget what is under way, and what changed: after a failure the ends may know different things."""
        self._local.clear()
        self._changed.clear()
        self._known = None
        self._posted: dict[Action, Receive] = {}
        self._to_post: deque[Action] = deque()
        self._sent: defaultdict[int, deque[tuple[int, Sent]]] = defaultdict(deque)

    def _peer(self, action: Action) -> int:
        assert action.peer is not None
        return self._rank_of[action.peer]

    def _agreed(self, message: Message) -> Layout:
        return self._changed.get((self._call, message)) or self._layout_of(message)

    def _post_until(self, n_computes: int) -> None:
        """Post the receives in front of the first so many computes of the row, in the order of the row."""
        while self._to_post and self._computes_before[self._to_post[0]] <= n_computes:
            action = self._to_post.popleft()
            layout = self._agreed(action.message)
            self._posted[action] = self._wires.post(layout, self._peer(action), _STREAM)

    def _let_go(self, peer: int, step: int) -> None:
        """Forget messages that a peer received before it took the step that we know it took."""
        sent = self._sent[peer]
        while sent and sent[0][0] < step and sent[0][1].is_gone():
            sent.popleft()[1].wait()

    def _described(self, action: Action, peer: int) -> torch.Tensor:
        description = torch.empty(N_DESCRIPTION_BYTES, dtype=torch.uint8)
        self._peers.post(description, peer, _DESCRIPTIONS)(str(action))
        layout = Layout.read(description)
        self._changed[self._call, action.message] = layout
        buffer = layout.buffer()
        self._peers.post(buffer, peer, _DESCRIPTIONS)(str(action))
        return layout.view(buffer, order_of(buffer, layout))


def _other_end(action: Action) -> Action:
    assert action.peer is not None
    op = Op.RECV if action.op is Op.SEND else Op.SEND
    return Action(action.peer, op, action.microbatch, action.stage, action.value, action.carries)
