"""All benchmarks, one after the other: one table, and the same rows in ``$N2G_HOME/bench.json``.

1. Each benchmark runs in a process of its own, which gives its memory and threads back, and hands over its rows.
2. One that fails is named with its cause; the others go on, and the exit status is 1.
3. The table shows every row, a mark where its goal is not met, and the ratio of the run before where there was one.
4. ``bench.json`` is replaced as a whole; with ``--only`` the rows of the other benchmarks stay in it.

In every row more is better: see ``rows.py``. Goals that are missed are no failure, since machines differ.

    python benchmarks/bench.py                   # on what the demo stores
    python benchmarks/bench.py --only predict --only workers
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import KEYS, check

from n2g_assets.core.errors import N2GError
from n2g_assets.core.home import Home

FOLDER = Path(__file__).parent
BENCHMARKS = (
    "harvest", "shortlist", "evidence", "latents", "suffixes", "prober", "graphs", "classes", "scaling", "predict",
    "evaluation", "workers",
)  # fmt: skip
"""Modules beside this one, each with ``rows(home) -> list of rows``, in the order in which they run."""
MISSED = "below its goal"


def run_here(name: str, home: Home, answer: Path) -> None:
    """Runs one benchmark in this process, and writes what came out to ``answer``."""
    try:
        found = importlib.import_module(name).rows(home)
        for one in found:
            check(one)
        outcome: dict[str, Any] = {"rows": found}
    except N2GError as error:
        outcome = {"error": str(error)}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        outcome = {"error": f"{type(error).__name__}: {error}"}
    answer.write_text(json.dumps(outcome), encoding="utf-8")


def run_apart(name: str, folder: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Runs one benchmark in a process of its own; its rows, or none and the cause."""
    with tempfile.TemporaryDirectory() as temporary:
        answer = Path(temporary) / "rows.json"
        command = [sys.executable, __file__, "--folder", str(folder), "--run", name, "--answer", str(answer)]
        status = subprocess.run(command, check=False).returncode
        if not answer.exists():
            return [], f"its process ended with status {status}" + (" (out of memory?)" if status == -9 else "")
        outcome = json.loads(answer.read_text(encoding="utf-8"))
    return outcome.get("rows", []), outcome.get("error")


def read_former(path: Path) -> list[dict[str, Any]]:
    """The rows of the run before; none if there was none or they cannot be read."""
    try:
        former = json.loads(path.read_text(encoding="utf-8"))
        for one in former:
            check(one)
    except (OSError, ValueError, TypeError):
        return []
    return former


def merged(former: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The former rows, each replaced by the one of its name that was found, and new ones behind them."""
    by_name = {one["name"]: dict(one) for one in former}
    by_name |= {one["name"]: dict(one) for one in found}
    return list(by_name.values())


def table(found: Sequence[Mapping[str, Any]], former: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a terminal."""
    import polars as pl

    from n2g_assets.report.text import table_text

    before = {one["name"]: one["ratio"] for one in former}
    columns: dict[str, list[str]] = {"name": [one["name"] for one in found]}
    for key in KEYS[1:]:
        columns |= _to_the_right(key, [_number(one[key]) for one in found])
    if any(one["name"] in before for one in found):
        columns |= _to_the_right("before", [_number(before.get(one["name"])) for one in found])
    if any(one["ratio"] < one["goal"] for one in found):
        columns[""] = ["" if one["ratio"] >= one["goal"] else MISSED for one in found]
    return table_text(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)))


def _to_the_right(name: str, cells: list[str]) -> dict[str, list[str]]:
    width = max(map(len, [name, *cells]))
    return {name.rjust(width): [cell.rjust(width) for cell in cells]}


def _number(value: float | None) -> str:
    """With three figures at least."""
    if value is None:
        return "–"
    for least, decimals in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= least:
            return f"{value:,.{decimals}f}"
    return f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; may be given several times")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    home = Home.from_environment()
    if options.run:
        sys.path.insert(0, str(options.folder))
        run_here(options.run, home, options.answer)
        return 0
    return run_all(options.only or BENCHMARKS, home, keep=bool(options.only))


def run_all(names: Sequence[str], home: Home, *, keep: bool, folder: Path = FOLDER) -> int:
    """Runs benchmarks, shows and stores their rows.

    Args:
        names: modules in ``folder``.
        home: whose ``bench.json`` is written.
        keep: whether rows of the run before stay where no row of the same name replaces them.
        folder: where the benchmarks lie.

    Returns:
        1 if one of them failed.
    """
    from n2g_assets.storage.files import write_atomically

    home.check_writable()
    path = home.root / "bench.json"
    former = read_former(path)
    found, failed, began = [], {}, time.monotonic()
    for name in names:
        print(f"{name} ...", flush=True)
        started = time.monotonic()
        rows, error = run_apart(name, folder)
        print(f"{name}: {'failed after ' if error else ''}{time.monotonic() - started:.0f} s\n", flush=True)
        found += rows
        if error:
            failed[name] = error
    stored = merged(former, found) if keep else found
    if found:
        text = json.dumps(stored, indent=1) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        print(table(found, former))
        print(f"\nMore is better in every row; the same rows: {path}")
    for name, error in failed.items():
        print(f"{name} failed: {error}")
    print(f"{len(names) - len(failed)} of {len(names)} benchmarks in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
