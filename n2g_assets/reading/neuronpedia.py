"""A study as the files that Neuronpedia imports, which `github.com/hijohnnylin/neuronpedia` declares.

1. A layer's units of one sign are a *source*, and the study's sources a *source set*. A source has a folder of its own,
   as in Neuronpedia's bucket of data sets: what it is (``release``, ``model``, ``sourceset``, ``source``), and batches
   of rows of the tables Neuron, Activation, Explanation and ExplanationScore. All lines of a table have the same names,
   since the import takes its columns from the first line.
2. A unit's explanation is made of the rules of its best graph, and its scores are those of this very graph on held-out
   text.
3. ``config`` names the kinds of explanations and scores, to which their rows refer.

What is left out has a default there, such as the time of the import.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.progress import Progress
from n2g_assets.core.registry import SHOWN_RULES, USED_FROM
from n2g_assets.core.unit_settings import HEAD
from n2g_assets.method.class_rows import reach
from n2g_assets.reading.study import Study, Unit
from n2g_assets.storage.files import new_folder

BATCH = 1024
"""Units whose rows a file holds, as in Neuronpedia's own exports."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""The account of every Neuronpedia to which what is uploaded belongs; its seed makes it."""
PROJECT = "n2g_assets"
"""Who made it, for reading."""
EXPLANATION = "n2g_rules"
"""Kind of the explanations, and the explainer."""
SCORES = {
    "n2g_pearson-r": ("pearson_r", "Pearson's r of predicted and actual activation"),
    "n2g_average-precision": ("average_precision", "average precision with which firing is predicted"),
    "n2g_f1": ("f1", "F1 with which firing is predicted"),
}
"""Kinds of scores by name: their column, and what they are."""

_ROWS = ("features", "activations", "explanations", "scores")

Row = dict[str, Any]


class Written(NamedTuple):
    """What an export has written."""

    size: int
    """Bytes."""
    unexplained: list[str]
    """Units without an explanation, since they have no graph, for reading."""


def export_neuronpedia(
    study: Study, out: Path, progress: Progress, *, model: str | None = None, force: bool = False
) -> Written:
    """Write a study as Neuronpedia imports it.

    Args:
        study: the study.
        out: the folder, which is not there yet or empty, and is there as a whole or not at all.
        progress: called with the number of units.
        model: what Neuronpedia calls the model; None for the name that the study has for it.
        force: replace an earlier export.

    Raises:
        SettingsError: Neuronpedia allows no such name of a model.
        StorageError: something else is in the folder, or it cannot be written.
    """
    model_id = _slug(study.model["model"].rpartition("/")[2]).lower() if model is None else model
    if not re.fullmatch(r"[a-z0-9_-]{1,128}", model_id):
        raise SettingsError(
            f"Neuronpedia allows no model {model_id!r:.80}: name it with small letters, digits, - and _ (--model-id)."
        )
    units = study.frame(
        "SELECT layer, sign, unit FROM unit_status WHERE study = $study ORDER BY layer, sign DESC, unit"
    )
    with new_folder(out, force=force) as folder:
        written, done = _write_all(folder / "config", _config()), 0
        unexplained: list[str] = []
        for (layer, sign), part in units.group_by("layer", "sign", maintain_order=True):
            source = _source_id(study, layer, sign)
            place = folder / model_id / source
            written += _write_all(place, _about(study, model_id, source))
            for number, batch in enumerate(part.iter_slices(BATCH)):
                rows: dict[str, list[Row]] = {name: [] for name in _ROWS}
                for index in batch["unit"]:
                    progress(done, units.height)
                    unit = study.unit(layer, index, sign)
                    if not _add(rows, unit, {"modelId": model_id, "layer": source}):
                        unexplained.append(str(unit))
                    done += 1
                written += sum(
                    _write(place / name / f"batch-{number}.jsonl.gz", rows[name]) for name in _ROWS if rows[name]
                )
        progress(done, units.height)
    return Written(written, unexplained)


