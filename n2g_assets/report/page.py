"""The report of a study: one self-contained HTML page about what the published database says.

1. Rows come from the database's views, which users query too: a template asks for them by the view's name.
2. The first page is the verdict (``verdict``) and what it rests on; the contents follow, then all sections.
3. Prose stands in ``templates/``, one file a section; ``text`` writes numbers and lists, ``plots`` and ``svg`` draw.
   Every unit that is named links to its page in the explorer.
4. Jinja escapes everything, so that model text can never be markup. The page's policy forbids scripts and everything
   outside it; pictures stand inside as data.

The same database gives the same page: its only date is ``made_at``.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from markupsafe import Markup

from n2g_assets.core.errors import StorageError
from n2g_assets.core.explorer import explorer_root
from n2g_assets.core.registry import SHOWN_RULES, TEXTS, Text
from n2g_assets.core.unit_settings import unit_word
from n2g_assets.core.units import unit_text
from n2g_assets.evaluation.failures import FAILURE_RULES
from n2g_assets.method.class_rows import graph_of_rows, stored_importances
from n2g_assets.report import text as wording
from n2g_assets.report.class_picture import draw_classes
from n2g_assets.report.class_use import class_use
from n2g_assets.report.kinds import kinds_beside, r_by_kind, sizes_of
from n2g_assets.report.plots import (
    F1,
    PEARSON_R,
    PUBLISHED,
    LayerScore,
    as_address,
    calibration,
    precision_recall,
    reach_by_tokens,
    score_by_layer,
    shown_scores,
    styles,
)
from n2g_assets.report.size_plots import r_by_rules
from n2g_assets.report.svg import draw_graph
from n2g_assets.report.verdict import UNITS_OF, Leading, verdict

if TYPE_CHECKING:
    import duckdb

COUNTEREXAMPLES_SHOWN = 5
"""Counterexamples of each kind and text in the report; the table ``counterexamples`` holds all."""

_EXAMPLE_RULES = 8
_EXAMPLE_NODES = 40
"""A larger graph is no example: nobody reads it."""


def render_report(
    connection: "duckdb.DuckDBPyConnection", study: str, *, made_at: datetime, commands: Sequence[str] = ()
) -> tuple[str, int]:
    """The report of one study as a self-contained HTML document, and the number of layers that it speaks of.

    Args:
        connection: the published database, as ``storage.warehouse.open_database`` opens it.
        study: the study's name.
        made_at: date of the page (UTC).
        commands: command lines that make the study again where it lives.

    Raises:
        StorageError: the study is not in the database, or none of its layers is evaluated.
    """
    database = _Study(connection, study)
    facts = _facts(database)
    contents: list[tuple[int, str, str]] = []

    def heading(level: int, title: str, anchor: str) -> str:
        contents.append((level, title, anchor))
        return Markup('<h{0} id="{2}">{1}</h{0}>').format(level, title, anchor)

    context = {
        "spread": wording.spread, "published": PUBLISHED, "failure_rules": FAILURE_RULES,
        "counterexamples_shown": COUNTEREXAMPLES_SHOWN, "shown_rules": SHOWN_RULES, "example_nodes": _EXAMPLE_NODES,
        "heading": heading,
        "rows": database.rows, "units_of": UNITS_OF, "explorer": explorer_root(),
        "commands": commands, "made_at": f"{made_at:%d %B %Y, %H:%M} UTC".lstrip("0"),
    } | facts | _pictures(database, facts)  # fmt: skip
    templates = wording.templates()
    first_page, body = (Markup(templates.get_template(name).render(context)) for name in ("summary.html", "body.html"))
    html = templates.get_template("page.html").render(context, first_page=first_page, body=body, contents=contents)
    return html, len(facts["layers"])


class _Study:
    """The rows of one study in the database."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", study: str) -> None:
        self.connection, self.name = connection, study

    def frame(self, query: str, **values: Any) -> pl.DataFrame:
        """Rows of a query, in which ``$study`` is the study's name."""
        return self.connection.sql(query, params={"study": self.name} | values).pl()

    def rows(self, view: str, order: str = "", **equal: Any) -> list[dict[str, Any]]:
        """The study's rows of a view or table where columns have these values, in the view's order or the given one."""
        where = " AND ".join(f"{name} = ${name}" for name in ("study", *equal))
        return self.frame(f"FROM {view} WHERE {where}" + (f" ORDER BY {order}" if order else ""), **equal).to_dicts()


