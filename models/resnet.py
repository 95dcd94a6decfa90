"""An image classifier: batch normalisation with running statistics, ReLU and residual additions in place.

    conv1 ── bn1 ── relu ── layer1.0 ── layer1.1 ── layer2.0 ── ... ── layer3.1 ── avgpool ── fc ── logits

                       ┌── conv1 ── bn1 ── relu ── conv2 ── bn2 ──┐
    a block:        x ─┤                                          += ── relu (the same module, called again)
                       └────────────── downsample ────────────────┘

Source: He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2 (https://arxiv.org/abs/1512.03385).
Shapes: B batch, C channels, Y rows, X columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "ResNet", "build", "example", "loss", "make_batch"]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; `n_blocks` counts the blocks of each of the three resolutions."""

    channels: int = 3
    n_classes: int = 10
    width: int = 16
    n_blocks: int = 2
    image: int = 16


class BasicBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """Refine the features, at half the resolution if the stride is 2."""
        shortcut = x_BCYX if self.downsample is None else self.downsample(x_BCYX)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_BCYX)))))
        out += shortcut
        out_BCYX: Tensor = self.relu(out)
        return out_BCYX


def level(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    """Make the blocks of one resolution; the first changes it."""
    first = BasicBlock(n_in, n_out, stride)
    return nn.Sequential(first, *(BasicBlock(n_out, n_out, 1) for _ in range(n_blocks - 1)))


class ResNet(nn.Module):
    """The classifier."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(config.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = level(width, width, config.n_blocks, stride=1)
        self.layer2 = level(width, 2 * width, config.n_blocks, stride=2)
        self.layer3 = level(2 * width, 4 * width, config.n_blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, config.n_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify images `[B, channels, Y, X]`; gives logits `[B, n_classes]`."""
        x_BCYX = self.relu(self.bn1(self.conv1(image)))
        x_BCYX = self.layer3(self.layer2(self.layer1(x_BCYX)))
        logits: Tensor = self.fc(self.avgpool(x_BCYX).flatten(1))
        return logits


def build(**size: Any) -> ResNet:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> build()(*args, **kwargs).shape
        torch.Size([3, 10])
    """
    return ResNet(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` images; the target is their class.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Arguments `(image [n, channels, image, image],)`, no keyword arguments, target `[n]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, config.channels, config.image, config.image, generator=generator)
    return Batch((image,), {}, torch.randint(config.n_classes, (n,), generator=generator))


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy of the logits with the classes `[B]`."""
    return F.cross_entropy(output, target)
