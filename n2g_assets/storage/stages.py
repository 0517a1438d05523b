"""Runs one stage for the units of one layer, block by block, doing only what has not been done.

1. Each unit has a hash of the stage's code version and settings, the schemas of its tables and the unit's own input
   rows; all of them together are the slice's input hash. If the slices of all tables and of the ledger have it, nothing
   is done.
2. Units whose hash an existing slice or a checkpoint holds keep their rows. Units that an earlier stage ended (dead,
   too few contexts, failed) are carried: they get the same status in this stage's ledger.
3. The others are computed in blocks. A finished block is a checkpoint: one entry of the cache.
4. At the end every table's slice is written, the ledger last, and the checkpoints are removed.

A killed run therefore goes on where it stopped, and ends with the rows of an undisturbed one. An unexpected error in a
block is narrowed down to the units that raise it alone; those are ``failed`` in the ledger. What no unit can be blamed
for (an ``N2GError``, a full disk, no memory, an interrupt) ends the run; what was finished is safe.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from n2g_assets.core.errors import N2GError
from n2g_assets.core.progress import Progress
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit, of_units
from n2g_assets.method.results import BlockResult, Outcome
from n2g_assets.storage.cache import Cache, Entry
from n2g_assets.storage.hashing import hash_json, schema_hash
from n2g_assets.storage.slices import Manifest, SliceKey, SliceStore, only_units

logger = logging.getLogger(__name__)

_PATH = re.compile(r"(?<!\w)~?(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\":,;()]+[\\/])*([^\s\\/'\":,;()]*)")
_REASON_LENGTH = 300

_Block = tuple[Entry, Mapping[Unit, Outcome]]
"""A finished block on disk, and the outcomes of those of its units whose rows count."""


class _GoneError(Exception):
    """The rows of a checkpoint are not there any more."""


@dataclass(frozen=True)
class StageReport:
    """What ``fill_units`` did."""

    reused: bool
    """Whether everything was there already."""
    computed: int
    """Units computed in this run."""
    kept: int
    """Units whose rows an existing slice or a checkpoint held."""
    carried: int
    """Units that an earlier stage had ended."""
    seconds: float
    """How long it took to compute the rows, in an earlier run where they are reused."""
    rows: dict[str, int]
    """Rows of the slice by table, ledger included."""
    ledger: dict[str, int]
    """Units by status."""
    content_hashes: dict[str, str]
    """By table, ledger included."""


def fill_units(
    store: SliceStore,
    *,
    stage: str,
    tables: Sequence[str],
    study: str,
    layer: int,
    code_version: str,
    settings_hash: str,
    units: Sequence[Unit],
    unit_inputs: Mapping[Unit, str],
    carried: Mapping[Unit, Outcome],
    compute: Callable[[list[Unit]], BlockResult],
    block_size: int,
    progress: Progress = lambda done, total: None,
    retry_failed: bool = False,
    share: Collection[Unit] | None = None,
) -> StageReport | None:
    """Brings the slices of one stage and layer up to date; a second run of the same on one machine waits for the first.

    Args:
        store: where slices and checkpoints lie.
        stage: name of the stage: the part of its ledger slice.
        tables: the tables that it writes, all of them by unit.
        study: whose units they are.
        layer: of the units.
        code_version: changes when the stage's code would give other rows.
        settings_hash: hash of the settings that the stage reads.
        units: the units asked for; others that a slice holds are dropped from it.
        unit_inputs: by unit, the hash of its input rows (``hashing.unit_rows_hashes``); carried units need none.
        carried: units that an earlier stage ended, with their outcome there.
        compute: rows and outcomes of a block of units; the frames leave ``study`` and ``layer`` out.
        block_size: units of a block; does not change the rows.
        progress: called with units done and units asked for, at the start and after each block.
        retry_failed: compute units again that failed in this stage before; else they keep that status.
        share: do no more than compute these units, for a call without a share that follows; gives None.

    Raises:
        StorageError: another run holds the slice, the disk is full, or rows do not fit their table.
        N2GError: whatever of this kind ``compute`` raises.
    """
    started = time.perf_counter()
    units = list(units)
    if len(set(units)) != len(units):
        raise ValueError(f"units of stage {stage} repeat")
    ended = {unit: carried[unit] for unit in units if unit in carried}
    common = [stage, code_version, settings_hash, schema_hash([*tables, "ledger"])]
    hashes = {}
    for unit in units:
        outcome = ended.get(unit)
        origin = ["rows", unit_inputs[unit]] if outcome is None else ["carried", outcome.status, outcome.reason]
        hashes[unit] = hash_json([*common, str(unit), *origin])
    input_hash = hash_json([*common, [[str(unit), hashes[unit]] for unit in units]])
    ledger = SliceKey("ledger", study, layer, stage)
    keys = [SliceKey(table, study, layer) for table in tables]
    cache, blocks_kind = Cache(store.home), f"blocks/{stage}/{study}/{layer}"
    with store.lock(f"{stage}/{study}/{layer}") if share is None else nullcontext():
        while True:
            manifests = [store.manifest(key) for key in (*keys, ledger)]
            before = _stored_outcomes(store, ledger, manifests, hashes)
            again = {unit for unit in before if retry_failed and before[unit].status == "failed"} - ended.keys()
            reused = not again and all(manifest and manifest.input_hash == input_hash for manifest in manifests)
            from_slice = before.keys() - ended.keys() - again
            outcomes = ended | {unit: before[unit] for unit in from_slice}
            blocks = _read_checkpoints(cache, blocks_kind, hashes, outcomes.keys() | again)
            for _, finished in blocks:
                outcomes |= finished
            missing = [unit for unit in units if unit not in outcomes and (share is None or unit in share)]
            progress(len(outcomes), len(units))
            for start in range(0, len(missing), block_size):
                result = _attempt(compute, missing[start : start + block_size], keys, ledger)
                blocks.append((_write_checkpoint(cache, blocks_kind, hashes, result), result.ledger))
                outcomes |= result.ledger
                progress(len(outcomes), len(units))
            if share is not None:
                return None
            if reused:
                break
            try:
                about: dict[str, Any] = {
                    "input_hash": input_hash,
                    "code_version": code_version,
                    "seconds": time.perf_counter() - started,
                    "unit_hashes": {str(unit): unit_hash for unit, unit_hash in hashes.items()},
                }
                judged = dict(zip(keys, manifests, strict=False))
                manifests = [
                    store.write(key, _gather(store, key, judged[key], from_slice, blocks), **about) for key in keys
                ]
                rows = [(*unit, stage, outcomes[unit].status, outcomes[unit].reason) for unit in units]
                statuses = pl.DataFrame(rows, schema=["unit", "sign", "stage", "status", "reason"], orient="row")
                manifests.append(store.write(ledger, _complete(ledger, statuses), **about))
                break
            except _GoneError:  # a run on another machine has finished the slices meanwhile, and removed its blocks
                continue
        for key in cache.listing(blocks_kind):  # each alone: a run on another machine may be writing one beside them
            cache.remove(blocks_kind, key)
    whole = {manifest.table: manifest for manifest in manifests if manifest is not None}
    return StageReport(
        reused=reused,
        computed=len(missing),
        kept=len(units) - len(missing) - len(ended),
        carried=len(ended),
        seconds=whole["ledger"].seconds,
        rows={table: manifest.rows for table, manifest in whole.items()},
        ledger=dict(Counter(outcomes[unit].status for unit in units)),
        content_hashes={table: manifest.content_hash for table, manifest in whole.items()},
    )


def _complete(key: SliceKey, frame: pl.DataFrame) -> pl.DataFrame:
    """A frame of the method with the columns that it leaves out, checked against its table."""
    return TABLES[key.table].conform(frame.with_columns(study=pl.lit(key.study), layer=pl.lit(key.layer, pl.Int32)))


# -------------------------------------------------------------------------------------------- what is there
def _stored_outcomes(
    store: SliceStore, ledger: SliceKey, manifests: Sequence[Manifest | None], hashes: Mapping[Unit, str]
) -> dict[Unit, Outcome]:
    """The units asked for whose hash every slice holds, with their outcome."""
    whole = [manifest for manifest in manifests if manifest is not None]
    if len(whole) < len(manifests):
        return {}
    rows = store.read(ledger, columns=["unit", "sign", "status", "reason"]).iter_rows()
    outcomes = {Unit(number, sign): Outcome(status, reason) for number, sign, status, reason in rows}
    return {
        unit: outcomes[unit]
        for unit, wanted in hashes.items()
        if unit in outcomes and all(manifest.unit_hashes.get(str(unit)) == wanted for manifest in whole)
    }


def _gather(
    store: SliceStore, key: SliceKey, judged: Manifest | None, from_slice: Collection[Unit], blocks: Sequence[_Block]
) -> pl.DataFrame:
    """The rows of a table's next slice: those of some units of the slice that was judged, and those of the blocks."""
    frames = [TABLES[key.table].empty()]
    if from_slice:
        frames.append(store.read(key, units=from_slice))
        if store.manifest(key) != judged:
            raise _GoneError
    for entry, outcomes in blocks:
        try:
            stored = pl.scan_parquet(entry.path(f"{key.table}.parquet"), glob=False, hive_partitioning=False)
            frames.append(only_units(stored, outcomes).collect())
        except FileNotFoundError as error:
            raise _GoneError from error
    return pl.concat(frames)


