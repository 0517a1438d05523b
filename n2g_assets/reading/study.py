"""A study and its units as objects: tables of scores, graphs that predict, examples with activations.

``open_study`` is where one starts. Frames hold what the database's views hold; a unit's rows are read when asked for.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Int32

from n2g_assets.core.errors import MissingError
from n2g_assets.core.home import Home
from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.core.unit_settings import unit_word
from n2g_assets.core.units import unit_text
from n2g_assets.method.class_rows import graph_of_rows, stored_importances
from n2g_assets.method.probing import Vocabulary
from n2g_assets.model.vocabulary import vocabulary_from_rows
from n2g_assets.reading.database import Database, Snapshot
from n2g_assets.reading.examples import UNIT, Example, counterexamples, strength_examples, top_contexts
from n2g_assets.reading.exports import graph_data, graph_dot, graph_networkx
from n2g_assets.reading.graph import UnitGraph, unit_graph
from n2g_assets.reading.ordered import Before, How
from n2g_assets.reading.search import Search, search_study
from n2g_assets.reading.text import encode
from n2g_assets.report.class_picture import draw_classes
from n2g_assets.report.svg import draw_graph
from n2g_assets.report.text import layers_listed, share

if TYPE_CHECKING:
    import networkx as nx

GRAPH_RULES = "FROM graph_rules($study, $layer, $unit, $sign, $n)"
"""The rules of the best graph of ``$n`` rules of a unit."""


def open_study(name: str, home: Home | None = None) -> "Study":
    """A published study.

    Args:
        name: its name, such as ``demo``.
        home: where it is published; without one that of the environment (``$N2G_HOME``).

    Raises:
        StorageError: nothing is published there.
        MissingError: the study is not.
    """
    home = home or Home.from_environment()
    return Study(Database.of(home).snapshot(), name)


class Study:
    """What one published study holds."""

    def __init__(self, database: Snapshot, name: str) -> None:
        self.database, self.name = database, name
        self.home = database.home
        """Where it is published."""
        found = database.remembered(
            ("study", name), lambda: database.rows("FROM studies WHERE study = $name", name=name)
        )
        if not found:
            names = ", ".join(study_names(database)) or "none"
            raise MissingError(f"There is no study {name!r} in the database: choose one of {names}.")
        self.control_of: str | None = found[0]["control_of"]
        """The study whose control it is."""
        self.settings: dict[str, Any] = json.loads(found[0]["settings"])
        """All its settings."""
        self.versions: dict[str, str] = json.loads(found[0]["versions"])
        """Versions of the packages that it was made with."""

    def __repr__(self) -> str:
        return f"<Study {self.name}: {self.model['model']}, {layers_listed(self.layers)}>"

    @property
    def threshold(self) -> float:
        """Normalised activation from which a unit fires."""
        return float(self.settings["method"]["firing_threshold"])

    @property
    def has_classes(self) -> bool:
        """Whether its graphs are of token classes."""
        return bool(self.settings["method"].get("preset") == "evidence")

    @cached_property
    def model(self) -> dict[str, Any]:
        """Its row of ``subject_models``.

        Raises:
            MissingError: it is not published.
        """
        found = self.rows("FROM subject_models WHERE study = $study")
        if not found:
            raise MissingError(
                f"The model of study {self.name!r} is not published: materialize its subject_model and its warehouse "
                "again."
            )
        return found[0]

    @property
    def word(self) -> str:
        """What its units are called: neurons, latents of an encoder, or heads."""
        return unit_word(self.settings.get("units"))

    @cached_property
    def encoders(self) -> dict[int, dict[str, Any]]:
        """By layer, the encoder whose latents are its units, or heads: the row of ``encoders``; none for neurons."""
        if "units" not in self.settings:
            return {}
        return {row["layer"]: row for row in self.rows("FROM encoders WHERE study = $study ORDER BY layer")}

    @cached_property
    def layers(self) -> list[int]:
        """The layers that have units, ascending."""
        return self.frame("SELECT DISTINCT layer FROM ledger WHERE study = $study ORDER BY layer")["layer"].to_list()

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of its model."""
        return self.database.remembered(("vocabulary", self.name), self._read_vocabulary)

    def frame(self, query: str, **values: Any) -> pl.DataFrame:
        """The rows of a query in SQL, in which ``$study`` is the study's name, and ``$name`` each of ``values``.

        Raises:
            QueryError: it names what is not there, or is no SQL.
            LimitError: it takes too long or too much memory.
        """
        return self.database.frame(query, **self._named(query), **values)

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """As ``frame``, each row by the names of its columns."""
        return self.database.rows(query, **self._named(query), **values)

    def _named(self, query: str) -> dict[str, str]:
        return {"study": self.name} if "$study" in query else {}

    def units(self) -> pl.DataFrame:
        """Every unit on one line with its scores (the view ``fidelity_card``)."""
        return self.frame("FROM fidelity_card WHERE study = $study ORDER BY layer, unit, sign DESC")

    def scores(self) -> pl.DataFrame:
        """Means over the units of each layer, by predictor and text (the view ``layer_summary``)."""
        return self.frame("FROM layer_summary WHERE study = $study ORDER BY layer, text, predictor")

    def unit(self, layer: int, number: int, sign: int = 1) -> "Unit":
        """One unit.

        Raises:
            MissingError: the study does not ask about it.
        """
        key = (self.name, layer, number, sign)
        return self.database.remembered(key, lambda: Unit(self, layer, number, sign))

    def search(
        self,
        activating: str = "",
        *,
        context: str = "",
        how: How = "caseless",
        nearest: int = 1,
        furthest: int | None = None,
        earlier: Sequence[Before] = (),
        layer: int | None = None,
        least_r: float | None = None,
        text: str = "",
    ) -> pl.DataFrame:
        """Units by the tokens that their rules want, or by a text of one's own, as on the explorer's search page.

        Args:
            activating: token on which the unit fires; empty for any.
            context: token that stands before it; empty for none.
            how: tokens are compared caseless (any case, with or without spaces around them), exact, by their prefix,
                or as a regex (a regular expression).
            nearest: fewest places that ``context`` stands before ``activating``.
            furthest: most places; None for any.
            earlier: tokens that the same rule wants before ``context``, the nearest first, each with its places.
            layer: only units of this layer.
            least_r: only units whose graph reaches this Pearson's r on held-out text.
            text: instead of tokens: which units' graphs light up where. All units are tried where there are at the most
                500, and otherwise those whose rules want a token of the text, so that others may be missed; so are
                those that are not tried within four seconds, the least promising, and those that expect less than .05.

        Returns:
            A row a unit, the strongest first, with what its graph expects: ``activation`` and ``top_pattern`` of a
            search by tokens, ``predicted``, ``position`` and ``token`` of a search by a text. No rows where no rule
            of the units wants these tokens.

        Raises:
            MissingError: the vocabulary has no such token, or the study no such layer.
            QueryError: nothing is asked, or what is asked is mistaken.
            LimitError: it takes too long.
        """
        asked = Search(activating, context, how, nearest, furthest, tuple(earlier), self.name, layer, least_r)
        return search_study(self, asked, text)

    def encode(self, text: str) -> Int32[np.ndarray, " length"]:
        """A text as its model reads it (``text.encode``)."""
        return encode(self, text)

    def _read_vocabulary(self) -> Vocabulary:
        rows = self.frame("SELECT token_id, token, normalised FROM vocabulary WHERE study = $study")
        return vocabulary_from_rows(rows, bos_id=self.model["bos_id"], mask_id=self.model["mask_id"])


