"""What the runs of a study take, said before they begin (``n2g plan``): tokens, disk, memory, steps and time.

Of a study whose model and corpus are there, tokens and bytes are exact as far as what is on disk is whole; of what is
measured again after a coarse harvest, and of the contexts that graphs will ask for, the most is said. Units that the
study has scored already count as done; whether a changed setting makes them stale is not looked at.
"""

import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType

import polars as pl

from n2g_assets.assets import activation_cache
from n2g_assets.assets.learning import GRAPHS_BYTES, GROWING_BYTES
from n2g_assets.assets.progress import clock
from n2g_assets.assets.rates import Elsewhere, Rates, Seconds, measured, seconds, stated
from n2g_assets.assets.session import Session
from n2g_assets.assets.sizes import EVENTS_A_STEP, MOST_STEPS, Facts, Reading, Size, Stated
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.home import MINIMUM_FREE_BYTES, Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.plan import plan_evidence
from n2g_assets.evidence.suffixes import MOST_TOKENS
from n2g_assets.model.config import Shape, read_shape
from n2g_assets.model.sources import config_folder
from n2g_assets.report.text import counted, human_bytes, layers_listed, table_text
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.slices import SliceKey

_BUFFER_BYTES = 2**30
"""About what a run holds at once beside the model: rows of a batch, logits of proposals, rows of a block of units."""
TOKEN_BYTES = 450
"""That a process holds while units are scored, for each token that they are learnt from (``unit_scores.py``)."""
_LONGEST_STEP = 86_400
"""Seconds after which RabbitMQ takes a step from its worker, as ``docs/machines.md`` sets it."""


class Stored(Facts):
    """A study whose model and corpus are there; what is done already is not counted."""

    def __init__(self, session: Session) -> None:
        self._session, self.settings, self.stages = session, session.settings, session.study.stages

    def units(self, layer: int) -> int:
        """By the model's own width."""
        return len(self._session.units(layer))

    def neurons(self, layer: int) -> int:
        """Both signs of one are read together."""
        return len(self._session.neurons([layer])[layer])

    def density(self, layer: int) -> float | None:
        """As was measured when the model was verified."""
        encoder = self._session.model_row.get("encoders", {}).get(layer)
        return encoder["active"] / encoder["n_latents"] if encoder is not None and encoder["sparse"] else None

    def units_without(self, table: str, layer: int) -> int:
        """By the manifest of the table's slice."""
        return self._session.units_without(table, layer)

    def to_harvest(self, layers: Sequence[int]) -> list[int]:
        """As the stage says."""
        return activation_cache.to_harvest(self._session, layers)

    @property
    def texts(self) -> Mapping[str, int]:
        """As the model reads them."""
        return {name: len(corpus.token_ids) for name, corpus in self._corpora.items()}

    @cached_property
    def _corpora(self) -> dict[str, TokenCorpus]:
        session = self._session
        scanned = any(map(self.is_scanned, session.settings.layer_numbers))
        beside = {"scan": session.learning.scan_corpus} if scanned else {}
        return {"harvest": session.corpus, **session.scored_corpora, **beside}

    def reading(self, text: str, layers: Sequence[int], settings: HarvestSettings) -> Reading:
        """What no file holds."""
        session = self._session
        neurons, cache = session.neurons(layers), Cache(session.home)
        plan = plan_evidence(session.model_row, self._corpora[text], neurons, settings, cache, trusting=True)
        sizes = [
            self.kept(shard.n_tokens, {layer: len(units) for layer, units in lacks.items()})
            for shard, lacks in plan.work
        ]
        shards = sum(bool(lacks) for _, lacks in plan.work)
        values, pairs = [kept for kept, _ in sizes], sum(pairs for _, pairs in sizes)
        return Reading(layers, plan.tokens, shards, sum(values), settings, max(values, default=0), pairs=pairs)

    def most_targeted(self, layer: int) -> int:
        """By the text that there is beyond the harvest."""
        return self._session.learning.most_tokens(layer) if self._session.learning.asked else 0


def plan_here(session: Session, runs: Sequence[Sequence[int]], machines: int = 1) -> str:
    """The plan of some runs of a study whose model and corpus are there; a forward pass is timed.

    ``runs`` gives the layers of each, ascending.
    """
    from n2g_assets.evidence.store import tokens_a_second

    session.learning.check()
    settings, deepest = session.settings, max(map(max, runs))
    model = session.subject(settings.harvest.dtype)
    speed = tokens_a_second(model, deepest, settings.harvest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)
    what = f"{model.name} in {settings.harvest.dtype} on {model.device.type}"
    return plan_text(
        session.study.name,
        what,
        Stored(session),
        runs,
        measured(speed, deepest),
        machines,
        peak,
        free_bytes(session.home),
    )