# -------------------------------------------------------------------------------------------- blocks
def _read_checkpoints(cache: Cache, kind: str, hashes: Mapping[Unit, str], without: Collection[Unit]) -> list[_Block]:
    """The blocks that an earlier run finished, with those of their units whose hash still holds, each unit once."""
    blocks: list[_Block] = []
    seen = set(without)
    for key, about in cache.listing(kind).items():
        outcomes = {
            Unit(number, sign): Outcome(status, reason)
            for number, sign, unit_hash, status, reason in about["units"]
            if hashes.get(Unit(number, sign)) == unit_hash and Unit(number, sign) not in seen
        }
        entry = cache.find(kind, key) if outcomes else None
        if entry is not None:  # the rows of other blocks are of other inputs or another version
            blocks.append((entry, outcomes))
            seen |= outcomes.keys()
    return blocks


def _write_checkpoint(cache: Cache, kind: str, hashes: Mapping[Unit, str], result: BlockResult) -> Entry:
    """Saves a finished block, whole or not at all."""

    def fill(folder: Path) -> None:
        for table, frame in result.tables.items():
            frame.write_parquet(folder / f"{table}.parquet")

    rows = [[*unit, hashes[unit], outcome.status, outcome.reason] for unit, outcome in result.ledger.items()]
    return cache.write(kind, hash_json([hashes[unit] for unit in result.ledger]), fill, {"units": rows})