def _facts(database: _Study) -> dict[str, Any]:
    """What every section speaks of; ``render_report`` says what it raises."""
    found = database.rows("studies")
    if not found:
        raise StorageError(
            f"Study '{database.name}' is not in the database: materialize its warehouse, which publishes it."
        )
    defined = _defined(database)
    scored = [
        row | {"r_units": defined.get((None, *_key(row)), row["evaluated"])}
        for row in database.rows("layer_summary") if row["predictor"] is not None
    ]  # fmt: skip
    layers = sorted({row["layer"] for row in scored})
    if not layers:
        raise StorageError(f"No layer of study '{database.name}' is evaluated yet: materialize evaluation first.")
    settings = json.loads(found[0]["settings"])
    asked = settings["layers"]
    asked = list(range(asked)) if isinstance(asked, int) else sorted(asked)
    model = database.rows("subject_models")[0]
    texts = [text for text in TEXTS if text.name in {row["text"] for row in scored}]
    controls = database.frame("SELECT study FROM studies WHERE control_of = $study ORDER BY study")["study"]
    facts = {
        "study": database.name,
        "settings": settings,
        "settings_text": json.dumps(settings, indent=2, ensure_ascii=False),
        "versions": json.loads(found[0]["versions"]),
        "control_of": found[0]["control_of"],
        "control_studies": controls.to_list(),
        "controls": _controls(database, defined),
        "classes": settings["method"].get("preset") == "evidence",
        "word": unit_word(settings.get("units")),
        "model": {name: value for name, value in model.items() if name != "study"},
        "layers": layers,
        "missing": sorted(set(asked) - set(layers)),
        "summary": scored,
        "units": [next(row for row in scored if row["layer"] == layer) for layer in layers],
        "texts": texts,
        "shown_scores": shown_scores(texts),
        "phrases": {text.name: text.phrase for text in TEXTS},
        "predictors": styles(row["predictor"] for row in scored),
    }
    leading = _leading(database, facts)
    units = facts["units"]
    scored_units = sum(
        row["evaluated"] for row in scored if (row["text"], row["predictor"]) == (leading.text.name, "graph")
    )
    said = verdict(
        leading, model=wording.plain(model["model"]), asked=sum(row["units"] for row in units), scored=scored_units
    )
    return facts | {"leading": leading, "verdict": said}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["layer"], row["text"], row["predictor"]


def _defined(database: _Study) -> dict[tuple[Any, ...], int]:
    """Units whose r is defined, by control study (None: of the study itself), layer, text and predictor."""
    query = """
        SELECT CASE WHEN study <> $study THEN study END, layer, text, predictor, count(pearson_r)
        FROM evaluation
        WHERE study = $study OR study IN (SELECT study FROM studies WHERE control_of = $study)
        GROUP BY ALL"""
    return {tuple(key): units for *key, units in database.frame(query).iter_rows()}


def _controls(database: _Study, defined: dict[tuple[Any, ...], int]) -> list[dict[str, Any]]:
    """The view ``controls`` with the numbers of units behind the scores of a control."""
    rows = database.rows("controls", "text, layer")
    for row in rows:
        predictor = "graph" if row["control_study"] else row["control"]
        units = defined.get((row["control_study"], row["layer"], row["text"], predictor), row["control_units"])
        row |= {"control_r_units": units, "control_evaluated": row["control_units"]}
    return rows


def _leading(database: _Study, facts: dict[str, Any]) -> Leading:
    """What the verdict is about: the graded activation on ordinary text, or firing where that is not scored."""
    score, (text, *_) = facts["shown_scores"][0]

    def means(predictor: str) -> list[dict[str, Any]]:
        there = [row for row in facts["summary"] if (row["text"], row["predictor"]) == (text.name, predictor)]
        return [row | {"units": row[UNITS_OF[score]]} for row in there]

    sizes = database.frame(
        """SELECT layer, n_rules, avg(pearson_r) AS pearson_r, count(pearson_r) AS units
        FROM size_curve WHERE study = $study AND text = $text GROUP BY layer, n_rules ORDER BY layer""",
        text=text.name,
    )
    few = sizes.filter(n_rules=SHOWN_RULES) if score is PEARSON_R else sizes.clear()
    baselines = {entry: means(entry.name) for entry in facts["predictors"] if entry.role == "baseline"}
    strengths = {
        entry: sum(values) / len(values)
        for entry, rows in baselines.items()
        if (values := [row[score.name] for row in rows if row[score.name] is not None])
    }
    rival = max(strengths, key=lambda entry: strengths[entry], default=None)
    compared = database.rows("graph_comparison", "layer", text=text.name, score=score.name)
    return Leading(
        score, text,
        rules=SHOWN_RULES if len(few) else None, graphs=few.to_dicts() or means("graph"),
        most_rules=max(sizes["n_rules"].to_list()) if len(few) else None,
        rival=rival, rivals=baselines[rival] if rival else [],
        verdicts={row["layer"]: row["verdict"] for row in compared if rival and row["baseline"] == rival.name},
    )  # fmt: skip


