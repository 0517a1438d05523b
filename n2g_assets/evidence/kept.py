"""Files of a layer's activations on a shard: how they are filled during a pass, and read afterwards.

1. Neurons, and directions, do something at every token: their file is a row of codes a unit, [unit, token], in the
   precision that is asked for.
2. Latents are 0 at most tokens: their file is the pairs of position in the shard and activation where they are not,
   latent after latent, so that a wide dictionary costs its firings. They are kept in float32, whatever the precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from n2g_assets.core.errors import StorageError
from n2g_assets.evidence.precision import DTYPES, decode, encode
from n2g_assets.storage.files import new_map

FILE = "activations.npy"
"""Of an entry."""
PAIR = np.dtype([("position", np.int32), ("activation", np.float32)])
"""Where a latent is not 0, and what it is there."""
Numbers = Int32[np.ndarray, " units"]


@dataclass(frozen=True)
class Held:
    """A file that was found whole, or written now."""

    path: Path
    units: Numbers
    """Ascending."""
    scales: Sequence[float]
    """Of the rows of codes, a unit each; none where there are pairs."""
    counts: Sequence[int]
    """Pairs of each unit; none where there are rows."""

    @classmethod
    def of(cls, path: Path, about: Mapping[str, Any]) -> Held:
        """The file of an entry, by what its cache entry says."""
        units = np.array(about["neurons"], np.int32)
        return cls(path, units, about.get("scales", ()), about.get("counts", ()))

    def opened(self, dtype: np.dtype, n_tokens: int) -> Callable[[int], Float32[np.ndarray, " tokens"]]:
        """What reads the activations of the unit at a place of ``units``, at every token of the shard.

        Raises:
            StorageError: The file was removed since.
        """
        pairs = not self.scales
        ends = np.cumsum(self.counts, dtype=np.int64) if pairs else np.zeros(0, np.int64)
        kind, shape = (PAIR, (int(ends[-1]),)) if pairs else (dtype, (len(self.units), n_tokens))
        try:
            header = self.path.stat().st_size - kind.itemsize * int(np.prod(shape))
            there = np.memmap(self.path, kind, "r", header, shape) if np.prod(shape) else np.empty(shape, kind)
        except OSError as error:
            raise StorageError(f"{self.path} is gone: run the same command again, which makes it anew.") from error
        codes = there.view(np.ndarray)  # np.load takes twice as long
        if not pairs:
            return lambda place: decode(codes[place], self.scales[place])

        def spread(place: int) -> Float32[np.ndarray, " tokens"]:
            fired = codes[ends[place] - self.counts[place] : ends[place]]
            row = np.zeros(n_tokens, np.float32)
            row[fired["position"]] = fired["activation"]
            return row

        return spread


class Rows:
    """Fills a row a unit, in float32, on disk."""

    def __init__(self, path: Path, units: int, n_tokens: int) -> None:
        self._path, self._values = path, new_map(path, (units, n_tokens), np.float32)

    def add(
        self,
        places: Int64[np.ndarray, " kept"],
        columns: Int64[np.ndarray, " kept"],
        rows: Float32[np.ndarray, "units padded"],
    ) -> None:
        """Write these columns of ``rows`` to these places of the shard; twice does no harm."""
        for to, row in zip(self._values, rows, strict=True):
            to[places] = row[columns]

    @property
    def finite(self) -> bool:
        """Whether all activations are finite numbers."""
        return bool(np.isfinite([self._values.min(), self._values.max()]).all())

    def finish(self, precision: str) -> tuple[Path, dict[str, Any]]:
        """The file in a precision, and what is to be known of it."""
        if precision == "float32":
            return self._path, {"scales": [1.0] * len(self._values)}
        path = self._path.with_suffix(".codes.npy")
        return path, {"scales": encode(self._values, new_map(path, self._values.shape, DTYPES[precision])).tolist()}

    def drop(self) -> None:
        """Remove what a pass needs no longer."""
        self._path.unlink(missing_ok=True)


class Pairs:
    """Collects where latents are not 0, in memory: at the most the firings of a shard."""

    def __init__(self, path: Path, units: int) -> None:
        self._path, self._units = path, units
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(
        self,
        places: Int64[np.ndarray, " kept"],
        columns: Int64[np.ndarray, " kept"],
        fired: Int64[np.ndarray, "fired 2"],
        activations: Float32[np.ndarray, " fired"],
        padded: int,
    ) -> None:
        """Take over what fired, by unit and column of a batch of ``padded`` columns, of which some stand for places."""
        place_of = np.full(padded, -1, np.int32)
        place_of[columns] = places
        there = place_of[fired[:, 1]]
        real = there >= 0
        self._found.append((fired[real, 0].astype(np.int32), there[real], activations[real]))

    @property
    def finite(self) -> bool:
        """Whether all activations are finite numbers."""
        return all(bool(np.isfinite(activations).all()) for _, _, activations in self._found)

    def finish(self, _precision: str) -> tuple[Path, dict[str, Any]]:
        """The file, and what is to be known of it."""
        units, positions, activations = (np.concatenate(part) for part in zip(*self._found, strict=True))
        order = np.lexsort((positions, units))
        pairs = np.empty(len(order), PAIR)
        pairs["position"], pairs["activation"] = positions[order], activations[order]
        np.save(self._path, pairs)
        return self._path, {"counts": np.bincount(units, minlength=self._units).tolist()}

    def drop(self) -> None:
        """Forget what was collected."""
        self._found.clear()
        self._path.unlink(missing_ok=True)
