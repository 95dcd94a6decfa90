"""One small model of every classification family of torchvision and of timm, where these are installed.

torchvision's wheel may not load its operators on another build of torch. The models need only that the
schemas exist, so that missing ones are registered before the import.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

BATCH, IMAGES = 8, (64, 96, 224, None)
"""The sizes of images to try; None is the model's own."""

LIMIT = 450_000_000

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf"),
    *("resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"),
    "swin_v2_t",
)
SMALL_WORDS = ("test", "femto", "atto", "pico", "nano", "xxtiny", "xxs", "tiny", "xs", "t0", "_s", "small")


def torchvision_models() -> Any:
    """Import torchvision.models, registering the operators that its wheel could not load.

    Raises:
        ImportError: If torchvision is not installed.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            import torchvision.models
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]
        else:
            return torchvision.models


def families() -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of one model a family, of what is installed."""
    try:
        torchvision_models()
        yield from (("torchvision", name) for name in TORCHVISION)
        import timm
    except ImportError:
        return
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            yield "timm", min(names, key=_size_by_name)


def _size_by_name(name: str) -> tuple[int, int, str]:
    rank = next((i for i, word in enumerate(SMALL_WORDS) if word in name), len(SMALL_WORDS))
    return rank, len(name), name


def build_vision(kind: str, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model and a batch of the smallest images that it runs on.

    Raises:
        Exception: What the last size of images raised.
    """
    failed: Exception = ValueError("no size of images")
    for size in IMAGES:
        try:
            torch.manual_seed(0)
            model = _build(kind, name, size).train()
            if sum(parameter.numel() for parameter in model.parameters()) > LIMIT:
                raise ValueError("too large")
            first = next(iter(inspect.signature(model.forward).parameters))
            side = size or model.default_cfg["input_size"][-1]
            images = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))
            model(images[:2])
        except Exception as error:
            failed = error
            continue
        return model, {first: images}
    raise failed


def _build(kind: str, name: str, size: int | None) -> nn.Module:
    if kind == "torchvision":
        made: nn.Module = torchvision_models().get_model(name, num_classes=10)
        return made
    import timm

    given = {} if size is None else {"img_size": size}
    try:
        model: nn.Module = timm.create_model(name, num_classes=10, **given)
    except TypeError:
        model = timm.create_model(name, num_classes=10)
    return model
