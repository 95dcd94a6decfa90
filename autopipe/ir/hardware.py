"""The machines of a pipeline and the links between them, each number with its source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autopipe.errors import PartitionError


def _require_positive(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not value > 0 or math.isnan(value):
            raise PartitionError(f"{owner} has {name} = {value}.", why="It must be greater than zero.")


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.

    Args:
        name: What it is called.
        flops_per_s: Peak rate by dtype name, ``{"float32": 1.9e13, "bfloat16": 3.1e14}``.
        mem_bytes_per_s: Memory bandwidth.
        memory_bytes: Memory size.
        launch_ms: What starting one operation costs at least.
        source: Where the numbers come from.
    """

    name: str
    flops_per_s: Mapping[str, float] = field(hash=False)
    mem_bytes_per_s: float
    memory_bytes: int
    launch_ms: float
    source: str

    def verify(self) -> None:
        """Raise unless all rates and the memory are positive.

        Raises:
            PartitionError: Names the device and the field.
        """
        owner = f"device {self.name!r}"
        _require_positive(owner, mem_bytes_per_s=self.mem_bytes_per_s, memory_bytes=self.memory_bytes)
        _require_positive(owner, **{f"flops_per_s[{k}]": v for k, v in self.flops_per_s.items()})
        if not 0 <= self.launch_ms < math.inf:
            raise PartitionError(f"{owner} has launch_ms = {self.launch_ms}.")


@dataclass(frozen=True, slots=True)
class Link:
    """What joins two neighbouring devices: bandwidth of one direction and latency of one message."""

    name: str
    bytes_per_s: float
    latency_ms: float
    source: str

    def transfer_ms(self, nbytes: float) -> float:
        """Time of one message; nothing is sent for zero bytes.

        Example:
            >>> Link("pcie", 25e9, 0.01, "").transfer_ms(25_000_000)
            1.01
        """
        return self.latency_ms + nbytes / self.bytes_per_s * 1e3 if nbytes else 0.0

    def verify(self) -> None:
        """Raise unless the bandwidth is positive and the latency is not negative.

        Raises:
            PartitionError: Names the link and the field.
        """
        _require_positive(f"link {self.name!r}", bytes_per_s=self.bytes_per_s)
        if not 0 <= self.latency_ms < math.inf:
            raise PartitionError(f"link {self.name!r} has latency_ms = {self.latency_ms}.")


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices in pipeline order and the links that join them.

    ::

        devices[0] --links[0]-- devices[1] --links[1]-- devices[2]      one of a kind = the same everywhere

    Args:
        name: What the machine is called.
        devices: One for all positions, or one a position.
        links: One for all, or ``links[i]`` between positions i and i + 1.
        overlap: Transfers run beside compute: a stage takes the largest of compute, receiving and sending
            instead of their sum.
        optimizer_bytes_per_param: Optimizer state a trained parameter element, whatever its dtype (Adam: two
            float32; 12 with a float32 copy of bfloat16 parameters beside it).

    Example:
        >>> gpu = Device("gpu", {"float32": 1e13}, 1e12, 2**34, 0.0, "an example")
        >>> two = Hardware("two", (gpu,), (Link("wire", 1e9, 0.0, "an example"),))
        >>> two.transfer_ms(1_000_000, two.link_in(1)), two.device(5).name
        (1.0, 'gpu')
    """

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    overlap: bool = False
    optimizer_bytes_per_param: float = 8.0

    def device(self, stage: int) -> Device:
        """The device at that position; positions repeat where stages are more than devices."""
        return self.devices[stage % len(self.devices)]

    def on_one(self, device: Device) -> Hardware:
        """The same links with that device at every position."""
        return replace(self, devices=(device,))

    def in_order(self, order: Sequence[int]) -> Hardware:
        """The same links, position s with the device that position ``order[s]`` had.

        Example:
            >>> fast, slow = (Device(name, {}, 1e12, 2**34, 0.0, "an example") for name in ("fast", "slow"))
            >>> two = Hardware("two", (fast, slow), (Link("wire", 1e9, 0.0, "an example"),))
            >>> [device.name for device in two.in_order([1, 0]).devices]
            ['slow', 'fast']
        """
        return replace(self, devices=tuple(self.device(at) for at in order))

    def link_in(self, stage: int) -> Link:
        """The link that joins the stage to the one before it (for the first, where nothing arrives, any)."""
        return self.links[max(stage - 1, 0) % len(self.links)]

    def link_out(self, stage: int) -> Link:
        """The link that joins the stage to the one after it."""
        return self.links[stage % len(self.links)]

    def transfer_ms(self, nbytes: float, link: Link | None = None) -> float:
        """Time of one message over a link, the first one if none is named."""
        return (link or self.links[0]).transfer_ms(nbytes)

    def verify(self) -> None:
        """Raise unless there is a device and a link and all of them are sound.

        Raises:
            PartitionError: Names what is missing or wrong.
        """
        if not self.devices or not self.links:
            raise PartitionError(f"hardware {self.name!r} needs at least one device and one link.")
        for device in self.devices:
            device.verify()
        for link in self.links:
            link.verify()
        if len(self.devices) > 1 and len(self.links) not in (1, len(self.devices) - 1, len(self.devices)):
            raise PartitionError(
                f"hardware {self.name!r} has {len(self.devices)} devices and {len(self.links)} links.",
                remedy="one link for all, or one between every two neighbours.",
            )
        if not 0 <= self.optimizer_bytes_per_param < math.inf:
            each = self.optimizer_bytes_per_param
            raise PartitionError(f"hardware {self.name!r} has optimizer_bytes_per_param = {each}.")

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types from which :meth:`from_json` makes an equal object."""
        devices = [{**asdict(device), "flops_per_s": dict(device.flops_per_s)} for device in self.devices]
        return {
            "name": self.name,
            "devices": devices,
            "links": [asdict(link) for link in self.links],
            "overlap": self.overlap,
            "optimizer_bytes_per_param": self.optimizer_bytes_per_param,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hardware:
        """The hardware that :meth:`to_json` wrote; verified."""
        hardware = cls(
            data["name"],
            tuple(Device(**device) for device in data["devices"]),
            tuple(Link(**link) for link in data["links"]),
            data["overlap"],
            data["optimizer_bytes_per_param"],
        )
        hardware.verify()
        return hardware

    def __str__(self) -> str:
        """One line: devices and links by name, runs of equal ones folded."""
        links = ", ".join(dict.fromkeys(f"{x.name} {x.bytes_per_s / 1e9:g} GB/s" for x in self.links))
        devices = ", ".join(dict.fromkeys(x.name for x in self.devices))
        return f"{self.name}: {devices}; {links}; transfers {'beside' if self.overlap else 'add to'} compute"
