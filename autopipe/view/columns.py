"""Where everything of the partition's picture goes: a column a stage, wires in the gutters between.

::

    +- stage 0 -+           +- stage 1 -+           +- stage 2 -+
    | [wte]     |    .----->| [h.2]     |    .----->| [h.4]     |
    |   v       |    |      |   v       |    |  .-->|   v       |
    | [h.0] ----|----'      | [h.3] ----|----'  |   | [lm_head] |
    +-----------+  trunk    +-----------+       |   +-----------+
           '------------------------------------'
                            lane, for what skips a stage

A source has one trunk in the gutter behind its stage, and one lane below the columns if it is read further
away. In a gutter, trunks of higher sources are further left and their ports higher: they do not cross.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autopipe.view.modules import ModuleGraph, Wire
from autopipe.view.svg import Point

__all__ = ["HEADER_HEIGHT", "Layout", "Net", "Rect", "lay_out"]

BOX_WIDTH, BOX_HEIGHT, BOX_GAP = 164.0, 40.0, 18.0
HEADER_HEIGHT, PAD = 58.0, 12.0
MARGIN, TOP = 20.0, 88.0
LANE, TRUNK, PORT = 14.0, 9.0, 17.0
LABEL_ROOM, STUB = 60.0, 10.0


class Rect(NamedTuple):
    """A rectangle in pixels: left, top, width and height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Net:
    """What one source sends to one stage, or hands on inside its own.

    Args:
        wires: What it is made of.
        paths: One way to each reader, each ending in an arrow.
    """

    wires: tuple[Wire, ...]
    paths: tuple[tuple[Point, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of frames (a stage), boxes and nets, in the order of the stages, boxes and wires."""

    width: float
    height: float
    frames: tuple[Rect, ...]
    boxes: tuple[Rect, ...]
    inner: tuple[Net, ...]
    crossing: tuple[Net, ...]


Source = tuple[int, int, bool]  # stage, its box (-1: the stage itself), whether it is sent
Key = tuple[Source, int]  # source and reading stage


def lay_out(graph: ModuleGraph) -> Layout:
    """Place boxes and wires.

    Args:
        graph: What to draw.

    Returns:
        The places. O(boxes + wires x log).
    """
    crossing: dict[Key, list[Wire]] = defaultdict(list)
    skips: dict[int, list[Wire]] = defaultdict(list)
    for wire in graph.wires:
        if wire.cut:
            source = (wire.src_stage, -1 if wire.src is None else wire.src, wire.sent)
            crossing[source, wire.dst_stage].append(wire)
        elif wire.src is not None:
            skips[wire.src].append(wire)
    lanes_inside = _skip_lanes(graph, skips)
    trunks = [_trunks(crossing, gutter) for gutter in range(graph.n_stages - 1)]
    ports = _ports(crossing, graph, trunks)
    frames, boxes = _columns(graph, lanes_inside, trunks, ports)
    inner = tuple(_inner_net(graph, wires, boxes, lanes_inside) for wires in skips.values())
    router = _Router(graph, frames, boxes, trunks, ports, crossing)
    height = (
        max(frame.bottom for frame in frames) + MARGIN + LANE * (max(router.lanes.values(), default=-1) + 1)
    )
    nets = tuple(Net(tuple(wires), router.paths(key, wires)) for key, wires in crossing.items())
    return Layout(max(frame.right for frame in frames) + MARGIN, height, frames, boxes, inner, nets)


def _first_free(intervals: Iterable[tuple[Source | int, int, int]]) -> dict[Source | int, int]:
    """Give every interval the lowest lane that is free all along it."""
    lane_of: dict[Source | int, int] = {}
    ends: list[int] = []  # of each lane, the end of its last interval
    for key, start, end in sorted(intervals, key=lambda one: one[1]):
        lane = next((number for number, last in enumerate(ends) if last < start), len(ends))
        ends[lane:] = [end, *ends[lane + 1 :]]
        lane_of[key] = lane
    return lane_of


def _skip_lanes(graph: ModuleGraph, skips: Mapping[int, Sequence[Wire]]) -> list[dict[Source | int, int]]:
    """Of each stage: the lane of each box that is read further down than by its neighbour."""
    lanes = []
    for stage in range(graph.n_stages):
        place = {box: row for row, box in enumerate(graph.boxes_of(stage))}
        reach = {
            box: max(place[wire.dst] for wire in skips.get(box, ()) if wire.dst is not None)
            for box in place
            if box in skips
        }
        lanes.append(
            _first_free((box, place[box], end) for box, end in reach.items() if end > place[box] + 1)
        )
    return lanes


def _trunks(crossing: Iterable[Key], gutter: int) -> dict[Source, int]:
    """Number the trunks of a gutter from the left: sources beside it from the top, then those by a lane."""
    beside = {source for source, _ in crossing if source[0] == gutter}
    by_lane = {source for source, dst in crossing if source[0] < gutter and dst == gutter + 1}
    return {source: number for number, source in enumerate([*sorted(beside), *sorted(by_lane)])}


def _ports(
    crossing: Mapping[Key, Sequence[Wire]], graph: ModuleGraph, trunks: Sequence[Mapping[Source, int]]
) -> dict[tuple[int, int], list[Source]]:
    """Sources that enter each (stage, box) from the left, from the top; box -1 is the stage itself."""
    ports: dict[tuple[int, int], list[Source]] = defaultdict(list)
    for (source, dst_stage), wires in crossing.items():
        for box in {-1 if wire.dst is None else wire.dst for wire in wires}:
            ports[dst_stage, box].append(source)
    for (dst_stage, _), sources in ports.items():
        sources.sort(key=lambda source: trunks[dst_stage - 1][source])
    return ports


def _columns(
    graph: ModuleGraph,
    lanes_inside: Sequence[Mapping[Source | int, int]],
    trunks: Sequence[Mapping[Source, int]],
    ports: Mapping[tuple[int, int], Sequence[Source]],
) -> tuple[tuple[Rect, ...], tuple[Rect, ...]]:
    frames, boxes = [], {}
    x = MARGIN
    for stage in range(graph.n_stages):
        y = TOP + HEADER_HEIGHT + PAD
        for box in graph.boxes_of(stage):
            height = max(BOX_HEIGHT, PORT * (len(ports.get((stage, box), ())) + 0.5))
            boxes[box] = Rect(x + PAD, y, BOX_WIDTH, height)
            y += height + BOX_GAP
        n_lanes = max(lanes_inside[stage].values(), default=-1) + 1
        width = BOX_WIDTH + 2 * PAD + TRUNK * n_lanes
        frames.append(Rect(x, TOP, width, y - BOX_GAP + PAD - TOP))
        n_trunks = len(trunks[stage]) if stage < graph.n_stages - 1 else 0
        x += width + STUB + TRUNK * n_trunks + LABEL_ROOM
    return tuple(frames), tuple(boxes[index] for index in range(len(boxes)))


def _inner_net(
    graph: ModuleGraph,
    wires: Sequence[Wire],
    boxes: Sequence[Rect],
    lanes_inside: Sequence[Mapping[Source | int, int]],
) -> Net:
    assert wires[0].src is not None, wires[0]
    source, rect = wires[0].src, boxes[wires[0].src]
    below = graph.boxes_of(wires[0].src_stage)
    after = below[below.index(source) + 1] if source != below[-1] else None
    paths: list[tuple[Point, ...]] = []
    for reader in (wire.dst for wire in wires if wire.dst is not None):
        to = boxes[reader]
        if reader == after:
            middle = rect.x + rect.width / 2
            paths.append(((middle, rect.bottom), (middle, to.y)))
        else:
            x = rect.right + TRUNK * (lanes_inside[wires[0].src_stage][source] + 0.8)
            y_out, y_in = rect.bottom - 8, to.y + 8
            paths.append(((rect.right, y_out), (x, y_out), (x, y_in), (to.right, y_in)))
    return Net(tuple(wires), tuple(paths))


class _Router:
    """Finds the ways of the nets that cross, once everything else has its place."""

    def __init__(
        self,
        graph: ModuleGraph,
        frames: Sequence[Rect],
        boxes: Sequence[Rect],
        trunks: Sequence[Mapping[Source, int]],
        ports: Mapping[tuple[int, int], Sequence[Source]],
        crossing: Iterable[Key],
    ) -> None:
        self._frames, self._boxes, self._trunks, self._ports = frames, boxes, trunks, ports
        self._floor = max(frame.bottom for frame in frames) + LANE
        far: dict[Source, int] = {}
        for source, dst in crossing:
            if dst > source[0] + 1:
                far[source] = max(far.get(source, 0), dst)
        self.lanes = _first_free((source, source[0], dst - 1) for source, dst in sorted(far.items()))

    def paths(self, key: Key, wires: Sequence[Wire]) -> tuple[tuple[Point, ...], ...]:
        """Return the way to every reader of a source in one stage, from the top."""
        source, dst_stage = key
        src_stage, src_box, _ = source
        start = self._frames[src_stage] if src_box < 0 else self._boxes[src_box]
        y = start.y + start.height / 2
        out_x = self._trunk_x(src_stage, source)
        way = [(start.right, y), (out_x, y)]
        if dst_stage > src_stage + 1:
            lane_y = self._floor + LANE * self.lanes[source]
            in_x = self._trunk_x(dst_stage - 1, source)
            way += [(out_x, lane_y), (in_x, lane_y)]
        ends = sorted(
            self._port(source, dst_stage, box) for box in {-1 if w.dst is None else w.dst for w in wires}
        )
        return tuple((*way, (way[-1][0], port_y), (port_x, port_y)) for port_y, port_x in ends)

    def _trunk_x(self, gutter: int, source: Source) -> float:
        return self._frames[gutter].right + STUB + TRUNK * self._trunks[gutter][source]

    def _port(self, source: Source, stage: int, box: int) -> Point:
        """Return y and x of the port."""
        sources = self._ports[stage, box]
        share = (sources.index(source) + 1) / (len(sources) + 1)
        if box < 0:
            frame = self._frames[stage]
            return frame.y + frame.height * share, frame.x
        rect = self._boxes[box]
        return rect.y + rect.height * share, rect.x
