"""Control: the graph of another unit of the layer, the unit's *partner*; what any graph would reach."""

import hashlib
from collections.abc import Sequence

import numpy as np

from n2g_assets.core.mixing import STEP, mixed
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.method.predict import TokenGraph


def fit(material: UnitMaterial) -> TokenGraph | None:
    """The partner's graph; None where no other unit has a graph."""
    if material.partner_nodes is None:
        return None
    return TokenGraph.from_rows(material.partner_nodes, material.shared.vocabulary)


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
