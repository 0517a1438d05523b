"""What a step works with: its study, the store, the subject model (loaded when first needed) and the vocabulary.

The loaded model is the one piece of state of a process: a run executes in one process, so it is loaded once a run.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from n2g_assets.assets.learning import Learning
from n2g_assets.assets.progress import progress
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings, StudySettings
from n2g_assets.core.units import Unit, select_units
from n2g_assets.corpus.contexts import first_documents, held_out_texts
from n2g_assets.evaluation.reach import Windows, cut_windows
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.explanations.study import explanation_hash
from n2g_assets.method.probing import Prober, Vocabulary
from n2g_assets.model.folder import model_identity
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json, schema_hash
from n2g_assets.storage.slices import Manifest, SliceKey, SliceStore

if TYPE_CHECKING:
    from n2g_assets.evidence.store import Evidence
    from n2g_assets.model.batching import TokenBudget
    from n2g_assets.model.encoders.heads import HeadsOfLayers
    from n2g_assets.model.encoders.resolve import Encoders
    from n2g_assets.model.model import SubjectModel
    from n2g_assets.model.sources import SubjectFiles


class Session:
    """What the steps of one study work with."""

    def __init__(self, study: Study, home: Home, log: logging.Logger, *, retry_failed: bool = False) -> None:
        self.study, self.home, self.log, self.retry_failed = study, home, log, retry_failed
        self.settings: StudySettings = study.settings
        self.store = SliceStore(home)
        self.share: Sequence[Unit] | None = None
        """Units of a layer that are to be computed and no more, or None."""
        self.layers_together: tuple[int, ...] = ()
        """Layers that are still to be scored, whose units are read on a text together."""
        self._harvested: dict[int, Evidence] = {}
        self._cached_texts: dict[int, dict[str, Evidence]] = {}
        self._cached: dict[tuple[str, int], Evidence] = {}

    # ------------------------------------------------------------------------------------ what is stored
    def read(
        self, table: str, layer: int | None = None, part: str = "rows",
        columns: Sequence[str] | None = None, units: Sequence[Unit] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """The rows of one of this study's slices, or those of some units alone.

        Raises:
            StorageError: the slice is not there, or is damaged.
        """
        return self.store.read(SliceKey(table, self.study.name, layer, part), columns=columns, units=units)

    def manifest(self, table: str, layer: int | None = None) -> Manifest:
        """The manifest of one of this study's slices.

        Raises:
            StorageError: the slice is not there.
        """
        manifest = self.store.manifest(SliceKey(table, self.study.name, layer))
        if manifest is None:
            where = f" of layer {layer}" if layer is not None else ""
            raise StorageError(
                f"The table {table}{where} of study '{self.study.name}' is not there yet: materialize its asset first."
            )
        return manifest

    @cached_property
    def model_row(self) -> dict[str, Any]:
        """The study's row of ``subject_models``; with ``units``, by layer its rows of ``encoders`` under this name."""
        row = self.read("subject_models").row(0, named=True)
        if self.settings.units is None:
            return row
        encoders = {each["layer"]: each for each in self.read("encoders").iter_rows(named=True)}
        if unread := set(self.settings.layer_numbers) - encoders.keys():
            raise StorageError(f"Encoders of layers {sorted(unread)} are missing: materialize subject_model first.")
        return row | {"encoders": encoders}

    @property
    def model_hash(self) -> str:
        """What every number depends on: weights, config and tokenizer, the hook, BOS and mask token."""
        return model_identity(self.model_row)

    def units_hash(self, layer: int) -> str:
        """What every number of a layer's units depends on: that, and the layer's encoder, where there is one."""
        return model_identity(self.model_row, layer)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, read from its table."""
        from n2g_assets.model.vocabulary import vocabulary_from_rows

        row = self.model_row
        return vocabulary_from_rows(self.read("vocabulary"), bos_id=row["bos_id"], mask_id=row["mask_id"])

    @cached_property
    def contexts(self) -> pl.DataFrame:
        """The contexts of the harvest, by document: whole documents until ``harvest.max_tokens`` is reached."""
        return first_documents(self.read("contexts").filter(split="harvest"), self.settings.harvest.max_tokens)

    @cached_property
    def learning(self) -> Learning:
        """What the units of each layer are learnt from."""
        return Learning(self)

    @cached_property
    def cluster_of(self) -> dict[str, str]:
        """By document, the cluster of its near-duplicates."""
        return dict(self.read("documents", columns=["document_id", "cluster_id"]).iter_rows())

    @cached_property
    def explanation_hashes(self) -> dict[str, Any]:
        """By name, what other people's explanations depend on."""
        return {each.name: explanation_hash(each, self.study.folder) for each in self.settings.explanations}

    def bring_up_to_date(
        self, tables: Sequence[str], rows: Callable[[], Mapping[str, pl.DataFrame]], *, input_hash: str,
        code_version: str, layer: int | None = None, part: str = "rows", extra: Mapping[str, Any] | None = None,
    ) -> bool:  # fmt: skip
        """Keeps slices that were made from the same inputs, else makes all of them anew; says whether they were kept.

        ``rows`` gives the rows of all ``tables`` in the order in which they are written, without study and layer.
        ``input_hash`` speaks of all that they are made from but the tables' columns, which are added. ``extra`` is what
        else their manifests hold; it is looked at after ``rows`` is called.
        """
        if self.is_fresh(tables, input_hash, layer, part):
            return True
        began = time.monotonic()
        made = rows()
        seconds = time.monotonic() - began
        place = {"study": pl.lit(self.study.name)} | ({} if layer is None else {"layer": pl.lit(layer, pl.Int32)})
        for table, frame in made.items():
            self.store.write(
                SliceKey(table, self.study.name, layer, part), frame.with_columns(**place),
                input_hash=_with_schema(input_hash, table), code_version=code_version, seconds=seconds, extra=extra,
            )  # fmt: skip
        return False

    def is_fresh(self, tables: Sequence[str], input_hash: str, layer: int | None = None, part: str = "rows") -> bool:
        """Whether these slices are there, whole, made from the same inputs and with the columns of today's tables."""
        manifests = {table: self.store.manifest(SliceKey(table, self.study.name, layer, part)) for table in tables}
        return all(found and found.input_hash == _with_schema(input_hash, name) for name, found in manifests.items())

    @property
    def clusters_hash(self) -> str:
        """Hash of which documents are near-duplicates of which."""
        return hash_json(sorted(pair for pair in self.cluster_of.items() if pair[0] != pair[1]))

    def holding(self, what: str) -> AbstractContextManager[None]:
        """Hold the lock of one of this study's assets; a second run waits for the first."""
        return self.store.lock(f"{what}/{self.study.name}")

    @cached_property
    def harvest_hash(self) -> str:
        """Hash of the harvested contexts: their ids hold the hash of their text, the model's hash its tokens."""
        digest = hashlib.sha256(str(self.settings.harvest.context_length).encode())
        for context_id in self.contexts["context_id"]:
            digest.update(context_id.encode())
        return digest.hexdigest()

    def units(self, layer: int) -> list[Unit]:
        """The units of a layer that the study asks about."""
        settings, row = self.settings, self.model_row
        there = row["d_mlp"] if settings.units is None else row["encoders"][layer]["n_latents"]
        return select_units(settings.neurons, settings.sign_numbers, layer, there, settings.word)

    def units_without(self, table: str, layer: int) -> int:
        """How many units of a layer are still to get their rows of a table."""
        manifest = self.store.manifest(SliceKey(table, self.study.name, layer))
        done = manifest.unit_hashes if manifest else {}
        return sum(str(unit) not in done for unit in self.units(layer))

    def a_max(self, layer: int, units: Sequence[Unit]) -> Mapping[Unit, float]:
        """The largest activation over the harvest of each unit."""
        rows = self.read("neuron_stats", layer, columns=["unit", "sign", "max"], units=units)
        return {Unit(number, sign): value for number, sign, value in rows.iter_rows()}

    # ------------------------------------------------------------------------------------ what is asked of the model
    @cached_property
    def subject_files(self) -> SubjectFiles:
        """The subject model on disk, fetched and converted if it is not there yet."""
        from n2g_assets.model.sources import resolve_subject

        return resolve_subject(self.settings.subject, study_folder=self.study.folder, home=self.home)

    @cached_property
    def encoders(self) -> Encoders | HeadsOfLayers | None:
        """What makes latents or heads of what the hook carries, fetched and read; None without ``units``."""
        from n2g_assets.model.encoders.resolve import resolve_units

        settings = self.settings
        return resolve_units(settings.units, settings.layer_numbers, settings.hook, study_folder=self.study.folder)

    @property
    def hook(self) -> str:
        """The hook that is read: that of the settings, the encoder's own, or that of heads."""
        return self.settings.hook if self.encoders is None else self.encoders.hook

    def load_subject(self, dtype: str) -> SubjectModel:
        """The subject model as the settings name it, loaded once a process; for tf32 its weights are in float32."""
        from n2g_assets.model.load import loaded_subject

        settings = self.settings
        return loaded_subject(
            self.subject_files, self.hook, settings.harvest, settings.method.mask_token,
            "float32" if dtype == "tf32" else dtype, self.home.forward_pass_lock, settings.bos, self.encoders,
        )  # fmt: skip

    def subject(self, dtype: str = "float32") -> SubjectModel:
        """The subject model that ``subject_models`` records.

        Raises:
            StorageError: the settings or the files name another one since.
        """
        model = self.load_subject(dtype)
        facts, layers = (model.facts, self.model_row), (None, *self.settings.layer_numbers)
        if any(model_identity(facts[0], layer) != model_identity(facts[1], layer) for layer in layers):
            raise StorageError(
                f"The subject model of study '{self.study.name}' has changed since it was materialized: "
                "materialize subject_model, then this stage."
            )
        if "encoders" in self.model_row:
            model.facts["encoders"] = self.model_row["encoders"]  # with what was measured then
        return model

    def evidence(
        self, corpus: TokenCorpus, layers: Sequence[int], show: Progress, settings: HarvestSettings | None = None,
        cache: Cache | None = None, shard_id: str = "",
    ) -> Evidence:  # fmt: skip
        """The activations of the units of some layers on a corpus; one pass reads those that are not kept yet.

        They are read as ``text_settings`` say, or others, and kept in the home's cache, or another.
        """
        from n2g_assets.evidence.store import read_evidence

        neurons, settings = self.neurons(layers), settings or self.text_settings
        return read_evidence(
            self.subject(settings.dtype), corpus, neurons, settings, cache=cache or Cache(self.home), progress=show,
            shard_id=shard_id,
        )  # fmt: skip

    @property
    def text_settings(self) -> HarvestSettings:
        """The settings of the harvest, in float32: held-out text is what decides."""
        return self.settings.harvest.model_copy(update={"dtype": "float32"})

    def neurons(self, layers: Sequence[int]) -> dict[int, list[int]]:
        """By layer, the neurons of the study's units, ascending."""
        return {layer: sorted({unit.number for unit in self.units(layer)}) for layer in layers}

    @cached_property
    def corpus(self) -> TokenCorpus:
        """The harvested contexts as the model reads them.

        Raises:
            CorpusError: there is nothing to harvest, or a context is too long.
        """
        corpus = TokenCorpus.from_frame(self.contexts)
        corpus.check_harvest(self.settings.harvest.context_length)
        return corpus

    def harvest(self, layers: Sequence[int], show: Progress) -> Evidence:
        """The evidence of some layers on the harvested contexts; what was read in this session is not looked for again.

        Raises:
            CorpusError: as ``corpus``.
        """
        known = self._harvested.get(layers[0])
        if known is not None and all(self._harvested.get(layer) is known for layer in layers):
            return known
        harvested = self.evidence(self.corpus, layers, show, self.settings.harvest)
        self.log.info(
            f"{harvested.tokens_run:,} tokens went through the model in {harvested.shards_run} shards, "
            f"{harvested.tokens_reused:,} tokens in {harvested.shards_reused} shards were cached"
        )
        self._harvested |= dict.fromkeys(layers, harvested)
        return harvested

    def cached_harvest(self, layer: int) -> Evidence:
        """The evidence of a layer's units on the harvest; what is gone is read again, as ``cached_texts`` reads."""
        with progress(f"{self.study.name}/harvest", "tokens", self.log.info) as show:
            return self.harvest(self.together(layer), show)

    def together(self, layer: int) -> tuple[int, ...]:
        """The layers that are read in one pass with this one."""
        return self.layers_together if layer in self.layers_together else (layer,)

    # ------------------------------------------------------------------------------------ the texts of the evaluation
    @cached_property
    def held_out_contexts(self) -> dict[str, pl.DataFrame]:
        """The contexts of each held-out text: whole documents until the text has its tokens."""
        evaluation = self.settings.evaluation
        texts = held_out_texts(self.read("contexts"), evaluation.random_tokens, evaluation.out_of_domain_tokens)
        return {name: frame for name, frame in texts.items() if name in self.study.texts}

    @property
    def text_hashes(self) -> dict[str, str]:
        """By held-out text, the hash of its contexts' ids."""
        return {name: hash_json(frame["context_id"].to_list()) for name, frame in self.held_out_contexts.items()}

    def cached_texts(self, layer: int) -> dict[str, Evidence]:
        """The evidence of a layer's units on the held-out texts; ``layers_together`` are read in one pass a text."""
        if layer not in self._cached_texts:
            layers = self.together(layer)
            with progress(f"{self.study.name}/held-out texts", "tokens", self.log.info) as show:
                self._cached_texts |= dict.fromkeys(layers, self.read_texts(layers, show))
        return self._cached_texts[layer]

    def cached_windows(self, layer: int) -> Evidence:
        """The evidence of a layer's units on the windows of ``reach``; ``layers_together`` in one pass."""
        return self.read_once("windows", self.windows.corpus, layer, self.together(layer))

    def read_once(self, what: str, corpus: TokenCorpus, layer: int, layers: Sequence[int]) -> Evidence:
        """The evidence of a layer's units on a corpus of this name, looked for once a session, for all ``layers``."""
        if (what, layer) not in self._cached:
            with progress(f"{self.study.name}/{what}", "tokens", self.log.info) as show:
                found = self.evidence(corpus, layers, show)
            if found.tokens_run:
                self.log.info(f"{found.tokens_run:,} tokens of {what} went through the model for layers {list(layers)}")
            self._cached |= {(what, each): found for each in layers}
        return self._cached[what, layer]

    @cached_property
    def text_corpora(self) -> dict[str, TokenCorpus]:
        """The held-out texts as the model reads them."""
        return {name: TokenCorpus.from_frame(contexts) for name, contexts in self.held_out_contexts.items()}

    @cached_property
    def windows(self) -> Windows:
        """The windows of the held-out texts that the stage ``reach`` compares with them."""
        evaluation = self.settings.evaluation
        return cut_windows(self.text_corpora, evaluation.reach_positions, evaluation.seed)

    @property
    def scored_corpora(self) -> dict[str, TokenCorpus]:
        """What units are scored on as the model reads it: the held-out texts, and their windows where there are any."""
        windows = self.windows.corpus
        return self.text_corpora | ({"windows": windows} if len(windows.token_ids) else {})

    def read_texts(self, layers: Sequence[int], show: Progress) -> dict[str, Evidence]:
        """The evidence of the layers' units on the held-out texts, in one pass a text."""
        found = {name: self.evidence(corpus, layers, show) for name, corpus in self.text_corpora.items()}
        run = sum(text.tokens_run for text in found.values())
        if run:
            self.log.info(f"{run:,} tokens of held-out text went through the model for layers {list(layers)}")
        return found

    def corpora(self, layer: int) -> list[tuple[TokenCorpus, HarvestSettings]]:
        """All that a layer's units are read on, and how; of targeted contexts those that are chosen by now."""
        exact = [*self.scored_corpora.values(), *self.learning.beside(layer).values()]
        return [(self.corpus, self.settings.harvest), *((corpus, self.text_settings) for corpus in exact)]

    def drop_evidence(self, layer: int) -> None:
        """Remove what the model did on a layer, where the study bounds the disk and does not say to keep it."""
        from n2g_assets.evidence.plan import drop_evidence

        if self.settings.layers_at_once != "all" and not self.settings.keep_evidence:
            self._harvested.pop(layer, None)
            self._cached_texts.pop(layer, None)
            corpora = self.corpora(layer)
            self.learning.drop_numbers(layer)
            for name in self.learning.beside(layer):
                self._cached.pop((name, layer), None)
            for corpus, settings in corpora:
                drop_evidence(self.model_row, corpus, self.neurons([layer]), settings, Cache(self.home))

    def prober(self, layer: int) -> Prober:
        """The prober of one layer; the model decides in float32."""
        from n2g_assets.model.prober import LayerProber

        return LayerProber(self.subject(), layer, self._budget)

    @cached_property
    def _budget(self) -> TokenBudget:
        from n2g_assets.model.batching import TokenBudget

        return TokenBudget(self.settings.harvest.batch_tokens)


def _with_schema(input_hash: str, table: str) -> str:
    return hash_json([input_hash, schema_hash([table])])
