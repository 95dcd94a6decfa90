"""Machines and links that people have, by name, each number with its source. Loads no torch.

Peaks are datasheet peaks of dense arithmetic: no operation beats them, so a roofline time is a lower bound.
Bandwidths of links are of one direction, latencies of one message as the sender sees it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autopipe.errors import ArgumentError
from autopipe.ir.hardware import Device, Hardware, Link

_LAUNCH = (
    "launch: 5 us, the low end of what eager PyTorch spends on the CPU for a CUDA operator "
    "(https://jiahuanglin.xyz/all_lessons/gpu_kernel_serving/18_pytorch_to_kernel.html)"
)
_NCCL = (
    "latency: base + hop, protocol Ring/Simple, in src/graph/tuning.cc of NCCL "
    "(https://github.com/NVIDIA/nccl/blob/01afd20a77b5804e0ecf1042509dd9d20ebf9e93/src/graph/tuning.cc)"
)

_DEVICES = (
    Device(
        "cpu",
        {"float64": 160e9, "float32": 300e9, "float16": 325e9, "bfloat16": 1.3e12},
        mem_bytes_per_s=40e9,
        memory_bytes=16 * 2**30,
        launch_ms=0.008,
        source="measured with torch 2.13 on two cores of a Xeon (Sapphire Rapids, 2.6 GHz): product of "
        "1024 x 1024 matrices, copy of 64 MiB; launch: the least excess over the roofline an operation, "
        "forward, among eight small models; memory: a usual 16 GiB",
    ),
    Device(
        "a100",
        {"float64": 19.5e12, "float32": 19.5e12, "float16": 312e12, "bfloat16": 312e12},
        mem_bytes_per_s=2.039e12,
        memory_bytes=80 * 10**9,
        launch_ms=0.005,
        source="NVIDIA A100 80GB SXM, https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
        "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf (float32 without TF32, as torch multiplies); "
        f"{_LAUNCH}",
    ),
    Device(
        "h100",
        {"float64": 67e12, "float32": 67e12, "float16": 989.4e12, "bfloat16": 989.4e12}
        | dict.fromkeys(("float8_e4m3fn", "float8_e5m2"), 1978.9e12),
        mem_bytes_per_s=3.35e12,
        memory_bytes=80 * 10**9,
        launch_ms=0.005,
        source="NVIDIA H100 SXM5, "
        "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet "
        f"(dense: half of the figures printed with sparsity); {_LAUNCH}",
    ),
    Device(
        "h200",
        {"float64": 67e12, "float32": 67e12, "float16": 989.4e12, "bfloat16": 989.4e12}
        | dict.fromkeys(("float8_e4m3fn", "float8_e5m2"), 1978.9e12),
        mem_bytes_per_s=4.8e12,
        memory_bytes=141 * 10**9,
        launch_ms=0.005,
        source="NVIDIA H200 SXM, https://www.nvidia.com/en-us/data-center/h200/ "
        f"(dense: half of the figures printed with sparsity); {_LAUNCH}",
    ),
)

_PCIE = "x16, 128b/130b coding, one direction: PCI-SIG, https://pcisig.com/specifications"
_NVLINK = "half of the total of both directions, https://www.nvidia.com/en-us/data-center/nvlink/"
_INFINIBAND = "one port, https://www.infinibandta.org/infiniband-roadmap/"
_ETHERNET = "line rate, IEEE 802.3"

LINKS: Mapping[str, Link] = {
    link.name: link
    for link in (
        Link(
            "process",
            20e9,
            0.01,
            "a copy in memory: half of the memory bandwidth of the cpu; 10 us of Python",
        ),
        Link("pcie4", 31.5e9, 0.0141, f"16 GT/s {_PCIE}; {_NCCL}, PCI: 8.4 + 5.7 us"),
        Link("pcie5", 63.0e9, 0.0141, f"32 GT/s {_PCIE}; {_NCCL}, PCI: 8.4 + 5.7 us"),
        Link("nvlink3", 300e9, 0.0118, f"A100: {_NVLINK}; {_NCCL}, NVLink: 8.4 + 3.4 us"),
        Link("nvlink4", 450e9, 0.0118, f"H100, H200: {_NVLINK}; {_NCCL}, NVLink: 8.4 + 3.4 us"),
        Link("infiniband-hdr", 25e9, 0.018, f"200 Gb/s {_INFINIBAND}; {_NCCL}, NET: 8.4 + 9.6 us"),
        Link("infiniband-ndr", 50e9, 0.018, f"400 Gb/s {_INFINIBAND}; {_NCCL}, NET: 8.4 + 9.6 us"),
        Link("ethernet-10g", 1.25e9, 0.018, f"10 Gb/s {_ETHERNET}; {_NCCL}, NET: 8.4 + 9.6 us"),
        Link("ethernet-25g", 3.125e9, 0.018, f"25 Gb/s {_ETHERNET}; {_NCCL}, NET: 8.4 + 9.6 us"),
        Link("ethernet-100g", 12.5e9, 0.018, f"100 Gb/s {_ETHERNET}; {_NCCL}, NET: 8.4 + 9.6 us"),
    )
}
"""Links by name."""

_USUAL_LINK = {"cpu": "process", "a100": "nvlink3", "h100": "nvlink4", "h200": "nvlink4"}

HARDWARE: Mapping[str, Hardware] = {
    device.name: Hardware(device.name, (device,), (LINKS[_USUAL_LINK[device.name]],)) for device in _DEVICES
}
"""Machines by name, each device with the link that it usually has."""

_FAMILIES: Mapping[str, Mapping[str, str]] = {
    "nvlink": {"a100": "nvlink3", "h100": "nvlink4", "h200": "nvlink4"},
    "pcie": {"cpu": "pcie4", "a100": "pcie4", "h100": "pcie5", "h200": "pcie5"},
    "infiniband": {
        "cpu": "infiniband-hdr",
        "a100": "infiniband-hdr",
        "h100": "infiniband-ndr",
        "h200": "infiniband-ndr",
    },
    "ethernet": dict.fromkeys(_USUAL_LINK, "ethernet-100g") | {"cpu": "ethernet-10g"},
}
"""A link's family -> the member that comes with each device."""


