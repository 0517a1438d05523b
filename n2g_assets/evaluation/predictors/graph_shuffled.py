"""Control: the graph of another unit of the layer, the unit's *partner*; what any graph would reach."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from n2g_assets.core.mixing import STEP, mixed
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.harvest import HarvestText
from n2g_assets.evaluation.material import Graph, UnitMaterial
from n2g_assets.method.text import EncodedText


@dataclass(frozen=True)
class OtherGraph:
    """The graph of another unit, which has seen nothing of this one: all of the harvest is left out."""

    graph: Graph
    harvest: Callable[[], HarvestText] = field(repr=False)

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS."""
        return self.graph.predict(text)

    @cached_property
    def left_out(self) -> Float32[np.ndarray, " tokens"]:
        """What is predicted at each harvested token."""
        return self.predict(self.harvest().text.encoded)


def fit(material: UnitMaterial) -> OtherGraph | None:
    """The partner's graph; None where no other unit has a graph."""
    if material.partner_rows is None:
        return None
    return OtherGraph(material.shared.graph_of(material.partner_rows), material.shared.harvest)


def shuffled_partners(units: Sequence[Unit], seed: int, layer: int) -> dict[Unit, Unit]:
    """By unit, its partner: the other unit for which the hash of (seed, layer, unit, other) is smallest.

    The choice is a rendezvous hash (Thaler and Ravishankar, 1998): a unit that joins changes the partner only of those
    units whose partner it becomes, about one, and a unit that leaves only of those whose partner it was.
    """
    if len(units) < 2:
        return {}
    units = sorted(units)  # of equal hashes the first unit's is taken
    keys = np.array([_key(seed, layer, unit) for unit in units], np.uint64)
    partners = {}
    for index, unit in enumerate(units):
        hashes = mixed(keys + mixed(keys[index : index + 1] + STEP) + STEP)
        hashes[index] = np.iinfo(np.uint64).max
        partners[unit] = units[int(np.argmin(hashes))]
    return partners


def _key(seed: int, layer: int, unit: Unit) -> int:
    name = f"{seed} {layer} {unit}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
