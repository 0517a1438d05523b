"""What Dagster takes part in: runs of studies, its UI, and a home that is ready for its own commands.

``n2g run`` knows the studies of the Dagster project that the working folder lies in, and otherwise those of this
package. A run is Dagster's: it shows in the UI, and what is fresh is reused.
"""

import logging
import os
import resource
import signal
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import dagster as dg
from dagster._utils.error import SerializableErrorInfo  # what an event says of a failure
from pydantic import ValidationError

from n2g_assets.assets.executors import check_shared, executor_name
from n2g_assets.assets.instance import prepare_instance
from n2g_assets.assets.rates import Elsewhere
from n2g_assets.assets.study import RANGE_END, RANGE_START, STUDY, groups, study_of
from n2g_assets.cli.output import say
from n2g_assets.cli.working import followed, waiting_for
from n2g_assets.core.errors import N2GError, SettingsError
from n2g_assets.core.home import Home
from n2g_assets.core.study_file import check_files

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of what Ctrl-C ended, as shells have it."""
_INTERRUPTS = ("KeyboardInterrupt", "DagsterExecutionInterruptedError")
"""What a step raises on Ctrl-C and on SIGTERM."""


def in_home(do: Callable[[Home], int]) -> int:
    """Make the home ready for Dagster and do something in it; its exit code, which is 0 if that succeeded."""
    try:
        home = _prepared_home()
        try:
            return do(home)
        except Exception as error:
            if not isinstance(error, N2GError):  # a full disk stops Dagster's own databases first, which do not say so
                home.check_writable()
            raise
    except N2GError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt as interrupt:
        where = f" in {interrupt}" if str(interrupt) else ""
        say(f"\nInterrupted{where}. What was finished is kept: the same command goes on from there.")
        return INTERRUPTED


def _prepared_home() -> Home:
    warnings.simplefilter("ignore", dg.BetaWarning)
    home = Home.from_environment()
    prepare_instance(home)
    return home


def run_demo(home: Home) -> int:
    """The study ``demo``, after the studies that name it as theirs to control; it does not need them."""
    from n2g_assets.study import shipped_studies, shipped_study

    for control in shipped_studies():
        if shipped_study(control).settings.control_of == "demo" and run_study(home, control, show=False):
            say(f"The control '{control}' failed, so that the report shows none; the study itself goes on.\n")
    return run_study(home, "demo")


def run_study(home: Home, study: str, layers: str | None = None, *, show: bool = True) -> int:
    """Run a study's job in this process, and show what came out; 0 if it succeeded.

    Raises:
        SettingsError: there is no such study, or it has no such layers.
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the run; it names the step.
    """
    from n2g_assets.report.summary import study_summary

    began = time.monotonic()
    job, named = study_job(study), study
    study, ranges = job.name, _ranges(job, layers)
    os.environ["N2G_PROGRESS"] = "lines"
    say(f"Materializing the study '{study}' into {home.address or home.store} (the first time takes some minutes).")
    with dg.DagsterInstance.get() as instance:
        execute = _executing(job, named, instance)
        warns = study_of(job).settings.control_of is None  # of a control the opposite is expected
        succeeded = all(_succeeded(execute, each, warns=warns) for each in ranges)
    if not succeeded:
        say("What was finished is kept: the same command goes on from there.")
    elif show:
        say("\n" + study_summary(home, study))
        _say_where(home, study)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform != "darwin" else 1024**3)
    say(f"\n{time.monotonic() - began:.0f} seconds, peak memory {peak:.2f} GiB.")
    return 0 if succeeded else 1


def plan_study(home: Home, study: str, layers: str | None, machines: int, elsewhere: Elsewhere) -> int:
    """Say what a run of a study takes on some machines.

    Where a rate is stated, nothing is run and no weights or text are fetched. Otherwise the study's model and corpus
    are, if they are not there yet, and a pass is timed.

    Raises:
        SettingsError: there is no such study, or it has no such layers; or what is stated does not go together.
        SourceError: a rate is stated, and the model's config.json cannot be had.
    """
    from n2g_assets.assets.plan import plan_elsewhere, plan_here
    from n2g_assets.assets.session import Session

    job = study_job(study)
    asked, ranges = study_of(job), _ranges(job, layers)
    keys = list(asked.partition_layers)
    runs = [keys[keys.index(first) : keys.index(last) + 1] for first, last in ranges]
    numbers = [[asked.partition_layers[key] for key in run] for run in runs]
    session = Session(asked, home, logging.getLogger(__name__))
    if elsewhere.states_a_rate:
        say(plan_elsewhere(session, numbers, machines, elsewhere))
        return 0
    os.environ["N2G_PROGRESS"] = "lines"
    say(f"Reading the model and the corpus of the study '{asked.name}' (the first time takes some minutes).")
    with dg.DagsterInstance.get() as instance:
        read = partial(job.execute_in_process, asset_selection=[asked.key("subject_model"), asked.key("corpus_tokens")])
        if not _succeeded(partial(read, instance=instance), ranges[0], warns=False):
            return 1
    say("\n" + plan_here(session, numbers, machines))
    return 0


def _ranges(job: dg.JobDefinition, layers: str | None) -> list[tuple[str, str]]:
    study = study_of(job)
    return partition_ranges(list(study.partition_layers), layers, study.settings.layers_at_once)


def study_job(study: str, folder: str = "") -> dg.JobDefinition:
    """The job of a study: by name, of the Dagster project around a folder or of this package; or by its file.

    The folder is the working folder, or else an absolute one: workers on other machines call this too.

    Raises:
        SettingsError: there is no such study, or a ``defs.yaml`` of the project has a mistake.
    """
    from n2g_assets.definitions import build_defs
    from n2g_assets.study import read_study, shipped_study

    if os.sep in study or Path(study).suffix in {".yaml", ".yml"}:
        path = Path(folder, study)
        found = read_study(path / "defs.yaml" if path.is_dir() else path)
        return build_defs([found]).resolve_job_def(found.name)
    project = _own_project(Path(folder).absolute())
    if project is None:
        return build_defs([shipped_study(study)]).resolve_job_def(study)
    sys.path[:0] = [str(project), str(project / "src")]
    try:
        definitions = dg.load_from_defs_folder(path_within_project=project)
    except Exception as error:  # Dagster's own, with the cause far down in it
        cause = _root_cause(error)
        if isinstance(cause, N2GError):
            raise cause from None
        check_files(sorted(project.rglob("defs.yaml")))
        raise SettingsError(f"The studies in {project} cannot be loaded: {_said_by(cause)}") from error
    names = sorted(job.name for job in definitions.jobs or [] if STUDY in (job.metadata or {}))
    if study not in names:
        raise SettingsError(f"There is no study '{study}' in {project}: choose one of {', '.join(names) or 'none'}.")
    return definitions.resolve_job_def(study)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, N2GError):
        error = error.__cause__
    return error


def _said_by(error: BaseException) -> str:
    if not isinstance(error, ValidationError):
        return " ".join(f"{type(error).__name__}: {error}".split())
    found = [(".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")) for each in error.errors()]
    return "; ".join(f"{where}: {said}" if where else said for where, said in found)


def _own_project(folder: Path) -> Path | None:
    """The Dagster project that a folder lies in, if it is another one than this package's."""
    for parent in (folder, *folder.parents):
        file = parent / "pyproject.toml"
        if file.is_file():
            project = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("dg", {}).get("project")
            if project is not None:
                return None if project.get("root_module") == "n2g_assets" else parent
    return None