def _pictures(database: _Study, facts: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Functions that draw, for the templates; each gives an address that carries its own data."""
    threshold = float(facts["settings"]["method"]["firing_threshold"])

    def scores(table: str, order: str, text: Text, columns: str = "*") -> pl.DataFrame:
        query = f"SELECT {columns} FROM {table} WHERE study = $study AND text = $text ORDER BY {order}"
        return database.frame(query, text=text.name)

    def score_picture(score: LayerScore, text: Text) -> str:
        title = f"{database.name}: {score.label} on {text.phrase}"
        over = facts["model"]["n_layers"] if (score, text.name) == (F1, "top") else None
        rows = scores("layer_scores", "layer", text)
        return as_address(score_by_layer(rows, score, title=title, published_over=over))

    def curves_picture(text: Text) -> str:
        rows = scores("layer_scores", "layer", text).filter(pl.col("predictor") != "always_zero")
        return as_address(precision_recall(rows, title="Precision and recall of firing", threshold=threshold))

    def calibration_picture(text: Text) -> str:
        rows = scores("evaluation", "layer, unit, sign", text, "predictor, COLUMNS('^calibration_')")
        return as_address(calibration(rows, title="Calibration"))

    def size_picture(text: Text) -> str:
        sizes, beside = scores("size_summary", "layer, n_rules", text), scores("layer_scores", "layer", text)
        return as_address(r_by_rules(sizes, beside, title=f"{database.name}: r by number of rules on {text.phrase}"))

    def reach_picture(text: Text) -> str:
        rows = scores("reach_summary", "layer, last_tokens", text).filter(pl.col("layer").is_in(facts["layers"]))
        return as_address(reach_by_tokens(rows, title=f"{database.name}: reach on {text.phrase}"))

    def examples() -> list[dict[str, Any]]:
        return _examples(database, facts["layers"], threshold, facts["word"])

    def made_of() -> Any:
        return class_use(database.frame, _vocabulary(database))

    def kinds() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"layer": layer, "rows": rows} for layer, rows in kinds_beside(database.frame).items()
        ]
        for here in found and (found[0], found[len(found) // 2], found[-1]):
            layer, rows = here["layer"], here["rows"]
            title = f"{database.name}: kinds of units at layer {layer}"
            here["picture"] = as_address(r_by_kind(rows, sizes_of(database.frame, layer, rows), title=title))
        return found

    pictures = (
        score_picture, curves_picture, calibration_picture, size_picture, reach_picture, kinds, examples, made_of,
    )  # fmt: skip
    return {function.__name__: function for function in pictures}


def _examples(database: _Study, layers: Sequence[int], threshold: float, word: str) -> list[dict[str, Any]]:
    """Of the first, a middle and the last layer, the unit with the best F1 whose graph is small enough to read.

    Of a graph of token classes the one of few rules is shown, however large it can grow.
    """
    classes = database.frame("SELECT count(rank) > 0 AS found FROM graph_nodes WHERE study = $study")["found"][0]
    query = f"""
        FROM fidelity_card
        WHERE study = $study AND list_contains($layers, layer) AND n_nodes > 0
            AND ($classes OR n_nodes <= {_EXAMPLE_NODES})
        QUALIFY 1 = row_number() OVER (
            PARTITION BY layer ORDER BY top_f1 DESC NULLS LAST, n_nodes DESC, unit, sign)
        ORDER BY layer"""
    picked = [layers[0], layers[len(layers) // 2], layers[-1]]
    vocabulary = _vocabulary(database) if classes else []
    found = []
    for unit in database.frame(query, layers=picked, classes=classes).iter_rows(named=True):
        key = {name: unit[name] for name in ("layer", "unit", "sign")}
        where = "study = $study AND layer = $layer AND unit = $unit AND sign = $sign"
        nodes = database.frame(f"FROM graph_nodes WHERE {where}", **key)
        members = database.frame(f"FROM token_classes WHERE {where}", **key)
        rules = database.frame(f"FROM graph_rules($study, $layer, $unit, $sign, {SHOWN_RULES})", **key)
        name = unit_text(unit["layer"], unit["unit"], unit["sign"], word)
        title, told = name.capitalize(), f"F1 on its test contexts {wording.plain_share(unit['top_f1'])}"
        if classes:
            r = wording.reached(unit)
            told = f"r on held-out text: {r}" if r else told
            graph = graph_of_rows(nodes, members, bos_id=-1)  # nothing is predicted
            svg = draw_classes(
                graph, stored_importances(nodes), vocabulary, threshold=threshold, title=title, subtitle=told
            )
        else:
            if unit["random_pearson_r"] is not None:
                told = f"r on held-out text {wording.plain_share(unit['random_pearson_r'])}, {told}"
            svg, rules = draw_graph(nodes, title=title, subtitle=told), rules.head(_EXAMPLE_RULES)
        found.append(key | {"name": name, "address": as_address(svg), "rules": rules.to_dicts(), "classes": classes})
    return found


def _vocabulary(database: _Study) -> list[bytes]:
    return database.frame("SELECT token FROM vocabulary WHERE study = $study ORDER BY token_id")["token"].to_list()