def plan_elsewhere(session: Session, runs: Sequence[Sequence[int]], machines: int, elsewhere: Elsewhere) -> str:
    """The plan of some runs on stated machines; of the model its config.json is read, and no weights.

    Raises:
        SourceError: there is no config.json, or it cannot be read.
        SettingsError: there is no such device, or nothing says how many tokens the harvest has.
    """
    settings = session.settings
    if elsewhere.config is None:
        folder, name = config_folder(settings.subject, study_folder=session.study.folder, home=session.home)
    else:
        folder = elsewhere.config if elsewhere.config.is_dir() else elsewhere.config.parent
        name = folder.absolute().name
    shape = read_shape(folder, name, session.hook)
    if session.encoders is not None:
        shape = replace(shape, width=session.encoders.width(shape))
    facts = facts_without_model(session, shape, elsewhere.tokens)
    return stated_text(session.study.name, facts, runs, shape, machines, elsewhere, free_bytes(session.home))


def stated_text(
    study: str, facts: Facts, runs: Sequence[Sequence[int]], shape: Shape, machines: int, elsewhere: Elsewhere,
    free: int,
) -> str:  # fmt: skip
    """The plan of some runs by stated rates."""
    harvest = facts.settings.harvest
    what = f"{shape.name} ({shape.weights / 1e9:.3g} billion weights) in {harvest.dtype}"
    rates, weights = stated(shape, elsewhere), weight_bytes(shape, harvest.dtype)
    return plan_text(study, what, facts, runs, rates, machines, weights, free)


def facts_without_model(session: Session, shape: Shape, tokens: int | None) -> Facts:
    """What a study's size is counted by where no model runs: its corpus, if it was read here, or else its settings.

    ``tokens`` are stated ones of the harvest, for which what was read here is not looked at.

    Raises:
        SettingsError: nothing says how many tokens the harvest has.
    """
    study, store = session.study, session.store
    there = all(store.manifest(SliceKey(table, study.name, None)) for table in ("subject_models", "contexts"))
    if tokens is None and there and session.model_row["model"] == shape.name:
        session.learning.check()
        return Stored(session)
    densities = {} if session.encoders is None else session.encoders.densities
    return stated_facts(study, shape, tokens, densities)


def stated_facts(
    study: Study, shape: Shape, tokens: int | None = None, densities: Mapping[int, float] = MappingProxyType({})
) -> Stated:
    """What a study's size is counted by before anything of it is there; ``densities`` are those of ``Stated``.

    Raises:
        SettingsError: nothing says how many tokens the harvest has, or the model has not what the study asks for.
    """
    settings = study.settings
    tokens = tokens or settings.harvest.max_tokens
    if tokens is None:
        raise SettingsError(
            f"The corpus of study '{study.name}' was not read here, and harvest.max_tokens does not say how much of it "
            "is harvested: give --tokens, or plan without a stated rate, which reads it."
        )
    outside = any(source.role == "out_of_domain" for source in settings.corpus)
    scored = [name for name in study.texts if name == "random" or (name == "out_of_domain" and outside)]
    return Stated(settings, study.stages, shape, tokens, scored, densities)


def weight_bytes(shape: Shape, arithmetic: str) -> int:
    """Of a loaded model: units are always decided in float32, and bfloat16 is a second copy."""
    return shape.weights * (6 if arithmetic == "bfloat16" else 4)


def free_bytes(home: Home) -> int:
    """That data may take where it lies."""
    return max(0, shutil.disk_usage(home.store).free - MINIMUM_FREE_BYTES)


