"""Seconds that a run of a size takes on some machines: by a pass that was timed here, or by a stated device or rate.

What machines share and what they do not (``docs/machines.md``): the harvest goes by groups of shards, statistics of a
layer are one machine's, units go by blocks of large layers or by layers, and the database is written by one machine.
A kind of work in n equal parts takes, on m machines, the time of ceil(n / m) parts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from n2g_assets.assets.sizes import UNITS_A_PIECE, Size
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.registry import Method
from n2g_assets.model.config import Shape

UNIT_TOKENS = 3_500
"""A unit takes as long as a pass of so many tokens to its layer. In the study ``demo`` 1,700 at layer 0, 2,000 at layer
7 and 4,200 at layer 15, which needs longer contexts."""
HOST_SECONDS = 1.2
"""Of a unit's graph and its scores, which a faster device does not shorten: measured on 16 cores beside a GPU."""
MEASURED_TOKENS = 100_000
"""That units learnt from where these two were measured."""
TOKEN_SECONDS: Mapping[Method, float] = {"evidence": 4e-6, "paper": 0.5e-6}
"""Of a unit, for each token more that it is learnt from: one core's (``benchmarks/classes.py``, ``unit_scores.py``)."""
VALUE_SECONDS = 6.2 / (1_536 * 460_000)
"""Of a layer's statistics and strongest contexts, for each activation: on two cores (``benchmarks/evidence.py``)."""
PUBLISHED_SECONDS = 99 / 46_080
"""Of the database, for each unit in it (``benchmarks/warehouse.py``)."""
SHARE = 0.4
"""Of a device's peak that a pass reaches: on an H200 .36 and .48 in float32, of a model of 135 million weights."""


class Device(NamedTuple):
    """What its maker says of a device: operations a second by arithmetic, without sparsity, and bytes of memory."""

    bfloat16: float
    tf32: float
    float32: float
    memory: float | None


DEVICES = {
    "a100": Device(312e12, 156e12, 19.5e12, 80e9),
    "h100": Device(989e12, 495e12, 67e12, 80e9),
    "h200": Device(989e12, 495e12, 67e12, 141e9),
    "l40s": Device(362e12, 183e12, 91.6e12, 48e9),
    "rtx4090": Device(165e12, 82.6e12, 82.6e12, 24e9),
    "cpu": Device(1.5e12, 1.5e12, 1.5e12, None),  # 16 cores with AVX2 at 3 GHz
}
"""The devices that ``n2g plan --device`` knows."""


class Elsewhere(NamedTuple):
    """What is stated of machines, and of what they read, that are not here."""

    device: str | None = None
    """One of ``DEVICES``, of whose peak ``SHARE`` is reached."""
    flops: float | None = None
    """Operations a second that a pass reaches."""
    tokens_a_second: float | None = None
    """That a pass through all layers reads."""
    tokens: int | None = None
    """Of the harvest; None: as the study says."""
    config: Path | None = None
    """A config.json of the model, or a folder with one; None: the study's own."""

    @property
    def states_a_rate(self) -> bool:
        """Whether nothing is to be timed here.

        Raises:
            SettingsError: several rates are stated, or none but what goes with one.
        """
        rates = sum(rate is not None for rate in self[:3])
        if rates > 1:
            raise SettingsError("Several rates are stated: give one of --device, --flops and --tokens-a-second.")
        if not rates and (self.tokens is not None or self.config is not None):
            raise SettingsError(
                "--tokens and --config speak of what is not here: state a rate, by --device, --flops or "
                "--tokens-a-second."
            )
        return rates == 1


@dataclass(frozen=True)
class Rates:
    """How fast a machine runs the model."""

    said: str
    """Where they are from, for reading."""
    layers_a_second: Mapping[str, float]
    """By arithmetic, tokens a second times layers that they go through."""
    memory: float | None = None
    """Bytes of the device, where it is known."""

    def seconds(self, tokens: int, layer: int, arithmetic: str) -> float:
        """Of a pass to a layer."""
        return tokens * (layer + 1) / self.layers_a_second[arithmetic]


