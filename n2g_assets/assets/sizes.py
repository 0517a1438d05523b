"""What a run of a study takes: passes, tokens, shards, disk, steps. Numbers alone, of any study on any model.

``Size.of`` counts; what it counts by comes from ``Facts``: of a study whose model and corpus are there (``plan``), or
of one of which its settings and the shape of its model alone are known (``Stated``). ``rates`` makes seconds of it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import HarvestSettings, StudySettings
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.evaluation.reach import LAST_TOKENS
from n2g_assets.evidence.kept import PAIR
from n2g_assets.evidence.precision import DTYPES
from n2g_assets.evidence.scan import PREFIX, ROUNDS
from n2g_assets.evidence.suffixes import BYTES as SUFFIX_BYTES
from n2g_assets.model.config import Shape

UNITS_A_PIECE = 512
"""Units of a large layer that a step computes."""
MOST_PIECES = 200
"""Of a corpus; a step each, and a run of many more steps is slow to look at."""
MOST_STEPS = 1_000
"""Of a run, beyond which it is slow to look at and to hand out."""
EVENTS_A_STEP = 17
"""That Dagster keeps of an executed step: measured with Celery and Postgres."""
_WHOLE = 4
"""Steps of a run that are of no layer: model, corpus, database and report."""
_BESIDE = 3
"""Steps of a stage's graph beside those of its pieces and layers: what says the pieces, what says the layers, the end.
"""


@dataclass(frozen=True)
class Reading:
    """A corpus that is to be read for some layers, in one pass or, on several machines, in parts."""

    layers: Sequence[int]
    tokens: int
    """BOS included."""
    shards: int
    values: int
    """Activations that are new and kept one by one."""
    settings: HarvestSettings
    largest: int = 0
    """Values of the largest shard."""
    by_shards: bool = False
    """Whether machines share the pass by its shards; otherwise each of them reads what its own layers ask for."""
    pairs: int = 0
    """About how many activations of latents are new and not 0, so that they are kept with their position."""
    kept: bool = True
    """Whether what it gives is kept; what is measured again for one layer is not, and counts as no pass."""

    @property
    def kept_bytes(self) -> int:
        """Disk of the evidence that is kept."""
        each = DTYPES[self.settings.evidence_dtype].itemsize
        return self.kept * (each * self.values + PAIR.itemsize * self.pairs)

    @property
    def in_work_bytes(self) -> int:
        """Disk that it needs for a while besides: coarse evidence its largest shard in float32."""
        if not self.kept:
            return 4 * self.values + PAIR.itemsize * self.pairs
        return 0 if self.settings.evidence_dtype == "float32" else 4 * self.largest

    @property
    def pieces(self) -> int:
        """Steps that read it before the layers are asked for."""
        return piece_count(self.shards) if self.by_shards else 0


def piece_count(shards: int) -> int:
    """Groups of so many shards that steps read."""
    return math.ceil(shards / shards_a_piece(shards))


def shards_a_piece(shards: int) -> int:
    """Shards of a group."""
    return math.ceil(shards / MOST_PIECES) or 1


class Facts(ABC):
    """What the size of a study's runs is counted by."""

    settings: StudySettings
    stages: Sequence[str]
    """The study's per-layer stages."""

    @abstractmethod
    def units(self, layer: int) -> int:
        """Units of a layer that the study asks about."""

    @abstractmethod
    def neurons(self, layer: int) -> int:
        """Neurons of these units."""

    @abstractmethod
    def density(self, layer: int) -> float | None:
        """Share of the positions at which a latent of a layer is kept; None where units are kept at all positions."""

    def kept(self, tokens: int, units: Mapping[int, int]) -> tuple[int, int]:
        """The activations that are kept of so many tokens and, by layer, units: one by one, and with their position."""
        of_layers = [(tokens * number, self.density(layer)) for layer, number in units.items()]
        pairs = sum(math.ceil(density * values) for values, density in of_layers if density is not None)
        return sum(values for values, density in of_layers if density is None), pairs

    @abstractmethod
    def units_without(self, table: str, layer: int) -> int:
        """How many units of a layer are still to get their rows of a table."""

    @abstractmethod
    def to_harvest(self, layers: Sequence[int]) -> list[int]:
        """The layers that the harvest reads where a run asks for some."""

    @property
    @abstractmethod
    def texts(self) -> Mapping[str, int]:
        """Tokens of all that is read but targeted contexts, BOS included: ``harvest``, ``scan``, ``windows``, texts."""

    @abstractmethod
    def reading(self, text: str, layers: Sequence[int], settings: HarvestSettings) -> Reading:
        """What is left to be read of a text for some layers, as these settings say."""

    @abstractmethod
    def most_targeted(self, layer: int) -> int:
        """The most tokens that graphs of a layer can ask for."""

    @property
    def exact(self) -> HarvestSettings:
        """How what is not the harvest is read: in float32."""
        return self.settings.harvest.model_copy(update={"dtype": "float32"})

    def is_scanned(self, layer: int) -> bool:
        """Whether the units of a layer are also shown every token of the vocabulary."""
        return self.settings.method.preset == "evidence" and layer < self.settings.harvest.scanned_layers