def plan_text(
    study: str, what: str, facts: Facts, runs: Sequence[Sequence[int]], rates: Rates, machines: int, model_bytes: int,
    free: int,
) -> str:  # fmt: skip
    """The plan of some runs.

    Args:
        study: its name.
        what: the model, for reading.
        facts: what the runs' sizes are counted by.
        runs: the layers of each, ascending.
        rates: of a machine.
        machines: how many there are.
        model_bytes: memory that the loaded model takes, and all that is held beside whatever the tokens.
        free: bytes that new data may take.
    """
    settings = facts.settings
    sizes: list[Size] = []
    for layers in runs:
        sizes.append(Size.of(facts, layers, sizes[-1] if sizes else None))
    method = settings.method.preset
    times = [seconds(size, rates, method, machines) for size in sizes]
    shown = pl.DataFrame(
        {
            "run": [layers_listed(size.layers) for size in sizes],
            "units": [sum(size.units.values()) for size in sizes],
            "passes": [size.passes for size in sizes],
            "tokens": [f"{size.tokens:,}" for size in sizes],
            "shards": [size.shards for size in sizes],
            "steps": [size.counted.steps for size in sizes],
            "evidence": [human_bytes(size.kept_bytes) for size in sizes],
            "time": [clock(each.total) for each in times],
        }
    )
    dropped = settings.layers_at_once != "all" and not settings.keep_evidence
    disk = (max if dropped else sum)(size.kept_bytes for size in sizes) + max(size.in_work_bytes for size in sizes)
    numbers = sum(size.number_bytes for size in sizes) if method == "evidence" else 0
    learnt = max(size.learnt_tokens for size in sizes)
    memory = model_bytes + _BUFFER_BYTES + TOKEN_BYTES * learnt
    steps = sum(size.counted.steps for size in sizes)
    whole = Seconds(*map(sum, zip(*times, strict=True)))._replace(longest=max(each.longest for each in times))
    texts = [f"{tokens:,} tokens of {'the ' * (name == 'scan')}{name}" for name, tokens in facts.texts.items()]
    kinds = {"passes": whole.passes, "statistics": whole.statistics, "units": whole.units, "database": whole.database}
    lines = [
        f"Study '{study}': {what}, {counted(sum(map(len, runs)), 'layer')}; what is done already is not counted.\n",
        table_text(shown),
        "",
        "Text:   " + ", ".join(texts),
        f"Disk:   {human_bytes(disk)} for new evidence at once, {'dropped' if dropped else 'kept'} afterwards; "
        f"{human_bytes(free)} may be taken",
        f"Memory: about {human_bytes(memory)}",
        f"Steps:  {steps:,} where they are spread (docs/machines.md), some {steps * EVENTS_A_STEP:,} events in "
        "Dagster's database",
        f"Time:   about {clock(whole.total)} on {counted(machines, 'machine')} if nothing else runs",
        f"        {', '.join(f'{name} {clock(each)}' for name, each in kinds.items())}",
        f"Rates:  {rates.said}",
    ]
    if numbers:
        lines.insert(5, f"        {human_bytes(numbers)} at the most for numbers of runs of tokens")
    if machines > 1:
        lines.append(f"Share:  {_share(sizes)}")
    limits = _limits(sizes, facts, rates, machines, disk + numbers, free, model_bytes, learnt, whole.longest)
    return "\n".join([*lines, *(f"LIMIT:  {each}" for each in limits)])


def _share(sizes: Sequence[Size]) -> str:
    """Up to how many machines have something to do at once."""
    pieces = max(size.counted.harvest_pieces for size in sizes)
    layers = max(sum(map(bool, size.derived.values())) for size in sizes)
    units = max(size.counted.unit_pieces for size in sizes)
    return (
        f"in a run up to {counted(pieces, 'machine')} can share the harvest, {layers:,} the statistics, {units:,} the "
        "units; one writes the database"
    )


def _limits(
    sizes: Sequence[Size], facts: Facts, rates: Rates, machines: int, disk: int, free: int, model_bytes: int,
    learnt: int, longest: float,
) -> list[str]:  # fmt: skip
    """A sentence for each limit that the runs exceed, with what moves it."""
    found = []
    if disk > free:
        found.append(
            f"TOO LITTLE disk, {human_bytes(free)} for {human_bytes(disk)}: set layers_at_once to a smaller count, or "
            "harvest.evidence_dtype to int8, ask for fewer units or tokens, or set N2G_HOME to a larger disk."
        )
    again = [(size, [reading for reading in size.readings if not reading.kept]) for size in sizes]
    once = sum(rates.seconds(facts.texts["harvest"], max(size.layers), "float32") for size, some in again if some)
    twice = sum(rates.seconds(each.tokens, max(each.layers), "float32") for _, some in again for each in some)
    if twice > once:
        found.append(
            f"What is measured again in float32 takes {clock(twice)} of one machine, and the whole harvest in float32 "
            f"{clock(once)}: set harvest.dtype and harvest.evidence_dtype to float32, or ask for fewer units."
        )
    if rates.memory is not None and model_bytes > rates.memory:
        found.append(
            f"The model takes {human_bytes(model_bytes)} and the device has {human_bytes(rates.memory)}: units are "
            "decided in float32 on one device, so take one with more memory, or harvest.device: cpu."
        )
    if learnt > MOST_TOKENS and facts.settings.method.preset == "evidence":
        found.append(
            f"Units are learnt from {learnt:,} tokens, but runs of tokens can be numbered in {MOST_TOKENS:,} at the "
            "most: lower harvest.max_tokens."
        )
    if GROWING_BYTES * learnt > GRAPHS_BYTES and facts.settings.method.preset == "evidence":
        found.append(
            f"A graph that learns from {learnt:,} tokens takes {human_bytes(GROWING_BYTES * learnt)} while it grows, "
            "so that one grows at a time: lower harvest.max_tokens."
        )
    steps = max(size.counted.steps for size in sizes)
    if steps > MOST_STEPS and machines > 1:
        found.append(
            f"A run has {steps:,} steps, and one of more than {MOST_STEPS:,} is slow to look at and to hand out: set "
            "layers_at_once to a smaller count."
        )
    if longest > _LONGEST_STEP and machines > 1:
        found.append(
            f"The longest step takes {clock(longest)}: set RabbitMQ's consumer_timeout to more, or lower "
            "harvest.max_tokens."
        )
    return found
