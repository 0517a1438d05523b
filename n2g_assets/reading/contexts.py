"""The contexts on which a study's units are scored, for those who predict them: ``n2g export-contexts``."""

import polars as pl

from n2g_assets.core import registry
from n2g_assets.corpus.contexts import held_out_texts
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.study import Study

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "context_id": pl.String, "texts": pl.List(pl.String),
    "units": pl.List(pl.Struct({"layer": pl.Int32, "unit": pl.Int32, "sign": pl.Int8})),
    "token_ids": pl.List(pl.Int32), "tokens": pl.List(pl.String),
}  # fmt: skip


def scored_contexts(study: Study) -> pl.DataFrame:
    """A row a context, with the texts that have it, its token ids and the tokens for reading.

    Contexts of ``random`` and ``out_of_domain`` are for every unit, those of ``top`` for the ``units`` named there:
    they are their own test contexts. Position 0 is no text, and nothing is to be predicted there.
    """
    settings = study.settings
    texts = registry.named(registry.of_study(registry.TEXTS, settings["preset"], settings["method"]["preset"]))
    amounts = (settings["evaluation"][f"{name}_tokens"] for name in ("random", "out_of_domain"))
    held_out = held_out_texts(study.frame("FROM contexts WHERE study = $study ORDER BY ALL"), *amounts)
    rows: dict[str, dict] = {}

    def row(context_id: str, token_ids: list[int]) -> dict:
        return rows.setdefault(context_id, {"texts": [], "units": [], "token_ids": token_ids})

    for name, contexts in held_out.items():
        for context_id, token_ids in contexts.select("context_id", "token_ids").iter_rows() if name in texts else ():
            row(context_id, token_ids)["texts"].append(name)
    tops = study.frame("""
        SELECT context_id, token_ids, layer, unit, sign FROM top_examples
        WHERE study = $study AND split = 'test' ORDER BY ALL""")
    for context_id, token_ids, layer, unit, sign in tops.iter_rows():
        found = row(context_id, token_ids)
        found["texts"] += ["top"] * ("top" not in found["texts"])
        found["units"].append({"layer": layer, "unit": unit, "sign": sign})
    shown = [display_text(token) for token in study.vocabulary.tokens]
    return pl.DataFrame(
        [
            {"context_id": context_id, **found, "tokens": [shown[token] for token in found["token_ids"]]}
            for context_id, found in rows.items()
        ],
        schema=_SCHEMA,
    )
