"""``kill -9`` in any stage, then the same command: it goes on, and ends with the rows of an undisturbed run."""

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.core.tables import TABLES
from n2g_assets.storage.slices import SliceStore

KILLED_AT = 110
"""Every try dies this many files further on: in the corpus, the shards, the blocks, the slices and the database."""
SCRIPT = Path(__file__).with_name("killed_run.py")


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_rows(finished, tmp_path):
    home = tmp_path / "home"
    deaths = 0
    while True:
        command = [sys.executable, "-m", "n2g_assets_tests.assets.killed_run", finished.study.folder, home, KILLED_AT]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=SCRIPT.parents[2], check=False
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        deaths += 1
    assert deaths >= 3
    undisturbed, killed = SliceStore(Home(finished.home)), SliceStore(Home(home))
    assert killed.keys("tiny") == undisturbed.keys("tiny")
    for table in TABLES:
        before = undisturbed.scan_all(table, "tiny").collect()
        after = killed.scan_all(table, "tiny").collect()
        floats = _floats(before)
        assert after.drop(floats).equals(before.drop(floats)), table
        for column in floats:
            assert _close(before[column], after[column]), f"{table}.{column}"


def _floats(frame: pl.DataFrame) -> list[str]:
    inner = {name: dtype.inner if isinstance(dtype, pl.List) else dtype for name, dtype in frame.schema.items()}
    return [name for name, dtype in inner.items() if dtype.is_float()]


def _close(before: pl.Series, after: pl.Series) -> bool:
    if isinstance(before.dtype, pl.List):
        if before.list.len().to_list() != after.list.len().to_list():
            return False
        before, after = before.explode(), after.explode()
    apart = (before - after).abs()
    return before.is_null().equals(after.is_null()) and bool((apart.drop_nulls() <= 1e-4 * before.abs().max()).all())