def partition_ranges(keys: Sequence[str], layers: str | None, at_once: int | str = "all") -> list[tuple[str, str]]:
    """The ranges of partition keys that layers make up: one run each.

    Args:
        keys: a study's partition keys in order, such as ``00``, ``07``, ``15``.
        layers: such as ``7``, ``0,7``, ``0...15`` or ``00...07,15``; None for all.
        at_once: layers that a range has at most, or ``all``.

    Raises:
        SettingsError: that names no layer of the study.
    """
    if layers is None:
        return [(part[0], part[-1]) for part in groups(keys, at_once)]
    by_number = {int(key): index for index, key in enumerate(keys)}
    chosen: set[int] = set()
    for part in layers.split(","):
        ends = [end.strip() for end in part.split("...")]
        known = len(ends) <= 2 and all(end.isdecimal() and int(end) in by_number for end in ends)
        if not known or int(ends[0]) > int(ends[-1]):
            raise SettingsError(
                f"--layers {layers} does not name layers of the study: it has {', '.join(keys)}, so give some of them, "
                f"such as {int(keys[-1])} or {int(keys[0])}...{int(keys[-1])}, with commas between them."
            )
        chosen.update(range(by_number[int(ends[0])], by_number[int(ends[-1])] + 1))
    starts = sorted(index for index in chosen if index - 1 not in chosen)
    stops = sorted(index for index in chosen if index + 1 not in chosen)
    runs = zip(starts, stops, strict=True)
    return [(part[0], part[-1]) for start, stop in runs for part in groups(keys[start : stop + 1], at_once)]