def study_names(database: Snapshot) -> list[str]:
    """The published studies; controls behind the others."""
    rows = database.frame("SELECT study FROM studies ORDER BY control_of IS NOT NULL, study")
    return rows["study"].to_list()


def unit_words(database: Snapshot) -> dict[str, str]:
    """What the units of each published study are called."""
    rows = database.rows("SELECT study, settings ->> '$.units' AS units FROM studies")
    return {row["study"]: unit_word(row["units"]) for row in rows}


class Unit:
    """One unit of a study: a neuron of a layer, a latent of its encoder, or a head, with a sign."""

    def __init__(self, study: Study, layer: int, number: int, sign: int = 1) -> None:
        self.study, self.layer, self.number, self.sign = study, layer, number, sign
        found = self.rows("unit_status", order="sign")
        if not found:
            there = ", ".join(map(str, study.layers)) or "none"
            raise MissingError(
                f"Study {study.name!r} has no {unit_text(layer, number, sign, study.word)}: it has layers {there}, and "
                "fidelity_card lists their units."
            )
        self.status: str = found[0]["status"]
        """ok, dead, too_few_contexts or failed."""
        self.reason: str = found[0]["reason"]
        """Why it is not ok."""

    def __str__(self) -> str:
        """It for reading, such as ``layer 7, neuron 12``."""
        return unit_text(self.layer, self.number, self.sign, self.study.word)

    def __repr__(self) -> str:
        if self.status != "ok":
            return f"<Unit {self} of study {self.study.name}: {self.status}>"
        r, pattern = share(self.card["random_pearson_r"], 2), self.card["top_pattern"] or "nothing"
        return f"<Unit {self} of study {self.study.name}: r {r} on held-out text, fires most on {pattern}>"

    @property
    def key(self) -> dict[str, int]:
        """The columns ``layer``, ``unit`` and ``sign`` of its rows."""
        return {"layer": self.layer, "unit": self.number, "sign": self.sign}

    def frame(
        self, table: str, where: str = "true", order: str = "ALL", columns: str = "*", **values: Any
    ) -> pl.DataFrame:
        """Its rows of a table or view that meet a condition, in which ``$name`` stands for each of ``values``."""
        return self.study.frame(self._query(table, where, order, columns), **self.key, **values)

    def rows(
        self, table: str, where: str = "true", order: str = "ALL", columns: str = "*", **values: Any
    ) -> list[dict[str, Any]]:
        """As ``frame``, each row by the names of its columns."""
        return self.study.rows(self._query(table, where, order, columns), **self.key, **values)

    @staticmethod
    def _query(table: str, where: str, order: str, columns: str) -> str:
        return f"SELECT {columns} FROM {table} WHERE {UNIT} AND ({where}) ORDER BY {order}"

    @cached_property
    def card(self) -> dict[str, Any]:
        """Its row of ``fidelity_card``."""
        return self.rows("fidelity_card", order="sign")[0]

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Its row of ``neuron_stats``; empty where it has none."""
        return next(iter(self.rows("neuron_stats", order="sign")), {})

    @property
    def a_max(self) -> float:
        """Its largest activation over the harvest; 0 where it is not known."""
        return float(self.statistics.get("max") or 0.0)

    @cached_property
    def graph(self) -> UnitGraph:
        """Its token graph, of all its rules."""
        return unit_graph(self)

    def predict(self, text: str, n_rules: int | None = None) -> pl.DataFrame:
        """What its graph says about every token of a text (``UnitGraph.predict``), a row a token."""
        return self.graph.predict(text, n_rules)

    def svg(self, n_rules: int = SHOWN_RULES, link: Callable[[int, int], str] = lambda node, offset: "") -> str:
        """The picture of its best graph of ``n_rules`` rules; of a graph of the paper the strongest nodes.

        ``link`` gives the address of a class, by the node at which its rule ends and its offset; empty for none.
        """
        title = f"{self.study.name}, {self}"
        r = share(self.card["random_pearson_r"], 2)
        subtitle = f"r on held-out text of all its rules: {r}"
        if not self.study.has_classes:
            return draw_graph(self.graph.nodes, title=title, subtitle=subtitle)
        nodes, classes, graph = self.graph.nodes, self.graph.classes, self.graph.of_classes
        return draw_classes(
            graph or graph_of_rows(nodes, classes, bos_id=-1), stored_importances(nodes), self.study.vocabulary.tokens,
            threshold=self.study.threshold, title=title, subtitle=subtitle, n_rules=n_rules, link=link,
        )  # fmt: skip

    def _repr_svg_(self) -> str:
        """Its picture, for notebooks."""
        return self.svg()

    def to_json(self, n_rules: int = SHOWN_RULES) -> dict[str, Any]:
        """Its graph as plain data (``exports.graph_data``)."""
        return graph_data(self, n_rules)

    def to_networkx(self, n_rules: int = SHOWN_RULES) -> "nx.DiGraph":
        """Its graph as networkx (``exports.graph_networkx``)."""
        return graph_networkx(self, n_rules)

    def to_dot(self, n_rules: int = SHOWN_RULES) -> str:
        """Its graph in the DOT language."""
        return graph_dot(self, n_rules)

    def rules(self, n_rules: int = SHOWN_RULES) -> pl.DataFrame:
        """The rules of its best graph of ``n_rules`` rules, strongest first (the macro ``graph_rules``)."""
        return self.study.frame(GRAPH_RULES, **self.key, n=n_rules)

    def sizes(self, text: str = "random") -> pl.DataFrame:
        """How good its best graph of so many rules is on a text (the table ``size_curve``)."""
        return self.frame("size_curve", "text = $text", "n_rules", text=text)

    def scores(self) -> pl.DataFrame:
        """Its scores by predictor and text (the table ``evaluation``)."""
        return self.frame("evaluation", order="text, predictor")

    def top_contexts(self) -> list[Example]:
        """Its strongest contexts with their activations, strongest first."""
        return top_contexts(self)

    def strength_examples(self) -> list[Example]:
        """Contexts of held-out text of every strength, the strongest first; none where no such text is scored."""
        return strength_examples(self)

    def counterexamples(self) -> list[Example]:
        """Contexts of held-out text in which its graph is most wrong, the worst of each kind first."""
        return counterexamples(self)

    def output_tokens(self) -> pl.DataFrame:
        """The tokens whose logits it raises and lowers most (the table ``output_tokens``), with their texts."""
        query = f"""
            SELECT direction, rank, token_id, text, effect FROM output_tokens JOIN vocabulary USING (study, token_id)
            WHERE {UNIT} ORDER BY direction DESC, rank"""
        return self.study.frame(query, **self.key)

    def explanations(self) -> pl.DataFrame:
        """What other people's explanations say of it, and how much each predicts (the table ``explanations``)."""
        return self.frame("explanations", order="explanation, place").drop("study", "layer", "unit", "sign")
