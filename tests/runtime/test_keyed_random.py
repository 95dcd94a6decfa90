"""The seed of a random node is one number for all time: checkpoints continue with it."""

from __future__ import annotations

import torch

from autopipe.rewrite.random_keys import enter_key, listening
from autopipe.runtime.keyed_random import KeyedRandom, users_stream_kept

CPU = torch.device("cpu")


def test_the_seed_of_a_key_is_blake2b_of_what_it_depends_on():
    from hashlib import blake2b

    digest = blake2b(b"1,2,0,3,h.0.drop|0", digest_size=8).digest()
    assert KeyedRandom(seed=1, step=2).of_key(3, "h.0.drop|0") == int.from_bytes(digest, "little")


def test_every_part_of_the_key_counts():
    seeds = {
        KeyedRandom(seed, step, replica).of_key(microbatch, key)
        for seed in (0, 1)
        for step in (0, 1)
        for replica in (0, 1)
        for microbatch in (0, 1)
        for key in ("a", "b")
    }
    assert len(seeds) == 32


def test_listeners_nest_and_leave():
    outer: list[str] = []
    inner: list[str] = []
    with listening(outer.append):
        enter_key("1")
        with listening(inner.append):
            enter_key("2")
        enter_key("3")
    enter_key("4")
    assert (outer, inner) == (["1", "3"], ["2"])


def test_the_stream_is_put_back_even_after_an_error():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    try:
        with users_stream_kept([CPU]), KeyedRandom(0, 0).of_microbatch(0, CPU):
            enter_key("x")
            torch.rand(7)
            raise KeyError("stop")
    except KeyError:
        pass
    assert torch.equal(torch.rand(2), expected)
