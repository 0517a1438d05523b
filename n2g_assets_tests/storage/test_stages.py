from __future__ import annotations

import dataclasses
import itertools
import json
import random
import signal
from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import SettingsError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.table import Column
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.method.results import BlockResult, Outcome
from n2g_assets.storage.cache import Cache, Entry, sweep
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.stages import StageReport
from n2g_assets_tests.storage.helpers import (
    UNITS,
    compute,
    expect,
    files_below,
    fill,
    forge,
    largest_file,
    start,
    tell,
)

KEYS = [SliceKey("rules", "demo", 7), SliceKey("ledger", "demo", 7, "neuron_graphs")]
INPUTS = {unit: f"input {unit.number}" for unit in UNITS}


class Counting:
    """A stage that remembers which units it was asked for, and can be told to fail."""

    def __init__(self, fails: dict[Unit, Exception] | None = None) -> None:
        self.blocks: list[list[Unit]] = []
        self.fails = fails or {}

    def __call__(self, units: list[Unit]) -> BlockResult:
        self.blocks.append(units)
        for unit in units:
            if unit in self.fails:
                raise self.fails[unit]
        return compute(units)

    @property
    def units(self) -> set[Unit]:
        return set(itertools.chain.from_iterable(self.blocks))


def slices_of(store: SliceStore) -> tuple[pl.DataFrame, pl.DataFrame]:
    rules, ledger = map(store.read, KEYS)
    return rules, ledger


def undisturbed(tmp_path_factory: pytest.TempPathFactory, **changes: object) -> StageReport:
    return fill(SliceStore(Home(tmp_path_factory.mktemp("other"))), **changes)


def test_every_unit_gets_its_rows_and_its_ledger_row(store: SliceStore) -> None:
    seen: list[tuple[int, int]] = []
    report = fill(store, progress=lambda done, total: seen.append((done, total)))
    rules, ledger = slices_of(store)
    assert rules.group_by("unit").len().sort("unit").rows() == [
        (0, 1), (1, 2), (3, 1), (5, 3), (7, 2), (8, 3), (9, 1)
    ]  # fmt: skip
    assert rules["study"].unique().to_list() == ["demo"]
    assert rules["layer"].unique().to_list() == [7]
    assert ledger.select("unit", "stage", "status", "reason").rows() == [
        (neuron, "neuron_graphs", "ok", "") for neuron in (0, 1, 3, 5, 7, 8, 9)
    ]
    assert (report.reused, report.computed, report.kept, report.carried) == (False, 7, 0, 0)
    assert report.rows == {"rules": 13, "ledger": 7}
    assert report.ledger == {"ok": 7}
    assert seen == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]
    assert not (store.home.cache / "blocks" / "neuron_graphs" / "demo" / "7").exists()


def test_the_same_again_is_reused_and_says_so(store: SliceStore) -> None:
    first, again = fill(store), Counting()
    report = fill(store, compute=again)
    assert report.reused
    assert again.blocks == []
    assert (report.computed, report.kept) == (0, 7)
    assert dataclasses.replace(report, reused=False, computed=7, kept=0) == first  # the seconds of the first run too


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({"code_version": "2"}, set(UNITS)),
        ({"settings_hash": "t"}, set(UNITS)),
        ({"unit_inputs": {**INPUTS, Unit(3, 1): "new"}}, {Unit(3, 1)}),
        ({"units": [*UNITS, Unit(3, -1)]}, {Unit(3, -1)}),
        ({"units": UNITS[2:]}, set()),
        ({"block_size": 5}, set()),
    ],
)
def test_only_units_whose_code_settings_or_input_changed_are_computed(
    store: SliceStore, tmp_path_factory: pytest.TempPathFactory, change: dict, computed: set[Unit]
) -> None:
    fill(store)
    again = Counting()
    report = fill(store, compute=again, **change)
    assert again.units == computed
    assert report.computed == len(computed)
    assert report.content_hashes == undisturbed(tmp_path_factory, **change).content_hashes