def _attempt(
    compute: Callable[[list[Unit]], BlockResult], units: list[Unit], keys: Sequence[SliceKey], ledger: SliceKey
) -> BlockResult:
    """The result of a block, its frames complete; after an unexpected error, of its units one by one."""
    try:
        result = compute(list(units))
        if set(result.tables) != {key.table for key in keys}:
            expected = sorted(key.table for key in keys)
            raise ValueError(f"the stage gave tables {sorted(result.tables)} in place of {expected}")
        if set(result.ledger) != set(units):
            raise ValueError("the stage did not give exactly one outcome for every unit of the block")
        tables = {key.table: _complete(key, result.tables[key.table]) for key in keys}
        for table, frame in tables.items():
            if not frame.filter(~of_units(units)).is_empty():
                raise ValueError(f"the stage gave rows of table {table} for units that are not in the block")
        return BlockResult(tables, {unit: result.ledger[unit] for unit in units})
    except (N2GError, OSError, MemoryError):
        raise
    except Exception as error:
        if len(units) == 1:
            logger.exception("%s: unit %s of layer %d failed.", ledger.part, str(units[0]), ledger.layer)
            empty = {key.table: TABLES[key.table].empty() for key in keys}
            return BlockResult(empty, {units[0]: Outcome("failed", _reason(error))})
        logger.warning("%s: %d units failed together (%s): trying one by one.", ledger.part, len(units), error)
    results = [_attempt(compute, [unit], keys, ledger) for unit in units]
    tables = {key.table: pl.concat([result.tables[key.table] for result in results]) for key in keys}
    return BlockResult(tables, {unit: outcome for result in results for unit, outcome in result.ledger.items()})


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    message = _PATH.sub(r"\1", lines[0])
    return f"{type(error).__name__}: {message}"[:_REASON_LENGTH]
