"""``make demo``: materializes the study ``demo`` through its Dagster job and shows what came out."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import dagster as dg
import polars as pl

from n2g_assets.assets.study import Study
from n2g_assets.core.errors import N2GError, SettingsError
from n2g_assets.core.home import Home
from n2g_assets.core.units import unit_text
from n2g_assets.report.text import graph_text, table_text
from n2g_assets.storage.warehouse import open_database

_LAYERS = """
    SELECT layer, text, units, dead, too_few_contexts AS "too few contexts", failed, without_firing AS "never fire",
           precision_all AS precision, recall_all AS recall, f1_all AS f1, f1_all_low AS "f1 from", f1_all_high AS "to",
           max(f1_all) FILTER (predictor = 'token_lookup') OVER texts AS "token lookup",
           max(f1_all) FILTER (predictor = 'ngram_backoff') OVER texts AS "back-off n-gram",
           max(f1_all) FILTER (predictor = 'graph_shuffled') OVER texts AS "other unit's graph"
    FROM layer_summary WHERE study = ?
    WINDOW texts AS (PARTITION BY layer, text)
    QUALIFY predictor = 'graph' OR predictor IS NULL
    ORDER BY list_position(['top', 'quantiles', 'random', 'out_of_domain'], text), layer
"""

_GRAPHS = """
    SELECT layer, unit, sign, f1 FROM evaluation
    WHERE study = ? AND predictor = 'graph' AND text = 'top'
    QUALIFY row_number() OVER (PARTITION BY layer ORDER BY f1 DESC NULLS LAST, unit) = 1
    ORDER BY layer LIMIT 3
"""

_RULES = """
    SELECT rule_id, pattern, activation, count FROM rules
    WHERE study = ? AND layer = ? AND unit = ? AND sign = ? ORDER BY rule_id
"""


def main() -> int:
    """Run the study's job and print the summary; 1 if the run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="demo", help="study to materialize (default: demo)")
    parser.add_argument("--layers", help="some of its layers, such as 0,7,15; the database then holds these")
    options = parser.parse_args()
    study = options.study
    began = time.monotonic()
    home = Home.from_environment()
    os.environ["N2G_PROGRESS"] = "lines"
    warnings.simplefilter("ignore", dg.BetaWarning)
    try:
        home.check_writable()
        _say(f"Materializing the study '{study}' into {home.root} (the first time takes some minutes).")
        succeeded = _run(study, home, options.layers)
    except N2GError as error:
        _say(str(error))
        return 1
    if succeeded:
        _summary(study, home)
    else:
        _say("What was finished is kept: the same command goes on from there.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform != "darwin" else 1024**3)
    _say(f"\n{time.monotonic() - began:.0f} seconds, peak memory {peak:.2f} GiB.")
    return 0 if succeeded else 1


def _run(study: str, home: Home, layers: str | None) -> bool:
    from n2g_assets.assets.study import RANGE_END, RANGE_START
    from n2g_assets.definitions import build_defs
    from n2g_assets.study import shipped_study

    home.dagster.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DAGSTER_HOME", str(home.dagster))
    chosen = shipped_study(study)
    if layers is not None:
        chosen = _with_layers(chosen, layers)
    job = build_defs([chosen]).resolve_job_def(study)
    keys = job.partitions_def.get_partition_keys() if job.partitions_def else []
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            tags={RANGE_START: keys[0], RANGE_END: keys[-1]},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    for event in result.all_events:
        if event.is_step_failure:
            _say(f"FAILED {event.step_key}: {_cause(event)}")
    return result.success


def _with_layers(study: Study, layers: str) -> Study:
    """The study with some of its layers."""
    known = study.settings.layer_numbers
    numbers = [int(part) for part in layers.split(",") if part.strip().isdecimal()]
    if len(numbers) != len(layers.split(",")) or not set(numbers) <= set(known):
        raise SettingsError(
            f"--layers {layers} does not name layers of study '{study.name}': give some of "
            f"{', '.join(map(str, known))}, with commas between them."
        )
    return Study(study.name, study.folder, study.settings.model_copy(update={"layers": sorted(set(numbers))}))


def _cause(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip().partition(": ")[2] if error else "unknown"


def _summary(study: str, home: Home) -> None:
    with open_database(home) as database:
        layers = database.execute(_LAYERS, [study]).fetchall()
        names = [column[0] for column in database.description]
        _say(f"\nF1 of firing in study '{study}', means over all units asked for, with 95 % intervals.")
        _say("top: the units' own test contexts; quantiles: contexts of every strength; random: held-out text.\n")
        _say(table_text(pl.DataFrame(layers, schema=names, orient="row")))
        _say("\nThe best graph of each layer, as rules in the order of the text; the unit fires on [this]:")
        for layer, unit, sign, f1 in database.execute(_GRAPHS, [study]).fetchall():
            rules = pl.DataFrame(
                database.execute(_RULES, [study, layer, unit, sign]).fetchall(),
                schema=["rule_id", "pattern", "activation", "count"],
                orient="row",
            )
            score = "not defined" if f1 is None else f"{f1:.2f}"
            _say("\n" + graph_text(rules, title=f"{unit_text(layer, unit, sign).capitalize()}: F1 {score}", limit=6))
    shown, report = (_relative(path) for path in (home.database, home.reports / f"{study}.html"))
    python = os.path.relpath(sys.executable)
    query = f"duckdb.connect('{shown}', read_only=True).sql('FROM layer_summary').show()"
    _say(f"""
The report:   {report}
The database: {shown}
  SQL:  {python} -c "import duckdb; {query}"
        SELECT * FROM unit_rules ORDER BY activation DESC LIMIT 20;
        SELECT * FROM units_on('the');
  UI:   make ui""")


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