# -------------------------------------------------------------------------------------------- units
def _add(rows: dict[str, list[Row]], unit: Unit, source: Row) -> bool:
    """Appends a unit's rows, by the folders of their tables; whether it has an explanation."""
    key = source | {"index": str(unit.number)}
    rows["features"].append(_neuron(unit, key))
    rows["activations"] += _activations(unit, key)
    explanation = _explanation(unit, key)
    if explanation is not None:
        rows["explanations"].append(explanation)
        rows["scores"] += _scores(unit, explanation["id"])
    return explanation is not None


def _neuron(unit: Unit, key: Row) -> Row:
    row = key | {
        "creatorId": CREATOR, "sourceSetName": _set_name(unit.study), "maxActApprox": _number(unit.a_max),
        "hookName": f"blocks.{unit.layer}.{unit.study.model['hook']}",
        "frac_nonzero": _number(unit.statistics.get("share_positive") or 0.0),
    }  # fmt: skip
    written = unit.output_tokens()
    for short, direction in (("pos", "raised"), ("neg", "lowered")):
        there = written.filter(direction=direction)
        row[f"{short}_str"] = [_token(unit, token) for token in there["token_id"]]
        row[f"{short}_values"] = [_number(value) for value in there["effect"]]
    return row


def _activations(unit: Unit, key: Row) -> Iterator[Row]:
    for example in unit.top_contexts():
        if example.activations is None:
            continue
        values = [_number(float(value) * unit.a_max) for value in example.activations[1:]]
        largest = max(values)
        yield {"id": _id(*key.values(), example.title, example.token_ids.tobytes())} | key | {
            "creatorId": CREATOR, "tokens": [_token(unit, token) for token in example.token_ids[1:]], "values": values,
            "maxValue": largest, "maxValueTokenIndex": values.index(largest), "minValue": min(values),
        }  # fmt: skip


def _explanation(unit: Unit, key: Row) -> Row | None:
    """The rules that reach something, the furthest first, or else the one that reaches furthest; None without a graph.

    A class expects little on average where it holds many tokens, however much it expects of some of them.
    """
    rules = unit.rules()
    if rules.is_empty():
        return None
    reached, graph = rules["activation"].to_numpy(), unit.graph.of_classes
    if graph is not None:
        reached = np.array([reach(graph, node) for node in rules["end_node_id"]])
    order = np.argsort(-reached, kind="stable")
    kept = order[: max(1, int(np.count_nonzero(reached >= USED_FROM)))].tolist()
    texts = [f"{rules['pattern'][place]} ({reached[place]:.2f})" for place in kept]
    return {"id": _id(*key.values(), "explanation")} | key | {
        "authorId": CREATOR, "description": "; ".join(texts), "typeName": EXPLANATION,
        "explanationModelName": EXPLANATION, "notes": f"{unit.study.name}, {unit}",
    }  # fmt: skip


def _scores(unit: Unit, explanation: str) -> Iterator[Row]:
    """Those of the graph whose rules the explanation shows, on held-out text drawn at random."""
    if unit.study.has_classes:
        found = unit.rows("size_curve", "text = 'random' AND n_rules = $n", n=SHOWN_RULES)
    else:
        found = unit.rows("evaluation", "text = 'random' AND predictor = 'graph'")
    for row in found:
        for name, (column, _) in SCORES.items():
            if row[column] is not None:
                details = {"text": row["text"], "low": row[f"{column}_low"], "high": row[f"{column}_high"]}
                yield {
                    "id": _id(explanation, name), "initiatedByUserId": CREATOR, "explanationId": explanation,
                    "value": _number(row[column]), "explanationScoreTypeName": name,
                    "explanationScoreModelName": EXPLANATION, "jsonDetails": json.dumps(details),
                }  # fmt: skip


