"""The network interfaces over which a rank meets the others."""

from __future__ import annotations

import os

import torch.distributed as dist

from autopipe.errors import EngineError

_NAMED = "GLOO_SOCKET_IFNAME"


def check_interfaces() -> None:
    """Listen as gloo will, for a moment.

    The other ranks cannot know why one never came; it is for this one to say so.

    Raises:
        EngineError: If this process cannot listen, as on an interface that is not there.
    """
    names = [name for name in os.environ.get(_NAMED, "").split(",") if name]
    try:
        for name in names:
            dist.ProcessGroupGloo.create_device(interface=name)
        if not names:
            dist.ProcessGroupGloo.create_default_device()
    except RuntimeError as error:
        asked = f"{_NAMED}={','.join(names)}" if names else f"{_NAMED} is not set"
        raise EngineError(
            "this rank has no address for the others.",
            asked,
            str(error).strip().splitlines()[0],
            f"{_NAMED}= an interface that `ip addr` lists, with an address that the other hosts reach",
        ) from error
