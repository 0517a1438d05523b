"""Text of one's own: its tokens as the study's model reads them, and what a unit's graph says about each."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Int32

from n2g_assets.core.errors import LimitError, MissingError, SourceError, short_reason
from n2g_assets.method.tokens import display_text
from n2g_assets.model.installed import TOKENIZER, tokenizer_file
from n2g_assets.model.tokens import document_backend, encode_documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from n2g_assets.reading.study import Study, Unit

MOST_CHARACTERS = 1_000_000
"""Of a text."""

PREDICTED = {
    "position": pl.Int32, "token_id": pl.Int32, "text": pl.String, "predicted": pl.Float32, "rule_id": pl.Int32,
    "rule": pl.String,
}  # fmt: skip
"""Columns of what ``predict_text`` gives."""


def encode(study: "Study", text: str, folder: Path | None = None) -> Int32[np.ndarray, " length"]:
    """A text as the study's model reads it: its BOS at position 0, then the tokens.

    Args:
        study: whose model it is.
        text: of any length up to ``MOST_CHARACTERS``.
        folder: holds the tokenizer, where it is not to be looked for.

    Raises:
        LimitError: the text is too long.
        MissingError: the tokenizer is not on this machine.
        SourceError: it is damaged.
        SubjectError: it is not that of the model.
    """
    if len(text) > MOST_CHARACTERS:
        raise LimitError(f"The text has {len(text):,} characters: give {MOST_CHARACTERS:,} at the most.")
    model = study.model
    backend = study.database.remembered(("tokenizer", study.name, folder), lambda: _backend(study, folder))
    whole = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text
    [ids] = encode_documents(backend, [whole], model["d_vocab"])
    return np.concatenate([[model["bos_id"]], ids]).astype(np.int32)


def _backend(study: "Study", folder: Path | None) -> "Tokenizer":
    model = study.model
    file = (
        folder / TOKENIZER
        if folder
        else tokenizer_file(model, study.settings["subject"], study.home.folder_of(study.name), study.home)
    )
    if file is None or not file.is_file():
        where = f"in {folder}" if folder else "on this machine"
        raise MissingError(
            f"The tokenizer of {model['model']} is not {where}: run the study {study.name!r} here, or name the folder "
            f"of the model's {TOKENIZER}, such as with --tokenizer."
        )
    try:
        return document_backend(file.read_text(encoding="utf-8"), model["d_vocab"])
    except Exception as error:  # the library has one class for all that can be wrong with it
        raise SourceError(
            f"{file} cannot be read ({short_reason(error)}): put the model's {TOKENIZER} there anew."
        ) from error


def predict_text(
    unit: "Unit", text: str, folder: Path | None = None, n_rules: int | None = None
) -> list[dict[str, Any]]:
    """What a unit's graph says about every token of a text: its text and id, the prediction, and the rule that spoke.

    Args:
        unit: whose graph is asked.
        text: as for ``encode``.
        folder: as for ``encode``.
        n_rules: the graph of how many rules; None for the largest.

    Raises:
        N2GError: as ``encode``.
    """
    token_ids = encode(unit.study, text, folder)
    predicted = unit.graph.predict_ids(token_ids, n_rules)
    rules = {row["end_node_id"]: row for row in unit.rows("rules")}
    tokens = unit.study.vocabulary.tokens
    found = []
    for position in range(1, len(token_ids)):
        rule = rules.get(int(predicted.nodes[position]), {})
        found.append(
            {
                "position": position, "token_id": int(token_ids[position]),
                "text": display_text(tokens[token_ids[position]]), "predicted": float(predicted.values[position]),
                "rule_id": rule.get("rule_id"), "rule": rule.get("pattern"),
            }
        )  # fmt: skip
    return found
