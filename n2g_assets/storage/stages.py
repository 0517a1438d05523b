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

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from n2g_assets.core.errors import N2GError
from n2g_assets.core.progress import Progress
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.method.results import BlockResult, Outcome
from n2g_assets.storage.cache import Cache, Entry
from n2g_assets.storage.files import LOCK_TIMEOUT, write_parquet
from n2g_assets.storage.hashing import hash_json, schema_hash, unit_rows_hashes
from n2g_assets.storage.slices import Manifest, SliceStore

__all__ = ["StageReport", "fill_units", "unit_rows_hashes"]

logger = logging.getLogger(__name__)

_PATH = re.compile(r"(?<!\w)~?(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\":,;()]+[\\/])*([^\s\\/'\":,;()]*)")
_REASON_LENGTH = 300


@dataclass(frozen=True)
class StageReport:
    """What ``fill_units`` did."""

    stage: str
    study: str
    layer: int
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
    input_hash: str


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
    lock_timeout: float = LOCK_TIMEOUT,
) -> StageReport:
    """Brings the slices of one stage and layer up to date; a second run of the same waits for the first.

    Args:
        store: where slices and checkpoints lie.
        stage: name of the stage: the part of its ledger slice.
        tables: the tables that it writes, all of them by unit.
        study: whose units they are.
        layer: of the units.
        code_version: changes when the stage's code would give other rows.
        settings_hash: hash of the settings that the stage reads.
        units: the units asked for; others that a slice holds are dropped from it.
        unit_inputs: by unit, the hash of its input rows (``unit_rows_hashes``); carried units need none.
        carried: units that an earlier stage ended, with their outcome there.
        compute: rows and outcomes of a block of units; the frames leave ``study`` and ``layer`` out.
        block_size: units of a block; does not change the rows.
        progress: called with units done and units asked for, at the start and after each block.
        retry_failed: compute units again that failed in this stage before; else they keep that status.
        lock_timeout: seconds to wait for another run of this stage and layer.

    Raises:
        StorageError: another run holds the slice, the disk is full, or rows do not fit their table.
        N2GError: whatever of this kind ``compute`` raises.
    """
    started = time.perf_counter()
    units = list(units)
    if len(set(units)) != len(units):
        raise ValueError(f"units of stage {stage} repeat")
    common = [stage, code_version, settings_hash, schema_hash([*tables, "ledger"])]
    hashes = {unit: hash_json([*common, *_origin(unit, unit_inputs, carried)]) for unit in units}
    input_hash = hash_json([*common, [[str(unit), hashes[unit]] for unit in units]])
    ended = {unit: outcome for unit, outcome in carried.items() if unit in hashes}
    work = _Work(store, stage, tuple(tables), study, layer, code_version, hashes, input_hash)
    with store.lock(f"{stage}/{study}/{layer}", lock_timeout):
        manifests = work.manifests()
        before = work.outcomes_of_slice(manifests)
        again = {unit for unit, outcome in before.items() if outcome.status == "failed"} if retry_failed else set()
        again -= ended.keys()
        unchanged = all(manifest and manifest.input_hash == input_hash for manifest in manifests.values())
        if unchanged and not again:
            work.remove_checkpoints()
            progress(len(units), len(units))
            return work.report(manifests, before, computed=None, carried=len(ended))

        outcomes = dict(ended)
        from_slice = {unit: outcome for unit, outcome in before.items() if unit not in again and unit not in ended}
        outcomes |= from_slice
        blocks = [block.without(outcomes.keys() | again) for block in work.checkpoints()]
        for block in blocks:
            outcomes |= {unit: block.outcomes[unit] for unit in block.units}
        missing = [unit for unit in units if unit not in outcomes]
        progress(len(outcomes), len(units))
        for start in range(0, len(missing), block_size):
            part = missing[start : start + block_size]
            result = _attempt(compute, part, work)
            blocks.append(work.checkpoint(part, result))
            outcomes |= {unit: result.ledger[unit] for unit in part}
            progress(len(outcomes), len(units))

        written = work.write(from_slice, blocks, outcomes, seconds=time.perf_counter() - started)
        work.remove_checkpoints()
        return work.report(written, outcomes, computed=len(missing), carried=len(ended))