Execute = Callable[..., dg.ExecuteInProcessResult | dg.JobExecutionResult]
"""Executes a run that has tags and a configuration."""


def _executing(job: dg.JobDefinition, named: str, instance: dg.DagsterInstance) -> Execute:
    """What executes a study's job: this process, or the executor that spreads its steps.

    Raises:
        SettingsError: the executor lacks what it needs.
    """
    executor = executor_name(study_of(job).settings.executor)
    if executor == "in_process":
        return partial(job.execute_in_process, instance=instance)
    arguments: tuple[Any, ...] = (named, str(Path.cwd()))  # Dagster's own type allows for one
    spread = dg.build_reconstructable_job(__name__, study_job.__name__, arguments)
    execute = partial(dg.execute_job, spread, instance)
    if executor == "multiprocess":
        return execute
    check_shared(instance)
    for line in waiting_for():
        say(line)
    return partial(followed, execute, instance)


def _succeeded(execute: Execute, layers: tuple[str, str], *, warns: bool) -> bool:
    """Execute a run and say what failed, and where ``warns`` what checks warn of.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the run; it names the step.
    """
    first, last = layers
    result = execute(
        tags={RANGE_START: first, RANGE_END: last},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    failures = [event for event in result.all_events if event.is_step_failure]
    for event in failures:
        if event.step_failure_data.error and event.step_failure_data.error.cls_name in _INTERRUPTS:
            raise KeyboardInterrupt(_asset_of(event))
    for evaluation in result.get_asset_check_evaluations():
        fails = evaluation.severity == dg.AssetCheckSeverity.ERROR
        if not evaluation.passed and (fails or warns):
            said = "FAILED" if fails else "WARNING"
            say(f"{said} {'/'.join(evaluation.asset_key.path)}, {evaluation.check_name}: {evaluation.description}")
    for event in failures:
        say(f"FAILED {_asset_of(event)}: {_cause(event)}")
    for error in (event.job_failure_data.error for event in result.all_events if event.is_job_failure):
        if error and error.cls_name in _INTERRUPTS:
            raise KeyboardInterrupt
        if not failures:
            say(f"FAILED {result.job_def.name}: {_innermost(error)}")
    return result.success


def _asset_of(event: dg.DagsterEvent) -> str:
    return (event.step_key or "").partition(".")[0].replace("__", "/")


def _cause(event: dg.DagsterEvent) -> str:
    said = event.step_failure_data.user_failure_data
    return said.description if said and said.description else _innermost(event.step_failure_data.error)


def _innermost(error: SerializableErrorInfo | None) -> str:
    while error and error.cause:
        error = error.cause
    message = error.message.strip() if error else "unknown"
    return message.partition(": ")[2] or message


def _say_where(home: Home, study: str) -> None:
    shown, report = _relative(home.database), _relative(home.reports / f"{study}.html")
    if home.address is not None:
        report = f"{home.address}/reports/{study}.html"
    command = os.path.relpath(Path(sys.executable).with_name("n2g"))
    say(f"""
The report:   {report}
The database: {shown}
  Explorer: {command} explore
  SQL:      {command} sql "FROM layer_summary"
            {command} sql "FROM units_on('the')"
  UI:       {command} ui""")


def say_environment() -> None:
    """Make the home ready, and print the line that lets ``dg`` use it.

    Raises:
        StorageError: the home cannot be written.
    """
    home = _prepared_home()
    store = "" if home.store == home.root else f" N2G_STORE={quote(home.address or str(home.store))}"
    say(f"export N2G_HOME={quote(str(home.root))}{store} DAGSTER_HOME={quote(str(home.dagster))}")


def open_ui(port: int) -> int:
    """Become the Dagster UI of the project around the working folder, or of this package."""
    say(f"Dagster UI: http://127.0.0.1:{port}  (Ctrl-C stops it)")
    command = ["dg", "dev", "--use-active-venv", "--host", "127.0.0.1", "--port", str(port)]
    project = _own_project(Path.cwd()) or Path(__file__).parents[2]
    in_project = (project / "pyproject.toml").is_file()  # not where this package is installed from a wheel
    command += ["--target-path", str(project)] if in_project else ["-m", "n2g_assets.definitions"]
    os.execv(Path(sys.executable).with_name("dg"), command)


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
