"""A denoising U-Net: skips over the whole depth, and a time embedding that every block reads.

    conv_in ─ down.0 ───────────── skip ───────────── up.0 ─ norm_out ─ conv_out
                 └ down.1 ──────── skip ──────── up.1 ┘
                      └ down.2 ─── skip ─── up.2 ┘               time_mlp(timestep) enters every block
                           └──── mid ────────┘

Source: Ho et al., Denoising Diffusion Probabilistic Models, 2020, appendix B (https://arxiv.org/abs/2006.11239).
Shapes: B batch, C channels, Y rows, X columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "UNet", "build", "example", "loss", "make_batch"]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; `image` is divisible by two to the power of `n_levels`, `width` by `n_groups`."""

    channels: int = 3
    width: int = 16
    n_levels: int = 3
    image: int = 16
    n_groups: int = 4
    dropout: float = 0.1
    n_timesteps: int = 1000


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """Encode timesteps `[B]` as sines and cosines `[B, width]` of geometrically spaced frequencies."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10_000.0) / half))
    angle = timestep[:, None].float() * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class ResBlock(nn.Module):
    """Two convolutions with the time embedding added between them, around a shortcut."""

    def __init__(self, n_in: int, n_out: int, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.n_groups, n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.time = nn.Linear(4 * config.width, n_out)
        self.norm2 = nn.GroupNorm(config.n_groups, n_out)
        self.drop = nn.Dropout2d(config.dropout)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x_BCYX: Tensor, time: Tensor) -> Tensor:
        """Refine the image features, given the time embedding `[B, 4 * width]`."""
        h = self.conv1(F.silu(self.norm1(x_BCYX)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(self.drop(F.silu(self.norm2(h))))
        out_BCYX: Tensor = h + self.shortcut(x_BCYX)
        return out_BCYX


class PixelAttention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, n_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(n_groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj = nn.Conv1d(channels, channels, 1)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        """Mix the pixels of one image."""
        q, k, v = self.qkv(self.norm(x_BCYX).flatten(2)).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out_BCYX: Tensor = x_BCYX + self.proj(mixed.transpose(1, 2)).view_as(x_BCYX)
        return out_BCYX


class Down(nn.Module):
    """One level on the way down: a block whose output is the skip, then half the resolution."""

    def __init__(self, n_in: int, n_out: int, config: Config) -> None:
        super().__init__()
        self.block = ResBlock(n_in, n_out, config)
        self.pool = nn.Conv2d(n_out, n_out, 3, stride=2, padding=1)

    def forward(self, x_BCYX: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Give what goes deeper and the skip."""
        skip = self.block(x_BCYX, time)
        return self.pool(skip), skip


class Middle(nn.Module):
    """The lowest resolution: a block, attention, a block."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.block1 = ResBlock(channels, channels, config)
        self.attn = PixelAttention(channels, config.n_groups)
        self.block2 = ResBlock(channels, channels, config)

    def forward(self, x_BCYX: Tensor, time: Tensor) -> Tensor:
        """Refine the coarsest features."""
        out_BCYX: Tensor = self.block2(self.attn(self.block1(x_BCYX, time)), time)
        return out_BCYX


class Up(nn.Module):
    """One level on the way up: twice the resolution, then a block that also reads the skip."""

    def __init__(self, n_in: int, n_out: int, config: Config) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.block = ResBlock(2 * n_out, n_out, config)

    def forward(self, x_BCYX: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Join the coarse features with the skip of this level."""
        x_BCYX = self.conv(F.interpolate(x_BCYX, scale_factor=2.0, mode="nearest"))
        out_BCYX: Tensor = self.block(torch.cat((x_BCYX, skip), dim=1), time)
        return out_BCYX


class UNet(nn.Module):
    """The noise predictor."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(config.n_levels)]
        inputs = [config.width, *widths[:-1]]
        self.time_mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            nn.SiLU(),
            nn.Linear(4 * config.width, 4 * config.width),
        )
        self.conv_in = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.down = nn.ModuleList(
            Down(n_in, n_out, config) for n_in, n_out in zip(inputs, widths, strict=True)
        )
        self.mid = Middle(widths[-1], config)
        deeper = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(Up(n_in, n_out, config) for n_in, n_out in zip(deeper, widths, strict=True))
        self.norm_out = nn.GroupNorm(config.n_groups, config.width)
        self.conv_out = nn.Conv2d(config.width, config.channels, 3, padding=1)

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise in an image.

        Args:
            noisy: `[B, channels, Y, X]`.
            timestep: `[B]` integers below `n_timesteps`.

        Returns:
            Noise of the same shape as `noisy`.
        """
        time = self.time_mlp(sinusoid(timestep, self.config.width))
        x_BCYX = self.conv_in(noisy)
        skips = []
        for down in self.down:
            x_BCYX, skip = down(x_BCYX, time)
            skips.append(skip)
        x_BCYX = self.mid(x_BCYX, time)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x_BCYX = up(x_BCYX, skip, time)
        noise: Tensor = self.conv_out(F.silu(self.norm_out(x_BCYX)))
        return noise


def build(**size: Any) -> UNet:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> build()(*args, **kwargs).shape
        torch.Size([3, 3, 16, 16])
    """
    return UNet(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` noisy images and their timesteps; the target is the noise in them.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Argument `noisy [n, channels, image, image]`, keyword `timestep [n]`, target of the shape of `noisy`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    shape = (n, config.channels, config.image, config.image)
    clean, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    timestep = torch.randint(config.n_timesteps, (n,), generator=generator)
    kept = torch.cos(timestep / config.n_timesteps * math.pi / 2)[:, None, None, None]
    noisy = kept * clean + (1 - kept**2).sqrt() * noise
    return Batch((noisy,), {"timestep": timestep}, noise)


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the predicted noise."""
    return F.mse_loss(output, target)
