"""A safetensors checkpoint: its headers are read at once, its tensors one block at a time.

Format: https://huggingface.co/docs/safetensors. The files are mapped into memory; what was read of them
counts as memory of the process until the mapping is closed, so that every block gets a mapping of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autopipe.errors import ArgumentError

_INDEX = "model.safetensors.index.json"
_BLOCK_BYTES = 16 * 2**20
_FLOATING = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_DTYPES = _FLOATING | {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file, by what the file's header says.

    Args:
        file: The file.
        name: Its name there.
        shape: Its shape.
        dtype: Its dtype as safetensors writes it, such as "BF16".
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def check(self, fqn: str, tensor: torch.Tensor) -> None:
        """Raise unless the tensor can be read into another one.

        Args:
            fqn: The other one's name.
            tensor: It, meta or not.

        Raises:
            ArgumentError: If the shapes differ, or the dtypes; one of float16, bfloat16, float32 and float64
                becomes another one, as ``load_state_dict`` does it.
        """
        if self.shape != tuple(tensor.shape):
            raise ArgumentError(
                f"{fqn} has the shape {list(tensor.shape)}, the checkpoint's has {list(self.shape)}.",
                f"{self.name} in {self.file}",
                remedy="build the model from the configuration that lies beside the checkpoint.",
            )
        self.check_dtype(fqn, tensor)

    def check_dtype(self, fqn: str, tensor: torch.Tensor) -> None:
        """Raise unless the values can become those of a tensor of some shape.

        Raises:
            ArgumentError: If the dtypes differ and one of them is not float16, bfloat16, float32 or float64.
        """
        both_float = self.dtype in _FLOATING and tensor.dtype in _FLOATING.values()
        if not both_float and _DTYPES.get(self.dtype) != tensor.dtype:
            raise ArgumentError(
                f"{fqn} is {str(tensor.dtype).removeprefix('torch.')}, the checkpoint's is {self.dtype}.",
                f"{self.name} in {self.file}",
                why="Only float16, bfloat16, float32 and float64 are converted into each other.",
                remedy="build the model with the dtypes, or the quantisation, of the checkpoint.",
            )

    def read_into(self, tensor: torch.Tensor) -> None:
        """Copy the values, block by block; no more than a block is in memory besides the tensor.

        Args:
            tensor: Of the same shape, on any device.
        """
        if not self.shape:
            with opened(self.file) as file:
                tensor.copy_(file.get_tensor(self.name))
            return
        rows = max(1, _BLOCK_BYTES * self.shape[0] // max(1, tensor.nbytes))
        for start in range(0, self.shape[0], rows):
            with opened(self.file) as file:
                tensor[start : start + rows].copy_(file.get_tensor(self.name)[start : start + rows])

    def read(self) -> torch.Tensor:
        """Return the values; they are mapped memory until the tensor is gone."""
        with opened(self.file) as file:
            values: torch.Tensor = file.get_tensor(self.name)
        return values

    def without_values(self) -> torch.Tensor:
        """Return a meta tensor of this shape."""
        return torch.empty(self.shape, dtype=_DTYPES.get(self.dtype), device="meta")


def stored_tensors(path: str | Path) -> dict[str, Stored]:
    """Return what a checkpoint holds, by name; only headers are read.

    Args:
        path: A folder with ``model.safetensors.index.json`` and the files that it names, or with any
            ``.safetensors`` files; or one such file.

    Returns:
        Name -> tensor.

    Raises:
        ArgumentError: If there is no such checkpoint, a file of it is missing or broken, or safetensors is
            not installed.

    Complexity: linear in the size of the headers.
    """
    path = Path(path)
    found: dict[str, Stored] = {}
    for file, names in _files(path).items():
        with opened(file) as opened_file:
            here = list(opened_file.keys())
            if names is not None and (lost := sorted(names - set(here))):
                raise ArgumentError(f"{file} lacks {lost[0]}, which {path / _INDEX} says is there.")
            for name in here:
                header = opened_file.get_slice(name)
                found[name] = Stored(file, name, tuple(header.get_shape()), header.get_dtype())
    return found


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """Map a safetensors file; the mapping goes with the last tensor that was read from it."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ArgumentError(
            "reading a checkpoint needs safetensors, which is not installed.",
            why=str(error),
            remedy="pip install 'autopipe-torch[hf]'",
        ) from None
    try:
        with safe_open(file, framework="pt", device="cpu") as mapping:
            yield mapping
    except SafetensorError as error:
        raise ArgumentError(f"{file} cannot be read as safetensors.", why=str(error)) from error


def _files(path: Path) -> Mapping[Path, set[str] | None]:
    """Return the files of a checkpoint, and the names that its index, if there is one, expects in each."""
    if path.is_file():
        return {path: None}
    if (path / _INDEX).is_file():
        return _indexed(path)
    if files := sorted(path.glob("*.safetensors")):
        return dict.fromkeys(files)
    if not path.is_dir():
        raise ArgumentError(f"there is no checkpoint at {path}.")
    others = sorted(file.name for file in path.iterdir() if file.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    raise ArgumentError(
        f"{path} holds no .safetensors file.",
        why=f"It has {others[0]}, which can only be read as a whole." if others else "",
        remedy="save it as safetensors: model.save_pretrained(folder), or safetensors.torch.save_model.",
    )


def _indexed(path: Path) -> dict[Path, set[str] | None]:
    try:
        weight_map = json.loads((path / _INDEX).read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"{path / _INDEX} is no index of a checkpoint.", why=repr(error)) from None
    names_in: dict[Path, set[str] | None] = {}
    for name, file in weight_map.items():
        names = names_in.setdefault(path / file, set())
        assert names is not None
        names.add(name)
    for file in names_in:
        if not file.is_file():
            raise ArgumentError(f"{file} is missing.", why=f"{_INDEX} names it.")
    return names_in