class Counted(NamedTuple):
    """Steps of a run, where they are spread over machines."""

    steps: int
    harvest_pieces: int
    unit_pieces: int
    """Steps that compute units; each stage has as many."""


@dataclass(frozen=True)
class Size:
    """What one run has to do, of layers that go through the pipeline together."""

    layers: Sequence[int]
    units: Mapping[int, int]
    """By layer, units that are still to be made."""
    published: int
    """Units of the study that the database holds when the run ends, those of earlier runs included."""
    readings: Sequence[Reading]
    learnt_tokens: int
    """What a unit is learnt from, at the most."""
    derived: Mapping[int, int]
    """By layer, activations of which the statistics of its units are made anew."""
    counted: Counted
    number_bytes: int
    """Disk that the numbers of the runs of all texts that layers learn from take at the most."""

    @classmethod
    def of(cls, facts: Facts, layers: Sequence[int], earlier: "Size | None" = None) -> "Size":
        """The size of a run; what an earlier one of the same plan harvests is not harvested again."""
        harvest, method = facts.settings.harvest, facts.settings.method
        before = set(earlier.derived) if earlier else set[int]()
        units = {layer: facts.units_without("evaluation", layer) for layer in layers}
        harvested = [layer for layer in facts.to_harvest(layers) if layer not in before]
        to_score = list(layers) if any(units.values()) else []
        to_read = to_score if facts.settings.preset != "paper" else []  # what baselines learn from, if it was dropped
        to_learn = sorted({*harvested, *to_read} - before)
        asked: list[tuple[str, Sequence[int]]] = [("harvest", to_learn)]
        asked.append(("scan", [layer for layer in to_learn if facts.is_scanned(layer)]))
        texts = [name for name in facts.texts if name not in {"harvest", "scan", "windows"}]
        if facts.texts.get("windows"):
            to_measure = list(layers) if any(facts.units_without("reach", layer) for layer in layers) else []
            asked.append(("windows", to_measure))
            to_score = to_score or to_measure  # the windows are compared with the texts
        asked += [(name, to_score) for name in texts]
        readings = []
        for name, stale in asked:
            if stale:
                settings = harvest if name == "harvest" else facts.exact
                found = facts.reading(name, stale, settings)
                readings.append(replace(found, by_shards=bool(harvested) or name not in {"harvest", "scan"}))
        targeted = {layer: facts.most_targeted(layer) for layer in to_learn}
        for layer, read in targeted.items():
            if read:
                values, pairs = facts.kept(read, {layer: facts.neurons(layer)})
                readings.append(Reading([layer], read, 1, values, facts.exact, pairs=pairs))
        if harvest != harvest.exact:  # strongest contexts are measured again
            shortlist = 2 * method.top_contexts * harvest.context_length
            for layer in harvested:
                read = min(facts.texts["harvest"], shortlist * facts.units(layer))
                values, pairs = facts.kept(read, {layer: facts.neurons(layer)})
                readings.append(Reading([layer], read, 0, values, harvest.exact, pairs=pairs, kept=False))
        tokens = facts.texts["harvest"]
        learnt = tokens + max(targeted.values(), default=0) + facts.texts.get("scan", 0)
        numbered = [tokens] * (bool(to_learn) and earlier is None) + [
            tokens + read for read in targeted.values() if read
        ]
        return cls(
            layers, units, sum(map(facts.units, layers)) + (earlier.published if earlier else 0), readings, learnt,
            dict.fromkeys(before, 0) | {layer: tokens * facts.neurons(layer) for layer in harvested},
            _steps(facts, layers, readings), SUFFIX_BYTES * sum(numbered),
        )  # fmt: skip

    @property
    def passes(self) -> int:
        """Passes of one process, which reads a text for all layers together."""
        return sum(reading.kept and reading.tokens > 0 for reading in self.readings)

    @property
    def tokens(self) -> int:
        """Tokens of all passes, with what is measured again."""
        return sum(reading.tokens for reading in self.readings)

    @property
    def shards(self) -> int:
        """Shards of all passes."""
        return sum(reading.shards for reading in self.readings)

    @property
    def kept_bytes(self) -> int:
        """Disk of new evidence."""
        return sum(reading.kept_bytes for reading in self.readings)

    @property
    def in_work_bytes(self) -> int:
        """Disk that a pass needs for a while besides, at the most."""
        return max((reading.in_work_bytes for reading in self.readings), default=0)


