"""Stage ``activation_cache``: one forward pass through the harvest for all layers together.

Asked for some layers, it harvests every layer of the study up to the deepest asked that is not cached yet: the pass
costs the same; where ``layers_at_once`` bounds the disk, only the asked ones. What the study's units did at every token
is kept; the rows are chosen afterwards, on whole arrays. What the units write to the logits needs no pass, and is kept
beside it as a slice of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from n2g_assets.assets.progress import progress
from n2g_assets.assets.session import Session
from n2g_assets.assets.sizes import shards_a_piece
from n2g_assets.assets.stage import Ahead, LayerStage
from n2g_assets.assets.study import groups
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.home import Home
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.units import Unit
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.plan import plan_evidence
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.files import temporary_folder
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.stages import StageReport


def _prepare(session: Session, layers: Sequence[int], show: Progress) -> None:
    at_once = session.settings.layers_at_once
    if at_once != "all" and len(layers) > at_once:
        raise SettingsError(
            f"This run takes {len(layers)} layers, but layers_at_once is {at_once}: start it with n2g run, as a "
            f"backfill or from the schedule, which make a run of every {at_once} layers, or choose fewer layers."
        )
    session.learning.check()
    with session.holding("activation_cache"):
        harvested = to_harvest(session, layers)
        if harvested:
            session.harvest(harvested, show)
        scanned = [layer for layer in harvested if session.learning.is_scanned(layer)]
        if scanned:
            session.evidence(session.learning.scan_corpus, scanned, show)


class _Piece(NamedTuple):
    """Shards of a corpus, and the layers that are read on them."""

    corpus: str
    """Its name; see ``_corpus``."""
    shards: Mapping[str, Sequence[str]]
    """By shard id, its documents."""
    layers: Sequence[int]


def _pieces(session: Session, layers: Sequence[int]) -> list[_Piece]:
    """Groups of the shards that some layers' evidence lacks; also of the texts that later stages are to read."""
    session.learning.check()
    harvested = to_harvest(session, layers)
    scanned = [layer for layer in harvested if session.learning.is_scanned(layer)]
    later = set(session.study.stages) & {"reach", "evaluation"}
    scored = [layer for layer in layers if any(session.units_without(stage, layer) for stage in later)]
    asked = {_HARVEST: harvested, _SCAN: scanned} | dict.fromkeys(session.scored_corpora, scored)
    pieces = []
    for name, stale in asked.items():
        if stale:
            corpus, settings = _corpus(session, name)
            neurons, cache = session.neurons(stale), Cache(session.home)
            plan = plan_evidence(session.model_row, corpus, neurons, settings, cache, trusting=True)
            lacking = {shard.shard_id: shard.document_ids for shard, lacks in plan.work if lacks}
            for part in groups(list(lacking.items()), shards_a_piece(len(lacking))):
                pieces.append(_Piece(name, dict(part), stale))
    return pieces


def _read_piece(session: Session, piece: _Piece, show: Progress) -> None:
    corpus, settings = _corpus(session, piece.corpus)
    for number, (shard_id, documents) in enumerate(piece.shards.items()):
        show(number, len(piece.shards))
        shard = corpus.of_documents(set(documents))
        session.evidence(shard, piece.layers, lambda done, total: None, settings, shard_id=shard_id)


def _corpus(session: Session, name: str) -> tuple[TokenCorpus, HarvestSettings]:
    """The harvest, the scan, or a text of the evaluation, and how it is read."""
    if name == _HARVEST:
        return session.corpus, session.settings.harvest
    return session.learning.scan_corpus if name == _SCAN else session.scored_corpora[name], session.text_settings


