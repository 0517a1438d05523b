"""The tensors of an encoder's files, mapped into memory: what is not asked for is not loaded.

Safetensors, npy, the members of an npz and state dicts of torch are mapped as they lie in the file, in their own
dtype; the compressed members of an npz alone are loaded whole. What a pickle holds beside tensors is never read.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from n2g_assets.core.errors import SourceError
from n2g_assets.model.folder import loading

ANEW = "put the whole encoder there anew"
_LISTED = 8
"""Names of tensors in a message, at most."""
_STATE_DICTS = (".pt", ".pth")


@dataclass(frozen=True)
class Tensors:
    """A file's tensors by their names."""

    file: Path
    named: Mapping[str, Tensor]

    @property
    def listed(self) -> str:
        """The names and shapes for a message, of many the first."""
        names = [f"{name} ({' x '.join(map(str, each.shape))})" for name, each in sorted(self.named.items())]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return ", ".join(names[:_LISTED]) + more or "none"

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor that has to be there, with the shape given; None stands for any size.

        Raises:
            SourceError: It is not there, has another shape, or holds no floating-point numbers.
        """
        if name not in self.named:
            raise SourceError(
                f"The encoder's file {self.file} has no tensor {name}: it has {self.listed}, so set the right format, "
                f"or {ANEW}."
            )
        found = self.named[name]
        fits = found.ndim == len(shape) and all(
            size in (None, is_there) for size, is_there in zip(shape, found.shape, strict=True)
        )
        if not fits or not found.is_floating_point():
            wanted = " x ".join("any" if size is None else str(size) for size in shape) or "a single number"
            raise SourceError(
                f"The tensor {name} in {self.file} is {' x '.join(map(str, found.shape)) or 'a single number'} of "
                f"{str(found.dtype).removeprefix('torch.')}, where floating-point numbers of {wanted} belong: {ANEW}."
            )
        return found


def open_tensors(file: Path) -> Tensors:
    """The tensors of a file, by the ending of its name; that of an npy is called ``matrix``.

    Raises:
        SourceError: It is not there, damaged, a pickle of more than tensors, or of another kind.
    """
    if not file.is_file():
        raise SourceError(f"The encoder's file {file} does not exist: correct the encoder's path, or {ANEW}.")
    with loading(f"The encoder's file {file}", ANEW):
        if file.suffix == ".safetensors":
            return Tensors(file, _safetensors(file))
        if file.suffix == ".npz":
            return Tensors(file, _npz(file))
        if file.suffix == ".npy":
            return Tensors(file, {"matrix": torch.from_numpy(_npy(file))})
        if file.suffix in _STATE_DICTS:
            return Tensors(file, _state_dict(file))
    raise SourceError(
        f"The encoder's file {file} is no safetensors, npz, npy or state dict of torch (.pt): save it as one of these."
    )


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)


def _state_dict(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"The encoder's file {file} is a pickle that holds more than tensors, which is never read: save its "
            "state_dict alone, best as safetensors."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise SourceError(f"The encoder's file {file} is no state dict: save the state_dict of the encoder alone.")
    return found


def _npy(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="c", allow_pickle=False)
    except ValueError as error:  # whose own text advises to allow pickles
        raise SourceError(f"The encoder's file {file} is no array of numbers: save it anew with numpy.save.") from error


def _npz(file: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
        return {
            info.filename.removesuffix(".npy"): torch.from_numpy(_member(archive, info, raw))
            for info in archive.infolist()
        }


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: IO[bytes]) -> np.ndarray:
    """An array of an npz, mapped where it lies in it as it is."""
    formats = np.lib.format
    with archive.open(info) as member:
        if info.compress_type != zipfile.ZIP_STORED:
            return formats.read_array(member, allow_pickle=False)
        version = formats.read_magic(member)
        read_header = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
        shape, in_columns, dtype = read_header(member)
        header = member.tell()
    if dtype.hasobject:
        raise SourceError(
            f"The array {info.filename} in {archive.filename} holds objects, a pickle, which is never read: save "
            "it as numbers."
        )
    raw.seek(info.header_offset + 26)  # of the local header of 30 bytes, the lengths of what follows it
    following = int.from_bytes(raw.read(2), "little") + int.from_bytes(raw.read(2), "little")
    start = info.header_offset + 30 + following + header
    return np.memmap(raw, dtype, "c", start, shape, "F" if in_columns else "C")
