"""``n2g studies``, ``sql`` and ``predict``: what the published database says."""

import sys
from pathlib import Path
from typing import Any, Literal

import click

from n2g_assets.cli.output import clean, say, say_json, table_text
from n2g_assets.core.errors import QueryError, StorageError
from n2g_assets.core.home import Home


def studies(as_json: bool) -> None:
    """The list of studies, as the explorer's first page has it."""
    from n2g_assets.explore.studies import all_studies
    from n2g_assets.reading.database import Database

    found = all_studies(Database.of(Home.from_environment()).snapshot())
    if as_json:
        say_json(found)
        return
    rows: list[dict[str, Any]] = [
        {
            "study": each["study"], "control of": each["control_of"], "model": each["model"], "method": each["method"],
            "layer": score["layer"], "r": score["pearson_r"], "r from": score["pearson_r_low"],
            "to": score["pearson_r_high"], "AP": score["average_precision"], "F1": score["f1_all"],
            "units": each["units"], "published": each["written_at"],
        }
        for each in found
        for score in each["scores"] or [dict.fromkeys(_SCORES)]
    ]  # fmt: skip
    say(table_text(list(rows[0]), rows) if rows else "No study is published yet: run one, such as with n2g demo.")


_SCORES = ("layer", "pearson_r", "pearson_r_low", "pearson_r_high", "average_precision", "f1_all")


def sql(statement: str, form: Literal["table", "json", "csv"], limit: int) -> None:
    """What a statement gives, as a table, or as JSON or CSV for other programs."""
    from n2g_assets.reading.plain import csv_text
    from n2g_assets.reading.sql import run_sql
    from n2g_assets.storage.warehouse import newest_database

    frame, has_more = run_sql(newest_database(Home.from_environment()), statement, rows=limit)
    if form == "json":
        say_json(frame.to_dicts())
    elif form == "csv":
        sys.stdout.write(csv_text(frame))
    elif "explain_value" in frame.columns:
        say("\n".join(map(str, frame["explain_value"])))
    else:
        say(table_text(frame.columns, frame.to_dicts()))
    if has_more:
        click.echo(f"These are the first {limit:,} rows: --limit gives more.", err=True)


def predict(study: str, layer: int, number: int, sign: int, text: str, tokenizer: str | None, as_json: bool) -> None:
    """What a unit's graph says about a text, a line for each token."""
    from n2g_assets.reading.study import open_study
    from n2g_assets.reading.text import predict_text

    if not text:
        raise QueryError("The text is empty: give one, as an argument or on standard input.")
    home = Home.from_environment()
    unit = open_study(study, home).unit(layer, number, sign)
    found = predict_text(unit, text, Path(tokenizer) if tokenizer else None)
    if as_json:
        say_json({"study": study, "layer": layer, "unit": number, "sign": sign, "a_max": unit.a_max, "tokens": found})
        return
    if unit.status != "ok":
        click.echo(clean(f"The unit has no graph ({unit.status}): {unit.reason}"), err=True)
    fires = unit.study.threshold
    rows = [
        {
            "token": each["text"], "predicted": f"{each['predicted']:.2f}".replace("-0.00", "0.00"),
            "": "█" * round(10 * max(0.0, each["predicted"])) + (" fires" if each["predicted"] >= fires else ""),
            "rule": each["rule"] or "",
        }
        for each in found
    ]  # fmt: skip
    say(table_text(["token", "predicted", "", "rule"], rows))


def export_contexts(study: str, out: Path, force: bool) -> None:
    """Write the contexts on which a study's units are scored."""
    from n2g_assets.reading.contexts import scored_contexts
    from n2g_assets.reading.study import open_study
    from n2g_assets.storage.files import write_atomically

    if not out.absolute().parent.is_dir():
        raise StorageError(f"There is no folder {out.absolute().parent}: make it, or name another file.")
    if out.exists() and not force:
        raise StorageError(f"{out} is there already: name another file, or add --force to replace it.")
    frame = scored_contexts(open_study(study, Home.from_environment()))
    write_atomically(out, frame.write_parquet)
    tokens = int(frame["token_ids"].list.len().sum()) - frame.height
    say(f"{out}: {frame.height:,} contexts, {tokens:,} tokens to predict.")
