"""What the units of each layer are learnt from: the harvest, contexts that their graphs ask for, and the scan.

Behind the harvest may stand *targeted* contexts (``evidence/targeted.py``): graphs are grown once without them, and ask
for contexts of documents beyond ``harvest.max_tokens``. Behind these may stand the scan of the vocabulary
(``evidence/scan.py``). Graphs and all rivals learn from all of it alike.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from n2g_assets.assets.progress import progress
from n2g_assets.core.errors import CorpusError, N2GError, RowsError
from n2g_assets.core.settings import ClassSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.harvest import HarvestText
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.scan import SCAN_VERSION, scan_contexts
from n2g_assets.evidence.suffixes import drop_suffix_numbers
from n2g_assets.evidence.targeted import TARGETED_VERSION, ask
from n2g_assets.method.class_graphs import Read, grow_unit
from n2g_assets.method.classes import GROWTH_VERSION
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.slices import SliceKey

if TYPE_CHECKING:
    from n2g_assets.assets.session import Session

GROWING_BYTES, GRAPHS_BYTES = 85, 2**31
"""What a graph takes while it grows, a token that it learns from; and all that grow side by side, at the most."""
KIND, _TARGETED = "targeted", "targeted contexts"
"""Kind of the cache's entries that say which contexts were chosen; and their name in messages."""