def hardware(name: str) -> Hardware:
    """Return a machine by name.

    Args:
        name: A device, or a device and the link between stages: ``"h100"``, ``"a100+infiniband-hdr"``. A
        family of
            links (``nvlink``, ``pcie``, ``infiniband``, ``ethernet``) means the member that comes with the
            device.

    Returns:
        The machine, the same device and link at every position.

    Raises:
        ArgumentError: If the device or the link is unknown; the message lists those that are known.

    Example:
        >>> print(hardware("h100+infiniband"))
        h100+infiniband-ndr: h100; infiniband-ndr 50 GB/s; transfers add to compute
    """
    device_name, _, link_name = name.lower().partition("+")
    if device_name not in HARDWARE:
        raise _unknown("device", device_name, HARDWARE)
    usual = HARDWARE[device_name]
    if "+" not in name:
        return usual
    link_name = _FAMILIES.get(link_name, {}).get(device_name, link_name)
    if link_name not in LINKS:
        raise _unknown("link", link_name, LINKS)
    return replace(usual, name=f"{device_name}+{link_name}", links=(LINKS[link_name],))


def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> ArgumentError:
    near = difflib.get_close_matches(name, known, n=1)
    return ArgumentError(
        f"unknown {kind} {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
        why=f"Known devices: {', '.join(HARDWARE)}. Known links: {', '.join(LINKS)}.",
        remedy='hardware="h100+infiniband", or an autopipe.ir.hardware.Hardware of your own',
    )


def default_hardware(device: Any) -> Hardware:
    """Return the machine that a plan is for if the caller names none.

    Args:
        device: A torch.device or its name: where the model lies.

    Returns:
        For CUDA the known GPU whose name the driver reports, an A100 if it is none of them; else the CPU,
        for a model on ``meta`` too, so that a model and its meta twin get the same plan.

    Example:
        >>> default_hardware("meta").name
        'cpu'
    """
    if str(device).split(":", maxsplit=1)[0] != "cuda":
        return HARDWARE["cpu"]
    import torch

    reported = torch.cuda.get_device_name(device).lower() if torch.cuda.is_available() else ""
    return next((HARDWARE[name] for name in ("h200", "h100") if name in reported), HARDWARE["a100"])