def to_harvest(session: Session, layers: Sequence[int]) -> list[int]:
    """The layers that the pass reads where a run asks for some."""
    numbers = session.settings.layer_numbers
    stale = [layer for layer in numbers if not session.is_fresh(_HARVESTED, _input_hash(session, layer), layer)]
    asked = [layer for layer in layers if layer in stale]
    if not asked or session.settings.layers_at_once != "all":
        return asked
    return [layer for layer in stale if layer <= max(asked)]


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    def frames() -> dict[str, pl.DataFrame]:
        from n2g_assets.evidence.derive import derive

        harvest, method, evidence = session.settings.harvest, session.settings.method, session.harvest([layer], show)
        choose = partial(
            derive, partial(evidence.rows, layer), evidence.corpus, units, strongest=harvest.strongest,
            top_contexts=method.top_contexts, contexts_per_document=method.contexts_per_document,
        )  # fmt: skip
        if harvest == harvest.exact:
            return choose()
        with temporary_folder(session.home.cache / "evidence" / "shortlist") as folder:
            return choose(remeasure=partial(_measure_again, session, layer, Cache(Home(folder))))

    units, input_hash = session.units(layer), _input_hash(session, layer)
    with session.holding(f"activation_cache-{layer}"):
        reused = session.bring_up_to_date(
            _HARVESTED, frames, layer=layer, input_hash=input_hash, code_version=STAGE.code_version
        )
        reused_outputs = _bring_outputs_up_to_date(session, layer, units)
        stats = session.read("neuron_stats", layer, columns=["unit", "sign", "max"], units=units)
        reason = pl.format("a_max is {}: the unit is never positive in the harvest.", "max")
        dead = pl.col("max") <= 0
        ledger = stats.select(
            "unit", "sign", stage=pl.lit(STAGE.name),
            status=pl.when(dead).then(pl.lit("dead")).otherwise(pl.lit("ok")),
            reason=pl.when(dead).then(reason).otherwise(pl.lit("")),
        )  # fmt: skip
        session.bring_up_to_date(
            ["ledger"],
            lambda: {"ledger": ledger},
            layer=layer,
            part=STAGE.name,
            input_hash=hash_json([input_hash, units]),
            code_version=STAGE.code_version,
        )
        manifests = {table: session.manifest(table, layer) for table in STAGE.tables}
    return StageReport(
        reused=reused and reused_outputs, computed=0 if reused else len(units),
        kept=len(units) if reused else 0, carried=0,
        seconds=manifests[STAGE.tables[0]].seconds, ledger=dict(ledger.group_by("status").len().iter_rows()),
        rows={table: manifest.rows for table, manifest in manifests.items()},
        content_hashes={table: manifest.content_hash for table, manifest in manifests.items()},
    )  # fmt: skip


def _bring_outputs_up_to_date(session: Session, layer: int, units: Sequence[Unit]) -> bool:
    """What the units write depends on the weights alone: nothing of the harvest is in its hash, nor it in that one."""

    def frames() -> dict[str, pl.DataFrame]:
        from n2g_assets.model.output import output_tokens

        return {_OUTPUTS: output_tokens(session.subject(), layer, units)}

    inputs = {"version": _OUTPUTS_VERSION, "model": session.units_hash(layer), "layer": layer, "units": units}
    return session.bring_up_to_date(
        [_OUTPUTS], frames, layer=layer, input_hash=hash_json(inputs), code_version=_OUTPUTS_VERSION
    )


def _measure_again(
    session: Session, layer: int, cache: Cache, context_ids: pl.Series
) -> Callable[[Sequence[int]], np.ndarray]:
    """The activations of some neurons on these contexts in float32; another shortlist has others, so none is kept."""
    corpus = TokenCorpus.from_frame(session.contexts.filter(pl.col("context_id").is_in(context_ids.to_list())))
    with progress(f"{session.study.name}/strongest contexts in float32", "tokens", session.log.info) as show:
        return partial(session.evidence(corpus, [layer], show, session.settings.harvest.exact, cache).rows, layer)


def _input_hash(session: Session, layer: int) -> str:
    settings = session.settings
    inputs = {
        "code_version": STAGE.code_version, "model": session.units_hash(layer), "contexts": session.harvest_hash,
        "layer": layer, "harvest": settings.harvest.hashed(), "top_contexts": settings.method.top_contexts,
        "contexts_per_document": settings.method.contexts_per_document, "units": session.units(layer),
    }  # fmt: skip
    return hash_json(inputs)


STAGE = LayerStage(
    name="activation_cache",
    description="One forward pass through the harvested documents for all layers together: what the study's units did "
    "at every token, and from it their statistics, strongest positions and strongest contexts. New documents and new "
    "units cost a pass for them alone. Beside it, from the weights, the tokens that each unit raises and lowers.",
    code_version="4",
    work=_work,
    ahead=Ahead(_pieces, _read_piece),
    runs_model=True,
    prepare=_prepare,
    preview_columns=["unit", "sign", "n_tokens", "mean", "std", "max", "share_positive"],
    kinds={"torch", "parquet"},
)
_HARVEST, _SCAN = "the harvest", "the scan"
_OUTPUTS, _OUTPUTS_VERSION = "output_tokens", "1"
_HARVESTED = tuple(table for table in STAGE.tables if table != _OUTPUTS)
"""The tables that the pass gives."""
