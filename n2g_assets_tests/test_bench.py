"""``make bench``: benchmarks run apart, their rows are shown and stored, and what fails is named."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from n2g_assets.core.home import Home

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    yield load("bench")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def folder(tmp_path):
    """Benchmarks that take no time; ``speed`` says in which process it ran."""
    texts = {
        "speed": "import os; from rows import row\n"
        "def rows(home):\n"
        "    print('at home in', home.root.name)\n"
        "    return [row('speed (tokens/s)', 1700.0, 1000.0, 0.85), row('process (id)', os.getpid(), 1, 1)]",
        "memory": "from rows import row\n"
        "def rows(home): return [row('memory (GiB)', 3.0, 2.0, 1 / 1.2, less_is_better=True)]",
        "broken": "def rows(home): return 1 / 0",
        "refused": "from n2g_assets.core.errors import StorageError\n"
        "def rows(home): raise StorageError('Nothing is stored: run make demo.')",
        "killed": "import os, signal\ndef rows(home): os.kill(os.getpid(), signal.SIGKILL)",
        "differs": "def rows(home): raise SystemExit('The two differ.')",
        "wrong": "def rows(home): return [{'name': 'w', 'ours': 1, 'baseline': float('nan'), 'ratio': 1, 'goal': 1}]",
        "odd": "def rows(home): return [{'name': 'w', 'ours': 1}]",
    }
    path = tmp_path / "benchmarks"
    path.mkdir()
    for name, text in texts.items():
        (path / f"{name}.py").write_text(text + "\n")
    return path


def line_of(name, said):
    return next(line for line in said.splitlines() if line.startswith(name))


def stored(home):
    return json.loads((home.root / "bench.json").read_text())


def test_each_runs_in_a_process_of_its_own_and_its_rows_are_shown_and_stored(bench, folder, home, capfd):
    assert bench.run_all(["speed", "memory"], home, keep=False, folder=folder) == 0
    speed, process, memory = stored(home)
    assert speed == {"name": "speed (tokens/s)", "ours": 1700.0, "baseline": 1000.0, "ratio": 1.7, "goal": 0.85}
    assert process["ours"] != os.getpid()
    assert memory["ratio"] == pytest.approx(2 / 3)
    said = capfd.readouterr().out
    assert "at home in home" in said
    assert "\nspeed: " in said
    assert "\nmemory: " in said
    lines = {line.split(" (")[0]: line.split() for line in said.splitlines()}
    assert lines["speed"][2:] == ["1,700", "1,000", "1.70", "0.85"]
    assert lines["memory"][2:] == ["3.00", "2.00", "0.667", "0.833", *bench.MISSED.split()]


def test_what_fails_is_named_with_its_cause_and_the_others_go_on(bench, folder, home, capfd):
    causes = {
        "broken": "ZeroDivisionError: division by zero",
        "refused": "Nothing is stored: run make demo.",
        "killed": "its process ended with status -9",
        "differs": "SystemExit: The two differ.",
        "wrong": "baseline of 'w' is no number: nan",
        "odd": "a row has the keys name, ours, baseline, ratio, goal",
    }
    assert bench.run_all([*causes, "memory"], home, keep=False, folder=folder) == 1
    said = capfd.readouterr().out
    for name, cause in causes.items():
        assert any(line.startswith(f"{name} failed: ") and cause in line for line in said.splitlines()), name
    assert [one["name"] for one in stored(home)] == ["memory (GiB)"]
    assert "1 of 7 benchmarks" in said


def test_a_second_run_shows_the_ratio_before_and_replaces_the_rows(bench, folder, home, capfd):
    former = [{"name": "memory (GiB)", "ours": 1, "baseline": 1, "ratio": 0.42, "goal": 1}]
    former += [{"name": "no more", "ours": 1, "baseline": 1, "ratio": 7.0, "goal": 1}]
    home.root.mkdir()
    (home.root / "bench.json").write_text(json.dumps(former))
    assert bench.run_all(["memory"], home, keep=True, folder=folder) == 0
    assert [(one["name"], one["ours"]) for one in stored(home)] == [("memory (GiB)", 3.0), ("no more", 1)]
    said = capfd.readouterr().out
    assert "before" in said
    assert line_of("memory (GiB)", said).split()[4:7] == ["0.667", "0.833", "0.42"]
    assert bench.run_all(["memory"], home, keep=False, folder=folder) == 0
    assert [one["name"] for one in stored(home)] == ["memory (GiB)"]
    assert line_of("memory (GiB)", capfd.readouterr().out).split()[4:7] == ["0.667", "0.833", "0.667"]


def test_where_nothing_comes_out_or_the_file_is_damaged_nothing_is_lost(bench, folder, home):
    home.root.mkdir()
    (home.root / "bench.json").write_text("[{")
    assert bench.run_all(["broken"], home, keep=False, folder=folder) == 1
    assert (home.root / "bench.json").read_text() == "[{"
    assert bench.run_all(["memory"], home, keep=True, folder=folder) == 0
    assert len(stored(home)) == 1


def test_every_benchmark_of_the_table_is_there_and_is_told_by_name(bench):
    for name in bench.BENCHMARKS:
        rows = importlib.import_module(name).rows
        assert callable(rows), name
        assert list(inspect.signature(rows).parameters) == ["home"], name
    asked = subprocess.run(
        [sys.executable, BENCHMARKS / "bench.py", "--only", "nothing"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    assert all(name in asked.stderr for name in bench.BENCHMARKS)


def ratio_of_time(smallest, middle, largest):
    """Of the row of benchmark ``scaling`` about time, for three points with 16, 64 and 256 units."""
    scaling = importlib.import_module("scaling")
    measured = [
        scaling.Measured(scaling.Point(0, units, 50_000), units, {"activation_cache": 40.0, "neuron_graphs": took}, 1)
        for units, took in ((16, smallest), (64, middle), (256, largest))
    ]
    *_, time = scaling.compared(measured)
    return time["ratio"], time["goal"]


def test_time_that_grows_with_the_units_meets_its_goal_whatever_the_smallest_point_took_and_faster_growth_misses_it(
    bench,
):
    ratio, goal = ratio_of_time(0.1 * 16, 0.1 * 64, 0.1 * 256)
    assert ratio == pytest.approx(1)
    for noise in (0.8, 1.2):
        assert ratio_of_time(noise * 0.1 * 16, 0.1 * 64, 0.1 * 256)[0] == pytest.approx(1, abs=0.02)
    same_for_any = 3.0
    assert ratio_of_time(*(same_for_any + 0.1 * units for units in (16, 64, 256)))[0] > 1
    assert ratio_of_time(*(1e-3 * units**2 for units in (16, 64, 256)))[0] < 0.25 < goal
    assert ratio_of_time(*(same_for_any + 5e-4 * units**2 for units in (16, 64, 256)))[0] < 0.75 * goal
