"""A run that dies in any stage, then the same command: it goes on, and ends with the rows of an undisturbed run.

Deaths are exceptions of the replacing call; real kills are in ``storage/test_stages`` and ``test_warehouse_faults``.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.core.registry import STAGES
from n2g_assets.core.tables import TABLES
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.assets.studies import run_stages
from n2g_assets_tests.storage.helpers import rows_of_all

LAYER = 1
FILES = 2 * (max(len(stage.tables) for stage in STAGES) + 1)
"""Moved into place one after another when the largest stage ends: rows and manifest of its tables and its ledger."""


class Death(BaseException):
    """What nothing catches, as a kill."""


def die() -> None:
    raise Death


def before_the(nth: int, die: Callable[[], None], name: str = "replace") -> Callable[..., Any]:
    """``os.replace`` or ``os.rename``, which dies before its n-th call."""
    call, seen = getattr(os, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == nth:
            die()
        return call(*args, **kwargs)

    return counting


def test_a_run_that_dies_again_and_again_ends_with_the_same_rows(finished, tmp_path, monkeypatch):
    """Every try dies some files further on: in the corpus, the shards, the blocks and the slices of every stage."""
    home, deaths = tmp_path / "home", 0
    while True:
        with monkeypatch.context() as patched:
            for name in ("replace", "rename"):
                patched.setattr(os, name, before_the(FILES + 1 if name == "replace" else 5, die, name))
            try:
                run_stages(finished.study, home, [LAYER])
                break
            except Death:
                deaths += 1
    assert deaths >= 6
    assert_same_rows(finished.home, home)


def assert_same_rows(undisturbed_home: Path, killed_home: Path) -> None:
    undisturbed, killed = SliceStore(Home(undisturbed_home)), SliceStore(Home(killed_home))
    assert killed.keys("tiny") == [key for key in undisturbed.keys("tiny") if key.layer in (None, LAYER)]
    for table in TABLES.values():
        before, after = (rows_of_all(store, table.name, "tiny") for store in (undisturbed, killed))
        if table.scope == "layer":
            before = before.filter(layer=LAYER)
        floats = _floats(before)
        assert after.drop(floats).equals(before.drop(floats)), table.name
        for column in floats:
            assert _close(before[column], after[column]), f"{table.name}.{column}"


def _floats(frame: pl.DataFrame) -> list[str]:
    inner = {name: dtype.inner if isinstance(dtype, pl.List) else dtype for name, dtype in frame.schema.items()}
    return [name for name, dtype in inner.items() if dtype.is_float()]


def _close(before: pl.Series, after: pl.Series) -> bool:
    if isinstance(before.dtype, pl.List):
        if before.list.len().to_list() != after.list.len().to_list():
            return False
        before, after = before.explode(), after.explode()
    apart = (before - after).abs()
    return before.is_null().equals(after.is_null()) and bool(
        (apart.drop_nulls() <= 1e-4 * (before.abs().max() or 0)).all()
    )