def graph_threads(tokens: int) -> int:
    """Graphs that grow side by side on so many tokens: one a core, 8 at the most, and as many as 2 GiB hold."""
    return max(1, min(8, os.cpu_count() or 1, GRAPHS_BYTES // (GROWING_BYTES * max(tokens, 1))))


class Learning:
    """What the units of a study are learnt from, layer by layer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._texts: dict[tuple[bool, int | None], HarvestText] = {}
        self._targeted: dict[int, pl.DataFrame] = {}

    def text(self, layer: int) -> HarvestText:
        """The text of a layer, which layers share where they can."""
        targeted = self.targeted(layer)
        key = self.is_scanned(layer), None if targeted is None else layer
        if key not in self._texts:
            self._texts = {other: text for other, text in self._texts.items() if other[1] is None}
            self._texts[key] = self._text_of(layer, targeted)
        return self._texts[key]

    def read(self, layer: int) -> Read:
        """Reads a unit's activations, times its sign, at every token of ``text``; threads may share it."""
        return self._read_of(layer, self.targeted(layer))

    def inputs(self, layer: int) -> dict[str, Any]:
        """What all that is learnt from a layer's text depends on, beside the model and the units."""
        return self._untargeted(layer) | ({"targeted": self.targeted_key(layer)} if self.asked else {})

    def _untargeted(self, layer: int) -> dict[str, Any]:
        """The same of the graphs that ask for targeted contexts."""
        harvest = self._session.settings.harvest
        inputs: dict[str, Any] = {
            "harvest": self._session.harvest_hash, "clusters": self._session.clusters_hash,
            "dtypes": [harvest.dtype, harvest.evidence_dtype],
        }  # fmt: skip
        return inputs | ({"scan": SCAN_VERSION} if self.is_scanned(layer) else {})

    def beside(self, layer: int) -> dict[str, TokenCorpus]:
        """What stands behind the harvest of a layer by now, by name, as the model reads it."""
        can_ask = self.asked and self._session.store.manifest(SliceKey("top_examples", self._session.study.name, layer))
        targeted = self._chosen(layer) if can_ask else None
        scan = {"scan": self.scan_corpus} if self.is_scanned(layer) else {}
        return scan | ({} if targeted is None or targeted.is_empty() else {_TARGETED: TokenCorpus.from_frame(targeted)})

    def drop_numbers(self, layer: int) -> None:
        """Remove the numbers of the runs of a layer's text, where no other layer has that text."""
        text = self._texts.pop((self.is_scanned(layer), layer), None)
        if text is not None:
            drop_suffix_numbers(TokenCorpus.from_frame(text.text.contexts), Cache(self._session.home))

    def _text_of(self, layer: int, targeted: pl.DataFrame | None) -> HarvestText:
        session = self._session
        return HarvestText.of(
            session.contexts, targeted, self.scan if self.is_scanned(layer) else None, session.vocabulary,
            session.cluster_of, Cache(session.home), session.settings.method.class_offsets,
        )  # fmt: skip

    def _read_of(self, layer: int, targeted: pl.DataFrame | None) -> Read:
        session, parts = self._session, [self._session.cached_harvest(layer)]
        if targeted is not None:
            parts.append(session.read_once(_TARGETED, TokenCorpus.from_frame(targeted), layer, [layer]))
        if self.is_scanned(layer):
            together = [other for other in session.together(layer) if self.is_scanned(other)]
            parts.append(session.read_once("scan", self.scan_corpus, layer, together))
        if len(parts) == 1:
            return partial(parts[0].of_unit, layer)
        return lambda unit: np.concatenate([part.of_unit(layer, unit) for part in parts])

    # ------------------------------------------------------------------------------------ the scan
    def is_scanned(self, layer: int) -> bool:
        """Whether the units of a layer are also shown every token of the vocabulary."""
        settings = self._session.settings
        return settings.method.preset == "evidence" and layer < settings.harvest.scanned_layers

    @cached_property
    def scan(self) -> pl.DataFrame:
        """The contexts of the scan of the vocabulary."""
        session = self._session
        return scan_contexts(session.corpus, len(session.vocabulary.tokens), session.vocabulary.bos_id)

    @cached_property
    def scan_corpus(self) -> TokenCorpus:
        """The scan as the model reads it."""
        return TokenCorpus.from_frame(self.scan)

    # ------------------------------------------------------------------------------------ targeted contexts
    @property
    def asked(self) -> int:
        """Contexts that the graph of each unit asks for."""
        settings = self._session.settings
        return settings.harvest.targeted_contexts if settings.method.preset == "evidence" else 0

    def check(self) -> None:
        """Raise a CorpusError, before any pass, where graphs are to ask for contexts and there are none."""
        if self.asked and self.beyond.is_empty():
            raise CorpusError(
                "harvest.targeted_contexts asks for contexts beyond harvest.max_tokens, but the corpus ends there: add "
                "text, lower harvest.max_tokens, or set harvest.targeted_contexts to 0."
            )

    @cached_property
    def beyond(self) -> pl.DataFrame:
        """The contexts of documents that are not held out, but beyond ``harvest.max_tokens``."""
        contexts = self._session.read("contexts").filter(split="harvest")
        return contexts.join(self._session.contexts, on="document_id", how="anti", maintain_order="left")

    def targeted(self, layer: int) -> pl.DataFrame | None:
        """The contexts that the graphs of a layer's units ask for; None where they ask for none.

        They are chosen once, by all units of the layer, and are the same for all of them.
        """
        if not self.asked:
            return None
        self.check()
        if self._chosen(layer) is None:
            self._obtain(layer)
        found = self._chosen(layer)
        return None if found is None or found.is_empty() else found

    def _obtain(self, layer: int) -> None:
        """Has the contexts of a layer chosen, and keeps which they are."""
        session = self._session
        try:
            Cache(session.home).obtain(KIND, self.targeted_key(layer), partial(self._choose, layer))
        except (N2GError, OSError, MemoryError):
            raise
        except Exception as error:  # of no single unit, all of which would be called failed
            session.log.exception("The contexts that graphs of layer %d ask for were not chosen.", layer)
            raise RowsError(
                f"The contexts that graphs of layer {layer} ask for were not chosen ({type(error).__name__}: {error}): "
                "materialize the stages before neuron_graphs, or set harvest.targeted_contexts to 0."
            ) from error

    def _chosen(self, layer: int) -> pl.DataFrame | None:
        """The contexts that were chosen already, by the graphs of the same text, units and settings."""
        if layer not in self._targeted:
            entry = Cache(self._session.home).find(KIND, self.targeted_key(layer))
            if entry is None:
                return None
            chosen = pl.read_parquet(entry.path("contexts.parquet"))["context_id"]
            self._targeted[layer] = self.beyond.filter(pl.col("context_id").is_in(chosen.to_list()))
        return self._targeted[layer]

    def most_tokens(self, layer: int) -> int:
        """The most tokens that ``targeted`` contexts of a layer can have, BOS included."""
        longest, there = self._session.settings.harvest.context_length, int(self.beyond["token_ids"].list.len().sum())
        return min(there, self.asked * len(self._session.units(layer)) * longest)

    def targeted_key(self, layer: int) -> str:
        """The key in the cache of which contexts the graphs of a layer ask for."""
        session = self._session
        method, firings = session.settings.method, session.settings.harvest.targeted_firings
        of = {
            "versions": [TARGETED_VERSION, GROWTH_VERSION], "model": session.units_hash(layer),
            "layer": layer, "units": session.units(layer),
            "inputs": self._untargeted(layer),
            "beyond": self.beyond["context_id"].to_list(), "asked": self.asked,
            "per_document": method.contexts_per_document, "graphs": method.part(ClassSettings).hashed(),
            "top_examples": session.manifest("top_examples", layer).content_hash,
        }  # fmt: skip
        return hash_json(of if firings is None else of | {"firings": firings})

    def _is_rare(self, unit: Unit, a_max: float, read: Read) -> bool:
        """Whether a unit fires so rarely in the harvest that it asks."""
        settings = self._session.settings
        if settings.harvest.targeted_firings is None:
            return True
        corpus = self._session.corpus
        fires = read(unit)[: len(corpus.token_ids)] >= settings.method.firing_threshold * a_max
        return int(np.count_nonzero(fires & (corpus.positions > 0))) < settings.harvest.targeted_firings

    def _choose(self, layer: int, folder: Path) -> None:
        """Writes which contexts the graphs ask for that are grown on the rest."""
        session, corpus = self._session, TokenCorpus.from_frame(self.beyond)
        text, read = self._text_of(layer, None), self._read_of(layer, None)
        asking = session.units(layer)
        top, a_max = session.read("top_examples", layer, units=asking), session.a_max(layer, asking)
        settings, bos_id, chosen = session.settings.method.part(ClassSettings), session.vocabulary.bos_id, set[int]()
        lagged, keys = text.lagged, top.select("unit", "sign").unique(maintain_order=True)
        units = [Unit(*key) for key in keys.iter_rows()]

        def asked_by(unit: Unit) -> list[int]:
            if not self._is_rare(unit, a_max[unit], read):
                return []
            own = top.filter(unit=unit.number, sign=unit.sign)
            graph = grow_unit(unit, own, a_max[unit], settings, lagged, read, text.without, bos_id)
            return ask(graph, corpus, self.asked, session.settings.method.contexts_per_document)

        with (
            progress(f"{session.study.name}/targeted contexts of layer {layer}", "units", session.log.info) as show,
            ThreadPoolExecutor(graph_threads(len(lagged.half))) as pool,
        ):
            for number, found in enumerate(pool.map(asked_by, units)):
                chosen.update(found)
                show(number + 1, len(units))
        self.beyond[sorted(chosen)].select("context_id", "document_id").write_parquet(folder / "contexts.parquet")
