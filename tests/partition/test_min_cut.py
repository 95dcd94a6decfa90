"""Bounds of a window against every downset in it, one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.partition.charges import CutNets
from autopipe.partition.min_cut import LevelCuts
from autopipe.partition.problem import Floats

N = 6


def downsets(preds: list[list[int]], inside: np.ndarray, outside: np.ndarray) -> Iterator[np.ndarray]:
    for code in range(2**N):
        member = np.array([bool(code >> x & 1) for x in range(N)])
        closed = all(member[p] for x in range(N) if member[x] for p in preds[x])
        if closed and member[inside].all() and not member[outside].any():
            yield member


def charge(member: np.ndarray, nets: list[tuple[int, list[int], float, float, bool]]) -> tuple[float, float]:
    send = receive = 0.0
    for anchor, ends, out, back, forward in nets:
        apart = any(member[x] != member[anchor] for x in ends)
        if apart and member[anchor] == forward:
            send, receive = send + out, receive + back
    return send, receive


def cut_nets(nets: list[tuple[int, list[int], float, float, bool]]) -> CutNets:
    return CutNets(
        np.array([net[0] for net in nets], dtype=np.int64),
        np.array([net[2] for net in nets], dtype=float),
        np.array([net[3] for net in nets], dtype=float),
        np.array([net[4] for net in nets], dtype=bool),
        np.array([end for net in nets for end in net[1]], dtype=np.int64),
        np.array([at for at, net in enumerate(nets) for _ in net[1]], dtype=np.int64),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_bound_is_the_cheapest_downset_of_the_window(data: st.DataObject) -> None:
    preds = [
        data.draw(st.lists(st.integers(0, x - 1), max_size=2, unique=True)) if x else [] for x in range(N)
    ]
    ancestors = np.eye(N, dtype=bool)
    for item, before in enumerate(preds):
        for x in before:
            ancestors[item] |= ancestors[x]
    inside, outside = np.zeros(N, dtype=bool), np.zeros(N, dtype=bool)
    inside |= ancestors[data.draw(st.integers(0, N - 1))] & data.draw(st.booleans())
    outside |= ancestors[:, data.draw(st.integers(0, N - 1))] & data.draw(st.booleans())
    outside &= ~(inside[None, :] & ancestors.T).any(axis=1)
    nets = []
    cost = st.sampled_from([0.0, 1.0, 2.5, 7.0])
    for anchor in range(N):
        after = np.flatnonzero(ancestors[:, anchor] & ~inside & (np.arange(N) != anchor)).tolist()
        if after and not outside[anchor]:
            ends = data.draw(st.lists(st.sampled_from(after), min_size=1, unique=True))
            nets.append((anchor, ends, data.draw(cost), data.draw(cost), True))
        before = np.flatnonzero(ancestors[anchor] & ~outside & (np.arange(N) != anchor)).tolist()
        if before and not inside[anchor]:
            ends = data.draw(st.lists(st.sampled_from(before), min_size=1, unique=True))
            nets.append((anchor, ends, data.draw(cost), data.draw(cost), False))
    weight = np.array(data.draw(st.lists(st.sampled_from([-3.0, -1.0, 0.5, 2.0]), min_size=N, max_size=N)))
    asked: list[tuple[float, float, Floats | None]] = [(1.0, 0.0, None), (1.0, 1.0, None), (0.5, 1.0, weight)]
    arcs = np.array([(x, p) for x in range(N) for p in preds[x]], dtype=np.int64).reshape(-1, 2).T
    found = LevelCuts(inside, outside, arcs, cut_nets(nets)).least(asked, 100.0)
    for (send, receive, added), bound in zip(asked, found, strict=True):
        costs = [
            send * out + receive * back + (0.0 if added is None else float(added[member].sum()))
            for member in downsets(preds, inside, outside)
            for out, back in [charge(member, nets)]
        ]
        assert bound == pytest.approx(min(costs), abs=1e-6)


def test_nets_come_out_one_by_one_with_their_ends() -> None:
    nets = [(0, [1, 2], 1.0, 2.0, True), (3, [1], 0.5, 0.0, False)]
    assert [(x.anchor, list(x.ends), x.send, x.receive, x.forward) for x in cut_nets(nets)] == nets