@dataclass(frozen=True)
class _Block:
    """A finished block on disk, and those of its units whose rows count."""

    entry: Entry
    outcomes: dict[Unit, Outcome]
    units: frozenset[Unit]

    def without(self, units: Iterable[Unit]) -> _Block:
        return _Block(self.entry, self.outcomes, self.units.difference(units))


@dataclass
class _Work:
    """The files of one stage, study and layer."""

    store: SliceStore
    stage: str
    tables: tuple[str, ...]
    study: str
    layer: int
    code_version: str
    hashes: dict[Unit, str]
    """By unit, in the order asked."""
    input_hash: str

    def __post_init__(self) -> None:
        self.cache = Cache(self.store.home)
        self.kind = f"blocks/{self.stage}/{self.study}/{self.layer}"

    # ------------------------------------------------------------------------------------ slices
    def manifests(self) -> dict[str, Manifest | None]:
        """The manifests of the stage's slices, the ledger's last; None for one that is not there or damaged."""
        found = {table: self.store.manifest(table, self.study, self.layer) for table in self.tables}
        return found | {"ledger": self.store.manifest("ledger", self.study, self.layer, self.stage)}

    def outcomes_of_slice(self, manifests: Mapping[str, Manifest | None]) -> dict[Unit, Outcome]:
        """The units asked for whose hash every slice holds, with their outcome."""
        whole = [manifest for manifest in manifests.values() if manifest is not None]
        if len(whole) < len(manifests):
            return {}
        columns = ["unit", "sign", "status", "reason"]
        rows = self.store.read("ledger", self.study, self.layer, self.stage, columns=columns).iter_rows()
        outcomes = {Unit(number, sign): Outcome(status, reason) for number, sign, status, reason in rows}
        return {
            unit: outcomes[unit]
            for unit, wanted in self.hashes.items()
            if unit in outcomes and all(manifest.unit_hashes.get(str(unit)) == wanted for manifest in whole)
        }

    def write(
        self,
        from_slice: Collection[Unit],
        blocks: Sequence[_Block],
        outcomes: Mapping[Unit, Outcome],
        *,
        seconds: float,
    ) -> dict[str, Manifest | None]:
        """Writes every table's slice from the old slice and the blocks, one after another, and the ledger last."""
        common: dict[str, Any] = {
            "study": self.study,
            "layer": self.layer,
            "input_hash": self.input_hash,
            "code_version": self.code_version,
            "seconds": seconds,
            "unit_hashes": {str(unit): unit_hash for unit, unit_hash in self.hashes.items()},
        }
        written: dict[str, Manifest | None] = {}
        for table in self.tables:
            frames = [TABLES[table].empty()]
            if from_slice:
                frames.append(_only(self.store.read(table, self.study, self.layer), from_slice))
            paths = [block.entry.path(f"{table}.parquet") for block in blocks]
            stored = [pl.read_parquet(path, glob=False, hive_partitioning=False) for path in paths]
            frames += [_only(frame, block.units) for frame, block in zip(stored, blocks, strict=True)]
            written[table] = self.store.write(table, pl.concat(frames), **common)
        ledger = pl.DataFrame(
            [
                (unit.number, unit.sign, self.stage, outcomes[unit].status, outcomes[unit].reason)
                for unit in self.hashes
            ],
            schema=["unit", "sign", "stage", "status", "reason"],
            orient="row",
        )
        written["ledger"] = self.store.write("ledger", self.complete("ledger", ledger), part=self.stage, **common)
        return written

    def complete(self, table: str, frame: pl.DataFrame) -> pl.DataFrame:
        """A frame of the method with the columns that it leaves out, checked against its table."""
        key = {"study": pl.lit(self.study), "layer": pl.lit(self.layer, pl.Int32)}
        return TABLES[table].conform(frame.with_columns(**key))

    # ------------------------------------------------------------------------------------ checkpoints
    def checkpoint(self, units: Sequence[Unit], result: BlockResult) -> _Block:
        """Saves a finished block, whole or not at all."""

        def fill(folder: Path) -> None:
            for table, frame in result.tables.items():
                write_parquet(self.complete(table, frame), folder / f"{table}.parquet")

        rows = [[*unit, self.hashes[unit], result.ledger[unit].status, result.ledger[unit].reason] for unit in units]
        key = hash_json([self.hashes[unit] for unit in units])
        entry = self.cache.write(self.kind, key, fill, {"units": rows})
        return _Block(entry, {unit: result.ledger[unit] for unit in units}, frozenset(units))

    def checkpoints(self) -> list[_Block]:
        """The blocks that an earlier run finished, with those of their units whose hash still holds, each unit once."""
        blocks: list[_Block] = []
        seen: set[Unit] = set()
        for key, about in self.cache.listing(self.kind).items():
            rows = {Unit(number, sign): rest for number, sign, *rest in about["units"]}
            outcomes = {unit: Outcome(status, reason) for unit, (_, status, reason) in rows.items()}
            valid = {unit for unit, (unit_hash, *_) in rows.items() if self.hashes.get(unit) == unit_hash} - seen
            entry = self.cache.find(self.kind, key) if valid else None
            if entry is not None:  # the rows of other blocks are of other inputs or another version
                blocks.append(_Block(entry, outcomes, frozenset(valid)))
                seen |= valid
        return blocks

    def remove_checkpoints(self) -> None:
        """Removes all blocks: their rows are in the slices."""
        self.cache.remove(self.kind)

    # ------------------------------------------------------------------------------------ report
    def report(
        self,
        manifests: Mapping[str, Manifest | None],
        outcomes: Mapping[Unit, Outcome],
        *,
        computed: int | None,
        carried: int,
    ) -> StageReport:
        """What was done, and what is there now; ``computed`` is None where everything was there already."""
        whole = {table: manifest for table, manifest in manifests.items() if manifest is not None}
        return StageReport(
            stage=self.stage,
            study=self.study,
            layer=self.layer,
            reused=computed is None,
            computed=computed or 0,
            kept=len(outcomes) - carried - (computed or 0),
            carried=carried,
            seconds=whole["ledger"].seconds,
            rows={table: manifest.rows for table, manifest in whole.items()},
            ledger=dict(Counter(outcome.status for outcome in outcomes.values())),
            content_hashes={table: manifest.content_hash for table, manifest in whole.items()},
            input_hash=self.input_hash,
        )