def _token(unit: Unit, token_id: int) -> str:
    """A token's text as it is; a part of a character is the sign for what cannot be read."""
    return unit.study.vocabulary.tokens[token_id].decode("utf-8", "replace")


def _number(value: float) -> float:
    return float(f"{value:.5g}")


# -------------------------------------------------------------------------------------------- what it is
def _about(study: Study, model_id: str, source: str) -> dict[str, list[Row]]:
    """The files that say what a source is, without their ending."""
    name, model = _set_name(study), study.model
    about = f"Token graphs of study {study.name}: rules that predict {_what(study)}"
    corpus = study.frame(
        "SELECT DISTINCT source FROM documents WHERE study = $study AND split = 'harvest' ORDER BY ALL"
    )
    shared = {"creatorId": CREATOR, "visibility": "PUBLIC"}
    return {
        "release": [shared | {"name": name, "description": about, "creatorName": PROJECT}],
        "model": [
            shared | {
                "id": model_id, "displayName": model["model"], "displayNameShort": model["model"],
                "layers": model["n_layers"], "neuronsPerLayer": model["d_mlp"], "dimension": model["d_model"],
                "owner": PROJECT,
            }
        ],
        "sourceset": [
            shared | {
                "modelId": model_id, "name": name, "description": about, "type": "neurons", "creatorName": PROJECT,
                "releaseName": name,
            }
        ],
        "source": [
            shared | {
                "id": source, "modelId": model_id, "setName": name, "dataset": ", ".join(corpus["source"]),
                "num_tokens_in_prompt": study.settings["harvest"]["context_length"],
            }
        ],
    }  # fmt: skip


def _what(study: Study) -> str:
    """What the units of a study are."""
    hook = study.model["hook"]
    if study.word == HEAD:
        return f"attention heads, each by the norm of what it adds to the residual stream, at {hook}"
    encoders = sorted({f"{row['format']} ({row['architecture']})" for row in study.encoders.values()})
    return f"latents of {', '.join(encoders)} at {hook}" if encoders else str(hook)


def _config() -> dict[str, list[Row]]:
    """The kinds to which explanations and scores refer; all five files that the import reads."""
    made = {"creatorName": PROJECT}
    explained = {
        "name": EXPLANATION, "displayName": "rules of a token graph",
        "description": "Rules, strongest first, each with the share of the largest activation that it expects, at the "
        "token of which it expects most. "
        "[x] is the activating token, {a|b|+7} any of a class, {not a|b} none of it, * any token.",
    }  # fmt: skip
    predicted = "of the graph whose rules the explanation shows, on held-out text drawn at random"
    return {
        "explanation_type": [explained | made | {"creatorId": CREATOR}],
        "explanation_model_type": [explained | made],
        "explanation_score_type": [
            {"name": name, "displayName": name, "description": f"{what} {predicted}", "creatorId": CREATOR} | made
            for name, (_, what) in SCORES.items()
        ],
        "explanation_score_model": [explained | made],
        "eval_type": [],
    }


def _set_name(study: Study) -> str:
    return f"n2g-{_slug(study.name)}"


def _source_id(study: Study, layer: int, sign: int) -> str:
    """What stands behind ``__`` sets sources of a set and a layer apart."""
    return f"{layer}-{_set_name(study)}" + ("" if sign > 0 else "__negative")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


# -------------------------------------------------------------------------------------------- files
def _id(*parts: str | bytes) -> str:
    """An id in the form of Neuronpedia's own; the same for the same rows."""
    text = b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return "c" + hashlib.sha256(text).hexdigest()[:24]


def _write_all(folder: Path, files: dict[str, list[Row]]) -> int:
    return sum(_write(folder / f"{name}.jsonl", rows) for name, rows in files.items())


def _write(file: Path, rows: Iterable[Row]) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    return file.write_bytes(gzip.compress(content, mtime=0) if file.suffix == ".gz" else content)
