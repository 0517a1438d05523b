"""Peak memory and seconds of one layer as its units grow: what is bounded stays, the rest is linear.

1. A process of its own fetches the model and cuts the corpus of study ``smollm2``; that is not counted.
2. Each point is a study of one layer, a number of units and of harvested tokens, in a home and a process of its own:
   all steps of its job from the activation cache to the warehouse and the report.
3. A point gives the seconds of every step and the peak resident memory of its process.

Memory is compared as it is: 256 units, and 64 as the baseline. Of seconds, those of a *further* unit from 16 to 256 are
compared with those of a unit of 64. Steps whose time hardly depends on the number of units are left out and shown
apart: the harvest and the pass through held-out text, most of which is the model's, the warehouse and the report. The
ratio is 1 where time is linear and 1/4 where it is quadratic.

    python benchmarks/scaling.py                                               # layer 0: 16, 64, 256 units
    python benchmarks/scaling.py --layer 7 --units 64,all --tokens 459000      # a whole layer
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rows import row

from n2g_assets.core.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from n2g_assets.assets.study import Study

MEMORY_GOAL, TIME_GOAL = 1 / 1.2, 1 / 1.1
UNITS, TOKENS = (16, 64, 256), 50_000
_STUDY = "smollm2"
_CACHE = "activation_cache"
_APART = ("subject_model", "corpus_tokens")
_PASS = "held-out text"
_SAME = (_CACHE, _PASS, "warehouse", "report")
"""Beginnings of the names of steps that take the same for any number of units."""


@dataclass(frozen=True)
class Point:
    """One study to run."""

    layer: int
    units: int | None
    """None: all of the layer."""
    tokens: int
    """Tokens of the harvest."""

    def __str__(self) -> str:
        return f"layer-{self.layer}-units-{self.units or 'all'}-tokens-{self.tokens}"


@dataclass(frozen=True)
class Measured:
    """What a point took."""

    point: Point
    units: int
    seconds: dict[str, float]
    """By step of the job; the pass through held-out text apart from the evaluation."""
    peak: int
    """Largest resident memory of the process, in bytes."""

    @property
    def unit_seconds(self) -> float:
        """All steps but those that take the same for any number of units."""
        return sum(seconds for step, seconds in self.seconds.items() if not step.startswith(_SAME))


# ------------------------------------------------------------------------------------------ the process of a point
def study_of(point: Point) -> Study:
    """Study ``smollm2``, cut to a point, without ``reach``: its windows take the same for any number of units."""
    from n2g_assets.assets.study import Study
    from n2g_assets.core.unit_settings import NeuronSample
    from n2g_assets.study import shipped_study

    study = shipped_study(_STUDY)
    settings = study.settings
    changed = {
        "layers": [point.layer],
        "neurons": "all" if point.units is None else NeuronSample(sample=point.units),
        "harvest": settings.harvest.model_copy(update={"max_tokens": point.tokens}),
        "evaluation": settings.evaluation.model_copy(update={"reach_positions": 0}),
    }
    return Study(study.name, study.folder, settings.model_copy(update=changed))


def run_point(point: Point, home: Path, *, prepare: bool) -> dict[str, Any]:
    """Runs the job of a point, or, to prepare, only its model and corpus."""
    import dagster as dg

    from n2g_assets.assets.resource import N2GResource
    from n2g_assets.definitions import build_defs

    study = study_of(point)
    job = build_defs([study], resources={"n2g": N2GResource(home=str(home))}).resolve_job_def(study.name)
    keys = [key for key in job.asset_layer.executable_asset_keys if (key.path[-1] in _APART) == prepare]
    with dg.DagsterInstance.ephemeral() as instance, _timed_pass() as passes:
        result = job.execute_in_process(
            instance=instance, tags=study.all_layers_tags, asset_selection=keys,
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )  # fmt: skip
        seconds = _step_seconds(instance.all_logs(result.run_id))
    if passes:
        seconds["evaluation"] -= passes[0]
        seconds[_PASS] = passes[0]
    units = 0 if prepare else _units_of(study, home, point.layer)
    return {"units": units, "seconds": seconds, "peak": _peak_bytes()}


def _units_of(study: Study, home: Path, layer: int) -> int:
    import logging

    from n2g_assets.assets.session import Session

    return len(Session(study, Home(home), logging.getLogger()).units(layer))


def _step_seconds(logs: Sequence[Any]) -> dict[str, float]:
    """Seconds of each step that ended well."""
    began, ended = {}, {}
    for entry in logs:
        event = entry.dagster_event
        if event is not None and event.is_step_start:
            began[entry.step_key] = entry.timestamp
        elif event is not None and event.is_step_success:
            ended[entry.step_key] = entry.timestamp
    return {key.removeprefix(f"{_STUDY}__"): ended[key] - began[key] for key in ended}


@contextmanager
def _timed_pass() -> Iterator[list[float]]:
    """Seconds of each reading of held-out text: the first one is the pass, later ones find it cached."""
    from n2g_assets.assets.session import Session

    read, seconds = Session.read_texts, []

    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        found = read(*args)
        seconds.append(time.perf_counter() - began)
        return found

    Session.read_texts = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Session.read_texts = read  # type: ignore[method-assign]


def _peak_bytes() -> int:
    """Largest resident memory of this process; on Linux without what it inherited of the process that started it."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