def _origin(unit: Unit, unit_inputs: Mapping[Unit, str], carried: Mapping[Unit, Outcome]) -> list[str]:
    outcome = carried.get(unit)
    origin = ["rows", unit_inputs[unit]] if outcome is None else ["carried", outcome.status, outcome.reason]
    return [str(unit), *origin]


def _attempt(compute: Callable[[list[Unit]], BlockResult], units: Sequence[Unit], work: _Work) -> BlockResult:
    """The result of a block; after an unexpected error, of its units one by one."""
    try:
        result = compute(list(units))
        _check(result, units, work.tables)
        return result
    except (N2GError, OSError, MemoryError):
        raise
    except Exception as error:
        if len(units) > 1:
            logger.warning("%s: %d units failed together (%s): trying one by one.", work.stage, len(units), error)
        else:
            logger.exception("%s: unit %s of layer %d failed.", work.stage, str(units[0]), work.layer)
            empty = {table: TABLES[table].empty().drop("study", "layer") for table in work.tables}
            return BlockResult(empty, {units[0]: Outcome("failed", _reason(error))})
    results = [_attempt(compute, [unit], work) for unit in units]
    tables = {
        table: pl.concat([work.complete(table, result.tables[table]) for result in results]) for table in work.tables
    }
    return BlockResult(tables, {unit: result.ledger[unit] for unit, result in zip(units, results, strict=True)})


def _check(result: BlockResult, units: Sequence[Unit], tables: Sequence[str]) -> None:
    if set(result.tables) != set(tables):
        raise ValueError(f"the stage gave tables {sorted(result.tables)} in place of {sorted(tables)}")
    if set(result.ledger) != set(units):
        raise ValueError("the stage did not give exactly one outcome for every unit of the block")
    for table, frame in result.tables.items():
        if len(_only(frame, units)) != len(frame):
            raise ValueError(f"the stage gave rows of table {table} for units that are not in the block")


def _only(frame: pl.DataFrame, units: Iterable[Unit]) -> pl.DataFrame:
    wanted = pl.DataFrame(list(units), schema={"unit": pl.Int64, "sign": pl.Int64}, orient="row")
    key = [pl.col("unit").cast(pl.Int64), pl.col("sign").cast(pl.Int64)]
    return frame.join(wanted, left_on=key, right_on=["unit", "sign"], how="semi", maintain_order="left")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    message = _PATH.sub(r"\1", lines[0])
    return f"{type(error).__name__}: {message}"[:_REASON_LENGTH]