def _steps(facts: Facts, layers: Sequence[int], readings: Sequence[Reading]) -> Counted:
    """The steps of a run as ``steps`` makes them: every stage of the layers has pieces, layers and three besides."""
    blocks = [math.ceil(facts.units(layer) / UNITS_A_PIECE) for layer in layers]
    unit_pieces = sum(count for count in blocks if count > 1)
    harvest_pieces = sum(reading.pieces for reading in readings)
    of_stages = len(facts.stages) * (_BESIDE + len(layers)) + (len(facts.stages) - 1) * unit_pieces
    return Counted(_WHOLE + of_stages + harvest_pieces, harvest_pieces, unit_pieces or len(layers))


@dataclass(frozen=True)
class Stated(Facts):
    """A study of which nothing is done yet, by its settings alone: texts have the tokens that they ask for."""

    settings: StudySettings
    stages: Sequence[str]
    shape: Shape
    tokens: int
    """Of the harvest, BOS included."""
    scored: Sequence[str]
    """The held-out texts that units are scored on."""
    densities: Mapping[int, float] = field(default_factory=dict)
    """By layer, as ``density``; of latents whose number at a position their files do not say, there is none."""

    def __post_init__(self) -> None:
        deepest = self.settings.layer_numbers[-1]
        if deepest >= self.shape.layers:
            raise SettingsError(
                f"The study asks for layer {deepest}, but {self.shape.name} has the layers 0 to "
                f"{self.shape.layers - 1}: correct layers."
            )
        if self.neurons(0) > self.shape.width:
            raise SettingsError(
                f"The study asks for {self.neurons(0):,} {self.settings.word}s a layer, but {self.shape.name} has "
                f"{self.shape.width:,}: lower neurons.sample."
            )

    def units(self, layer: int) -> int:
        """As many in every layer."""
        return self.neurons(layer) * len(self.settings.signs)

    def neurons(self, layer: int) -> int:
        """As many in every layer."""
        chosen = self.settings.neurons
        if chosen == "all":
            return self.shape.width
        return chosen.sample if isinstance(chosen, NeuronSample) else len(chosen)

    def density(self, layer: int) -> float | None:
        """As the files of its encoder say."""
        return self.densities.get(layer)

    def units_without(self, table: str, layer: int) -> int:
        """All."""
        return self.units(layer) if table in self.stages else 0

    def to_harvest(self, layers: Sequence[int]) -> list[int]:
        """With those above them that the study has, as one pass reads them, unless it bounds the disk."""
        bounded = self.settings.layers_at_once != "all"
        return [
            layer for layer in self.settings.layer_numbers if layer in layers or (layer < max(layers) and not bounded)
        ]

    @property
    def texts(self) -> Mapping[str, int]:
        """What the settings ask for."""
        evaluation = self.settings.evaluation
        held_out = {"random": evaluation.random_tokens, "out_of_domain": evaluation.out_of_domain_tokens}
        found = {"harvest": self.tokens} | {name: held_out[name] for name in self.scored}
        if any(map(self.is_scanned, self.settings.layer_numbers)):
            found["scan"] = ROUNDS * (self.shape.vocabulary - 1) * (PREFIX + 2)
        if "reach" in self.stages:
            found["windows"] = evaluation.reach_positions * len(self.scored) * sum(k + 1 for k in LAST_TOKENS)
        return found

    def reading(self, text: str, layers: Sequence[int], settings: HarvestSettings) -> Reading:
        """All of it."""
        tokens, units = self.texts[text], {layer: self.neurons(layer) for layer in layers}
        values, pairs = self.kept(tokens, units)
        largest, _ = self.kept(min(tokens, settings.shard_tokens), units)
        shards = math.ceil(tokens / settings.shard_tokens)
        return Reading(layers, tokens, shards, values, settings, largest, pairs=pairs)

    def most_targeted(self, layer: int) -> int:
        """What is there beyond the harvest is not known."""
        asked = self.settings.harvest.targeted_contexts if self.settings.method.preset == "evidence" else 0
        return asked * self.units(layer) * self.settings.harvest.context_length