# ------------------------------------------------------------------------------------------ all points
def measure(points: Sequence[Point], home: Home, folder: Path) -> Iterator[Measured]:
    """Runs each point in a process of its own.

    Args:
        points: what to run.
        home: whose models and downloads are used.
        folder: where the homes of the points are made.
    """
    prepared = folder / "prepared"
    _link(home, prepared)
    _child(Point(points[0].layer, 1, points[0].tokens), prepared, prepare=True)
    for point in points:
        own = folder / str(point)
        _link(home, own)
        shutil.copytree(prepared / "slices", own / "slices", dirs_exist_ok=True)
        yield Measured(point, **_child(point, own, prepare=False))


def _link(home: Home, own: Path) -> None:
    own.mkdir(parents=True, exist_ok=True)
    for name in ("models", "downloads"):
        (home.root / name).mkdir(parents=True, exist_ok=True)
        if not (own / name).exists():
            (own / name).symlink_to((home.root / name).resolve(), target_is_directory=True)


def _child(point: Point, home: Path, *, prepare: bool) -> dict[str, Any]:
    asked = json.dumps({"point": asdict(point), "home": str(home.resolve()), "prepare": prepare})
    project = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, __file__, "--point", asked],
        check=False, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"The point {point} failed: see above.")
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------ what is said of them
def compared(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows of the comparison: memory of the two largest points, and seconds of units of three."""
    grown = sorted(measured, key=lambda point: point.units)
    rows = []
    if len(grown) > 1:
        less, more = grown[-2:]
        name = f"peak memory, {more.units} units against {less.units} (GiB)"
        rows.append(row(name, more.peak / 2**30, less.peak / 2**30, MEMORY_GOAL, less_is_better=True))
    if len(grown) > 2:
        first, less, more = grown[-3:]
        further = (more.unit_seconds - first.unit_seconds) / (more.units - first.units)
        name = f"time of a further unit, {first.units} to {more.units}, against a unit of {less.units} (s)"
        rows.append(row(name, further, less.unit_seconds / less.units, TIME_GOAL, less_is_better=True))
    return rows


def rows(home: Home) -> list[dict[str, Any]]:
    """The rows of this benchmark.

    Args:
        home: whose models and downloads are used; nothing else of it is read or written.
    """
    with tempfile.TemporaryDirectory() as folder:
        return compared(list(measure([Point(0, units, TOKENS) for units in UNITS], home, Path(folder))))


def _say(one: Measured) -> None:
    print(
        f"{one.point}: {one.units} units, {sum(one.seconds.values()):.1f} s, peak {one.peak / 2**30:.2f} GiB; "
        f"without what is the same for any number {one.unit_seconds / one.units:.3f} s a unit"
    )
    for step, seconds in one.seconds.items():
        if seconds >= 0.5 or step in _SAME:
            print(f"    {step:45} {seconds:8.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--units", default=",".join(map(str, UNITS)), help="numbers of units, or all; ascending")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="harvested tokens")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        asked = json.loads(options.point)
        found = run_point(Point(**asked["point"]), Path(asked["home"]), prepare=asked["prepare"])
        print(json.dumps(found))
        return
    units = [None if word == "all" else int(word) for word in options.units.split(",")]
    points = [Point(options.layer, number, options.tokens) for number in units]
    measured = []
    with tempfile.TemporaryDirectory() as temporary:
        for point in measure(points, Home.from_environment(), Path(temporary)):
            _say(point)
            measured.append(point)
    for one in compared(measured):
        print(f"{one['name']}: {one['ours']:.3f}, {one['baseline']:.3f}: {one['ratio']:.2f} (goal {one['goal']:.2f})")


if __name__ == "__main__":
    main()