def test_carried_units_are_not_computed_and_keep_their_outcome(store: SliceStore) -> None:
    carried = {Unit(3, 1): Outcome("dead", "a_max is 0"), Unit(77, 1): Outcome("dead", "not asked for")}
    stage = Counting()
    report = fill(store, carried=carried, compute=stage, unit_inputs={u: INPUTS[u] for u in UNITS if u.number != 3})
    assert stage.units == set(UNITS) - {Unit(3, 1)}
    assert (report.computed, report.carried, report.ledger) == (6, 1, {"dead": 1, "ok": 6})
    rules, ledger = slices_of(store)
    assert 3 not in rules["unit"].to_list()
    assert ledger.filter(pl.col("unit") == 3).select("status", "reason").row(0) == ("dead", "a_max is 0")
    alive = fill(store, compute=(again := Counting()))
    assert again.units == {Unit(3, 1)}
    assert (alive.carried, alive.ledger) == (0, {"ok": 7})


def test_a_unit_that_raises_alone_is_failed_and_the_others_of_its_block_are_not(
    store: SliceStore, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Counting({Unit(3, 1): RuntimeError("no peak in /home/someone/models/x.bin: odd\nsecond line")})
    report = fill(store, compute=stage)
    assert report.ledger == {"ok": 6, "failed": 1}
    rules, ledger = slices_of(store)
    failed = ledger.filter(pl.col("status") == "failed").select("unit", "reason").rows()
    assert failed == [(3, "RuntimeError: no peak in x.bin: odd")]
    assert 9 in rules["unit"].to_list()
    assert "Traceback" in caplog.text
    assert fill(store, compute=Counting()).reused


def test_failed_units_are_tried_again_when_asked(store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    fill(store, compute=Counting({Unit(3, 1): RuntimeError("out of memory")}))
    stage = Counting()
    report = fill(store, compute=stage, retry_failed=True)
    assert stage.units == {Unit(3, 1)}
    assert report.content_hashes == undisturbed(tmp_path_factory).content_hashes
    assert fill(store, compute=stage, retry_failed=True).reused


@pytest.mark.parametrize("error", [SettingsError("x"), OSError("x"), MemoryError("x"), KeyboardInterrupt()])
def test_what_no_unit_is_to_blame_for_ends_the_run_and_keeps_what_was_finished(
    store: SliceStore, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        fill(store, compute=Counting({UNITS[4]: error}))
    again = Counting()
    report = fill(store, compute=again)
    assert again.units == set(UNITS[4:])
    assert (report.computed, report.kept) == (3, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda units: BlockResult({}, compute(units).ledger),
        lambda units: BlockResult(compute(units).tables, {}),
        lambda units: BlockResult(compute([*units, Unit(66, 1)]).tables, compute(units).ledger),
    ],
)
def test_a_stage_that_loses_a_unit_or_makes_rows_of_another_is_found_out(store: SliceStore, wrong) -> None:
    assert fill(store, compute=wrong).ledger == {"failed": 7}


def test_a_stage_that_writes_other_columns_ends_the_run(store: SliceStore) -> None:
    def wrong(units: list[Unit]) -> BlockResult:
        return BlockResult({"rules": compute(units).tables["rules"].drop("pattern")}, compute(units).ledger)

    with pytest.raises(StorageError, match="pattern"):
        fill(store, compute=wrong)


def test_a_full_disk_keeps_the_old_slice_and_the_finished_blocks(store: SliceStore) -> None:
    fill(store)
    before = slices_of(store)

    def big(units: list[Unit]) -> BlockResult:
        result = compute(units)
        if UNITS[4] in units:
            noise = random.Random(0).randbytes(60_000).hex()
            return BlockResult({"rules": result.tables["rules"].with_columns(pattern=pl.lit(noise))}, result.ledger)
        return result

    with largest_file(20_000), pytest.raises(StorageError, match="disk is full"):
        fill(store, compute=big, code_version="2")
    after = slices_of(store)
    assert after[0].equals(before[0])
    assert after[1].equals(before[1])
    assert not [name for name in files_below(store.home.root) if ".tmp" in name]
    again = Counting()
    fill(store, compute=again, code_version="2")
    assert again.units == set(UNITS[4:])


def test_a_damaged_slice_or_checkpoint_is_computed_again(store: SliceStore) -> None:
    first = fill(store)
    store.path(KEYS[0]).write_bytes(b"PAR1 nonsense")
    report = fill(store)
    assert (report.computed, report.content_hashes) == (7, first.content_hashes)
    with pytest.raises(OSError, match="x"):
        fill(store, compute=Counting({UNITS[4]: OSError("x")}), code_version="2")
    one = sorted(store.home.cache.glob("blocks/neuron_graphs/demo/7/*/rules.parquet"))[0]
    one.write_bytes(one.read_bytes()[:-9])
    report = fill(store, code_version="2")
    assert (report.computed, report.kept) == (5, 2)
    assert report.content_hashes == first.content_hashes


@given(
    first=st.permutations(UNITS).flatmap(lambda units: st.integers(1, 7).map(lambda n: units[:n])),
    stops=st.integers(0, 6),
    second=st.permutations(UNITS).flatmap(lambda units: st.integers(1, 7).map(lambda n: units[:n])),
    changed=st.sets(st.sampled_from(UNITS)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@example(first=UNITS[:1], stops=0, second=UNITS[:2], changed=set(UNITS), sizes=(1, 1))
@settings(max_examples=12, deadline=None)
def test_any_history_ends_with_the_rows_of_an_undisturbed_run(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[Unit],
    stops: int,
    second: list[Unit],
    changed: set[Unit],
    sizes: tuple[int, int],
) -> None:
    store = SliceStore(Home(tmp_path_factory.mktemp("history")))
    fails = {UNITS[stops]: OSError("stop")}
    with_stop = Counting(fails)
    try:
        fill(store, units=first, compute=with_stop, block_size=sizes[0])
    except OSError:
        assert UNITS[stops] in first
    inputs = {unit: "new" if unit in changed else text for unit, text in INPUTS.items()}
    report = fill(store, units=second, unit_inputs=inputs, block_size=sizes[1])
    other = SliceStore(Home(tmp_path_factory.mktemp("other")))
    assert report.content_hashes == fill(other, units=second, unit_inputs=inputs).content_hashes
    for key in KEYS:
        assert store.manifest(key).input_hash == other.manifest(key).input_hash


KILLED = """
import os, signal, sys
from pathlib import Path
from n2g_assets.core.home import Home
from n2g_assets.storage.files import temporary_folder
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.storage.helpers import UNITS, compute, fill
home = Home(Path(sys.argv[1]))
def stage(units):
    if UNITS[4] in units:
        with temporary_folder(home.slices / "rules"):
            os.kill(os.getpid(), signal.SIGKILL)
    return compute(units)
fill(SliceStore(home), compute=stage, code_version="2")
"""


def test_after_kill_9_the_same_command_goes_on_and_gives_the_same_rows(
    store: SliceStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fill(store, code_version="1")
    process = start(KILLED, store.home.root)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(sweep(store.home)) == 1, "what the dead writer held"
    again = Counting()
    report = fill(store, compute=again, code_version="2")
    assert again.units == set(UNITS[4:])
    assert report.content_hashes == undisturbed(tmp_path_factory, code_version="2").content_hashes
    assert not [name for name in files_below(store.home.cache) if "blocks" in name]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("table", ["rules", "ledger"])
def test_after_a_kill_between_two_slices_nothing_is_computed_again(
    store: SliceStore, tmp_path_factory: pytest.TempPathFactory, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, code_version="1")
    write = store.write

    def write_and_die(key: SliceKey, *rest: object, **named: object) -> object:
        manifest = write(key, *rest, **named)
        if key.table == table:
            raise Killed
        return manifest

    monkeypatch.setattr(store, "write", write_and_die)
    with pytest.raises(Killed):
        fill(store, code_version="2")
    again = Counting()
    report = fill(SliceStore(store.home), compute=again, code_version="2")
    assert again.units == set()
    assert report.content_hashes == undisturbed(tmp_path_factory, code_version="2").content_hashes


TWO = """
import dataclasses, json, logging, sys
from pathlib import Path
from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.storage.helpers import UNITS, compute, fill
class Says(logging.Handler):
    def emit(self, record):
        print("waiting" if record.getMessage().startswith("Waiting for neuron_graphs/demo/7") else "?", flush=True)
logging.getLogger("n2g_assets").addHandler(Says())
def stage(units):
    if UNITS[0] in units:
        print("computing", flush=True)
        sys.stdin.readline()
    return compute(units)
print(json.dumps(dataclasses.asdict(fill(SliceStore(Home(Path(sys.argv[1]))), compute=stage))), flush=True)
"""


def test_other_columns_of_a_table_make_slices_and_checkpoints_stale(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    with pytest.raises(StorageError):
        fill(store, compute=Counting({UNITS[-1]: StorageError("stop")}), code_version="2")
    column = Column("new", pl.Int32, "new")
    wider = dataclasses.replace(TABLES["rules"], columns=(*TABLES["rules"].columns, column))
    monkeypatch.setitem(TABLES, "rules", wider)
    again = Counting()

    def compute_wider(units: list[Unit]) -> BlockResult:
        result = again(units)
        return BlockResult({"rules": result.tables["rules"].with_columns(new=pl.lit(1, pl.Int32))}, result.ledger)

    report = fill(store, compute=compute_wider, code_version="2")
    assert (report.computed, report.kept) == (7, 0)
    assert again.units == set(UNITS)
    assert store.read(KEYS[0])["new"].to_list() == [1] * 13


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_slice_that_lacks_a_column_is_computed_again(store: SliceStore, key: SliceKey) -> None:
    first = fill(store)
    lacking = BytesIO()
    pl.read_parquet(store.path(key), glob=False).drop(TABLES[key.table].columns[-1].name).write_parquet(lacking)
    forge(store, key, lacking.getvalue())
    report = fill(store)
    assert (report.computed, report.content_hashes) == (7, first.content_hashes)
    assert fill(store).reused


def test_shares_of_the_units_are_computed_ahead_in_any_order_and_taken_over(store: SliceStore) -> None:
    undisturbed = fill(SliceStore(Home(store.home.root / "undisturbed")))
    computed = Counting()
    for share in (UNITS[4:], UNITS[:2], UNITS[4:]):  # one twice, as after a worker's death
        assert fill(store, compute=computed, share=share) is None
    assert computed.units == {*UNITS[4:], *UNITS[:2]}
    assert store.manifest(KEYS[0]) is None
    rest = Counting()
    report = fill(store, compute=rest)
    assert rest.units == set(UNITS[2:4])
    assert (report.computed, report.kept, report.content_hashes) == (2, 5, undisturbed.content_hashes)


def test_of_two_runs_that_share_no_lock_the_overtaken_one_takes_over_what_the_other_finished(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines: while one computes its last block, the other finishes everything and removes the checkpoints."""
    computed = Counting()

    def overtaken(units: list[Unit]) -> BlockResult:
        if UNITS[-1] in units:
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(SliceStore, "lock", lambda self, name: nullcontext())
                assert fill(store).computed == 3  # the four of the first two blocks are taken over from here
        return computed(units)

    with monkeypatch.context() as here:
        here.setattr(SliceStore, "lock", lambda self, name: nullcontext())
        report = fill(store, compute=overtaken)
    assert report.ledger == {"ok": 7}
    assert fill(store).reused
    assert store.read(KEYS[0]).height == 13


def test_a_checkpoint_that_a_run_is_writing_outlives_the_end_of_one_on_another_machine(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, at_once = Cache.write, []

    def overtaken(self: Cache, kind: str, key: str, fill_folder: Callable[[Path], object], about: Any) -> Entry:
        def while_the_other_ends(folder: Path) -> None:
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(Cache, "write", write)
                at_once.append(fill(store).computed)
            fill_folder(folder)

        return write(self, kind, key, while_the_other_ends, about)

    with monkeypatch.context() as here:
        here.setattr(SliceStore, "lock", lambda self, name: nullcontext())
        here.setattr(Cache, "write", overtaken)
        report = fill(store)
    assert at_once == [7, 0, 0, 0]
    assert report.ledger == {"ok": 7}
    assert store.read(KEYS[0]).height == 13


def test_of_two_runs_on_one_slice_the_second_waits_and_then_reuses(store: SliceStore) -> None:
    with start(TWO, store.home.root) as first:
        expect(first, "computing")
        with start(TWO, store.home.root) as second:
            expect(second, "waiting")
            tell(first)
            reports = [json.loads(process.stdout.readline()) for process in (first, second)]
    assert [report["reused"] for report in reports] == [False, True]
    assert reports[0]["content_hashes"] == reports[1]["content_hashes"]


def test_every_table_of_a_stage_can_be_empty(store: SliceStore) -> None:
    def nothing(units: list[Unit]) -> BlockResult:
        empty = {name: TABLES[name].empty().drop("study", "layer") for name in ("rules", "graph_nodes")}
        return BlockResult(empty, {unit: Outcome("too_few_contexts", "3 of 5") for unit in units})

    report = fill(store, tables=["rules", "graph_nodes"], compute=nothing)
    assert report.rows == {"rules": 0, "graph_nodes": 0, "ledger": 7}
    assert report.ledger == {"too_few_contexts": 7}
    assert fill(store, tables=["rules", "graph_nodes"], compute=nothing).reused


def test_no_units_at_all_is_an_empty_slice(store: SliceStore) -> None:
    report = fill(store, units=[])
    assert report.rows == {"rules": 0, "ledger": 0}