def _same(speed: float) -> dict[str, float]:
    return dict.fromkeys(Device._fields[:3], speed)


def measured(tokens_a_second: float, layer: int) -> Rates:
    """Of a pass to a layer that was timed on this machine."""
    said = f"a pass to layer {layer} reads {tokens_a_second:,.0f} tokens a second here"
    return Rates(said, _same(tokens_a_second * (layer + 1)))


def stated(shape: Shape, elsewhere: Elsewhere) -> Rates:
    """Of a machine that is not here, for a model of this shape.

    Raises:
        SettingsError: there is no such device, or a rate is not above 0.
    """
    device, flops, tokens_a_second, *_ = elsewhere
    if device is not None:
        found = DEVICES.get(device.lower())
        if found is None:
            raise SettingsError(
                f"There is no device '{device}' whose peak is known: choose one of {', '.join(DEVICES)}, or give "
                "--flops, the operations a second that a pass reaches."
            )
        said = f"{SHARE:.0%} of the peak of one {device.lower()} is reached"
        peaks = {name: getattr(found, name) for name in Device._fields[:3]}
        return Rates(
            said, {name: SHARE * peak / (2 * shape.layer_weights) for name, peak in peaks.items()}, found.memory
        )
    rate = flops if flops is not None else tokens_a_second
    assert rate is not None
    if not 0 < rate < math.inf:
        raise SettingsError(f"A rate of {rate:g} a second leads nowhere: give one above 0.")
    if flops is not None:
        return Rates(f"a pass reaches {flops:.3g} operations a second", _same(flops / (2 * shape.layer_weights)))
    return Rates(f"a pass through all layers reads {rate:,.0f} tokens a second", _same(rate * shape.layers))


class Seconds(NamedTuple):
    """Of a run, by what machines share it by."""

    passes: float
    """The harvest and the other passes."""
    statistics: float
    """Of each layer, from its evidence."""
    units: float
    """Graphs, tests and scores."""
    database: float
    longest: float
    """Of the longest step; part of the others."""

    @property
    def total(self) -> float:
        """Of the run."""
        return sum(self[:-1])


def seconds(size: Size, rates: Rates, method: Method, machines: int = 1) -> Seconds:
    """What a run takes on machines of these rates.

    A text is read for all layers in one pass; of several machines, each reads what its own layers alone ask for.
    """
    passes, by_layer, steps = 0.0, 0.0, []
    for reading in size.readings:
        whole = rates.seconds(reading.tokens, max(reading.layers), reading.settings.dtype)
        steps.append(whole / max(reading.pieces, 1))
        if machines == 1:
            passes += whole
        elif reading.by_shards:
            passes += shared(whole, reading.pieces, machines)
        else:
            by_layer += sum(rates.seconds(reading.tokens, layer, reading.settings.dtype) for layer in reading.layers)
    statistics = [VALUE_SECONDS * values for values in size.derived.values() if values]
    beyond = TOKEN_SECONDS[method] * max(0, size.learnt_tokens - MEASURED_TOKENS)
    units = 0.0
    for layer, count in size.units.items():
        each = max(rates.seconds(UNIT_TOKENS, layer, "float32"), HOST_SECONDS) + beyond
        units += count * each
        steps.append(min(count, UNITS_A_PIECE) * each)
    return Seconds(
        passes + shared(by_layer, len(size.layers), machines),
        shared(sum(statistics), len(statistics), machines),
        shared(units, size.counted.unit_pieces, machines),
        PUBLISHED_SECONDS * size.published,
        max([*steps, *statistics, PUBLISHED_SECONDS * size.published], default=0.0),
    )


def shared(whole: float, parts: int, machines: int) -> float:
    """Seconds of equal parts on some machines; what is in no parts is one machine's."""
    return whole * math.ceil(parts / machines) / parts if parts else whole
