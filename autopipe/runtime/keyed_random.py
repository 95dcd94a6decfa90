"""Random numbers that depend on a key and on nothing else: not on stages, schedule, processes or recompute.

Before a random node runs, the generators of its device are seeded with a 64-bit hash of (seed, step,
data-parallel replica, microbatch, the node's key). A plain model draws from one stream, which pieces of it
cannot share. So are Python's and numpy's, before a node that may draw from them: a module kept whole.

Source of the hash: BLAKE2b, RFC 7693, https://www.rfc-editor.org/rfc/rfc7693, digest of 8 bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from autopipe.rewrite.random_keys import listening
from autopipe.trace.streams import kept_streams

LOSS_KEY = "|loss_fn|0"
_LOW = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class KeyedRandom:
    """The random numbers of one step.

    Args:
        seed: Of the training.
        step: How many steps came before.
        replica: Which data-parallel replica.

    Example:
        >>> from autopipe.rewrite.random_keys import enter_key
        >>> with KeyedRandom(seed=0, step=0).of_microbatch(1, torch.device("cpu")):
        ...     enter_key("drop|0")
        ...     first = torch.rand(2)
        ...     enter_key("drop|0")
        >>> bool((first == torch.rand(2)).all())
        True
    """

    seed: int
    step: int
    replica: int = 0

    def of_key(self, microbatch: int, key: str) -> int:
        """Return the 64-bit seed of one random node in one microbatch."""
        text = f"{self.seed},{self.step},{self.replica},{microbatch},{key}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")

    @contextmanager
    def of_microbatch(self, microbatch: int, device: torch.device) -> Iterator[None]:
        """Seed the generators of the CPU and of a device before every random node that runs inside."""
        generators = [torch.default_generator]
        if device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index or 0])

        def seed(key: str) -> None:
            for generator in generators:
                generator.manual_seed(self.of_key(microbatch, key))

        def seed_outside(key: str) -> None:
            number = self.of_key(microbatch, key)
            random.seed(number)
            np.random.seed([number & _LOW, number >> 32])

        with listening(seed, seed_outside):
            yield


@contextmanager
def users_stream_kept(devices: Sequence[torch.device]) -> Iterator[None]:
    """Put the user's random streams back in the end, Python's and numpy's too, whatever is seeded inside."""
    indices = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with kept_streams(), torch.random.fork_rng(devices=indices):
        yield
