"""What a step works with: its study, the store, the subject model (loaded when first needed) and the vocabulary.

The loaded model is the one piece of state of a process: a run executes in one process, so it is loaded once a run.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from n2g_assets.assets.progress import Progress
from n2g_assets.core.errors import N2GError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, StudySettings
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.predictors import PAPER_PREDICTORS, PREDICTORS, PredictorName
from n2g_assets.evaluation.rivals import HarvestText
from n2g_assets.evaluation.texts import TEXTS, TextName
from n2g_assets.method.probing import Prober, Proposer, Vocabulary
from n2g_assets.method.selection import select_units
from n2g_assets.storage.slices import Manifest, SliceKey, SliceStore, hash_json

if TYPE_CHECKING:
    from n2g_assets.evidence.harvest import Harvest
    from n2g_assets.evidence.readings import Readings
    from n2g_assets.model.batching import TokenBudget
    from n2g_assets.model.model import SubjectModel
    from n2g_assets.model.sources import SubjectFiles


RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""Run tags that ask for a range of layers in one run."""


@dataclass(frozen=True)
class Study:
    """One study: its name, the folder its relative paths count from, and its settings."""

    name: str
    folder: Path
    settings: StudySettings

    def key(self, stage: str) -> dg.AssetKey:
        """The asset key of one of its stages."""
        return dg.AssetKey([self.name, stage])

    @property
    def texts(self) -> tuple[TextName, ...]:
        """The texts that its units are scored on."""
        return TEXTS if self.settings.preset == "full" else ("top",)

    @property
    def tries_rules(self) -> bool:
        """Whether it has the stage ``rule_tests``: the paper does not try its rules on the model."""
        return self.settings.preset == "full"

    @property
    def predictors(self) -> tuple[PredictorName, ...]:
        """The predictors that are scored."""
        return PREDICTORS if self.settings.preset == "full" else PAPER_PREDICTORS

    @property
    def partitions(self) -> dg.StaticPartitionsDefinition:
        """One static partition a layer: ``"00"``, ``"01"`` and so on."""
        return dg.StaticPartitionsDefinition(list(self.partition_layers))

    @property
    def partition_layers(self) -> dict[str, int]:
        """The layer of every partition key."""
        layers = self.settings.layer_numbers
        width = max(2, len(str(layers[-1])))
        return {f"{layer:0{width}d}": layer for layer in layers}

    @property
    def backfill_policy(self) -> dg.BackfillPolicy:
        """The same for every per-layer asset: mixed policies would repeat the forward pass for every layer."""
        if self.settings.layers_per_run == "all":
            return dg.BackfillPolicy.single_run()
        return dg.BackfillPolicy.multi_run(max_partitions_per_run=self.settings.layers_per_run)


@contextmanager
def quiet_beta() -> Iterator[None]:
    """Backfill policies are a beta feature of Dagster; users need not hear of it at every start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield


class N2GResource(dg.ConfigurableResource):
    """Where everything is kept."""

    home: str = ""
    """Folder; empty means $N2G_HOME, or ``.n2g`` beside the project."""

    def open(self) -> Home:
        """The home folder, checked to be writable.

        Raises:
            StorageError: it cannot be written, or the disk is full.
        """
        home = Home(Path(self.home).expanduser().resolve()) if self.home else Home.from_environment()
        home.check_writable()
        return home


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn an error with a cause and a cure into the headline of the step's failure."""
    try:
        yield
    except N2GError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


class Session:
    """What the steps of one study work with."""

    def __init__(self, study: Study, home: Home, log: logging.Logger, *, retry_failed: bool = False) -> None:
        self.study = study
        self.home = home
        self.store = SliceStore(home)
        self.log = log
        self.retry_failed = retry_failed

    @property
    def settings(self) -> StudySettings:
        """The study's settings."""
        return self.study.settings

    # ------------------------------------------------------------------------------------ what is stored
    def read(
        self,
        table: str,
        layer: int | None = None,
        part: str = "rows",
        columns: Sequence[str] | None = None,
        units: Sequence[Unit] | None = None,
    ) -> pl.DataFrame:
        """The rows of one of this study's slices, or those of some units alone.

        Raises:
            StorageError: the slice is not there, or is damaged.
        """
        return self.store.read(table, self.study.name, layer, part=part, columns=columns, units=units)

    def columns(self, table: str, layer: int | None = None, part: str = "rows") -> pl.Schema:
        """The columns of one of this study's slices as they were written.

        Raises:
            StorageError: the slice is not there, or is damaged.
        """
        return self.store.columns(SliceKey(table, self.study.name, layer, part))

    def manifest(self, table: str, layer: int | None = None, part: str = "rows") -> Manifest:
        """The manifest of one of this study's slices.

        Raises:
            StorageError: the slice is not there.
        """
        manifest = self.store.manifest(table, self.study.name, layer, part)
        if manifest is None:
            where = f" of layer {layer}" if layer is not None else ""
            raise StorageError(
                f"The table {table}{where} of study '{self.study.name}' is not there yet: materialize its asset first."
            )
        return manifest

    @cached_property
    def model_row(self) -> dict:
        """The study's row of ``subject_models``."""
        return self.read("subject_models").row(0, named=True)

    @property
    def model_hash(self) -> str:
        """What every number depends on: weights, config and tokenizer, the hook, BOS and mask token."""
        return _identity(self.model_row)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, read from its table."""
        from n2g_assets.model.vocabulary import vocabulary_from_rows

        row = self.model_row
        return vocabulary_from_rows(self.read("vocabulary"), bos_id=row["bos_id"], mask_id=row["mask_id"])

    @cached_property
    def contexts(self) -> pl.DataFrame:
        """The contexts of the harvest, by document: whole documents until ``harvest.max_tokens`` is reached."""
        harvested = self.read("contexts").filter(pl.col("split") == "harvest")
        return first_documents(harvested, self.settings.harvest.max_tokens)

    @cached_property
    def harvest_text(self) -> HarvestText:
        """The harvest as rivals read it."""
        return HarvestText.of(self.contexts, self.vocabulary, self.cluster_of)

    @cached_property
    def cluster_of(self) -> dict[str, str]:
        """By document, the cluster of its near-duplicates."""
        return dict(self.read("documents", columns=["document_id", "cluster_id"]).iter_rows())

    def write(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        layer: int | None = None,
        part: str = "rows",
        input_hash: str,
        code_version: str,
        extra: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Replace one of this study's slices; the columns of study and layer are added."""
        added = [pl.lit(self.study.name).alias("study")]
        if TABLES[table].scope == "layer":
            added.append(pl.lit(layer, dtype=pl.Int32).alias("layer"))
        return self.store.write(
            table, frame.with_columns(added), study=self.study.name, layer=layer, part=part,
            input_hash=input_hash, code_version=code_version, extra=extra,
        )  # fmt: skip

    def is_fresh(self, tables: Sequence[str], input_hash: str, layer: int | None = None, part: str = "rows") -> bool:
        """Whether these slices are there, whole, and made from the same inputs."""
        manifests = [self.store.manifest(table, self.study.name, layer, part) for table in tables]
        return all(manifest is not None and manifest.input_hash == input_hash for manifest in manifests)

    @property
    def clusters_hash(self) -> str:
        """Hash of which documents are near-duplicates of which."""
        return hash_json(sorted([one, cluster] for one, cluster in self.cluster_of.items() if one != cluster))

    @contextmanager
    def holding(self, what: str) -> Iterator[None]:
        """Hold the lock of one of this study's assets; a second run waits for the first."""
        with self.store.lock(f"{what}/{self.study.name}"):
            yield

    @cached_property
    def harvest_hash(self) -> str:
        """Hash of the harvested contexts: their ids hold the hash of their text, the model's hash its tokens."""
        digest = hashlib.sha256(str(self.settings.harvest.context_length).encode())
        for context_id in self.contexts["context_id"]:
            digest.update(context_id.encode())
        return digest.hexdigest()

    def units(self, layer: int) -> list[Unit]:
        """The units of a layer that the study asks about."""
        return select_units(self.settings.neurons, self.settings.sign_numbers, layer, self.model_row["d_mlp"])

    def a_max(self, layer: int, units: Sequence[Unit]) -> Mapping[Unit, float]:
        """The largest activation over the harvest of each unit."""
        rows = self.read("neuron_stats", layer, columns=["unit", "sign", "max"], units=units)
        return {Unit(neuron, sign): value for neuron, sign, value in rows.iter_rows()}

    # ------------------------------------------------------------------------------------ what is asked of the model
    @cached_property
    def subject_files(self) -> SubjectFiles:
        """The subject model on disk, fetched and converted if it is not there yet."""
        from n2g_assets.model.sources import resolve_subject

        return resolve_subject(self.settings.subject, study_folder=self.study.folder, home=self.home)

    def load_subject(self, dtype: str) -> SubjectModel:
        """The subject model as the settings name it, loaded once a process."""
        settings = self.settings
        return _load(
            self.subject_files, settings.hook, settings.harvest, settings.method.mask_token, dtype,
            self.home.locks / "forward_pass.lock",
        )  # fmt: skip

    def subject(self, dtype: str = "float32") -> SubjectModel:
        """The subject model that ``subject_models`` records.

        Raises:
            StorageError: the settings or the files name another one since.
        """
        model = self.load_subject(dtype)
        if _identity(asdict(model.facts)) != self.model_hash:
            raise StorageError(
                f"The subject model of study '{self.study.name}' has changed since it was materialized: "
                "materialize subject_model, then this stage."
            )
        return model

    def harvest(self, layers: Sequence[int], show: Progress) -> Harvest:
        """Harvest some layers in one pass; what is cached is taken over."""
        from n2g_assets.evidence.harvest import harvest

        settings = self.settings
        exact = settings.harvest.dtype == "float32"
        harvested = harvest(
            self.subject(settings.harvest.dtype),
            self.contexts,
            layers,
            {layer: sorted({unit.number for unit in self.units(layer)}) for layer in layers},
            settings.harvest,
            top_contexts=settings.method.top_contexts,
            contexts_per_document=settings.method.contexts_per_document,
            cache_folder=self.home.cache / "harvest",
            signs=settings.sign_numbers,
            progress=show,
            exact_model=None if exact else self.subject(),
        )
        self.log.info(
            f"{harvested.tokens_run:,} tokens went through the model in {harvested.shards_run} shards, "
            f"{harvested.tokens_reused:,} tokens in {harvested.shards_reused} shards were cached"
        )
        return harvested

    # ------------------------------------------------------------------------------------ the texts of the evaluation
    @cached_property
    def held_out_contexts(self) -> dict[TextName, pl.DataFrame]:
        """The contexts of each held-out text: whole documents until the text has its tokens."""
        evaluation = self.settings.evaluation
        contexts = self.read("contexts")
        wanted: dict[TextName, tuple[str, int]] = {
            "random": ("held_out", evaluation.random_tokens),
            "out_of_domain": ("out_of_domain", evaluation.out_of_domain_tokens),
        }
        texts = {
            name: first_documents(contexts.filter(pl.col("split") == split), tokens)
            for name, (split, tokens) in wanted.items()
        }
        return {name: frame for name, frame in texts.items() if frame.height and name in self.study.texts}

    @property
    def fresh_contexts(self) -> pl.DataFrame:
        """Contexts that no graph was built from; where nothing is held out, those of the harvest."""
        fresh = self.held_out_contexts.get("random")
        return self.contexts if fresh is None else fresh

    def read_texts(self, layers: Sequence[int], show: Progress) -> dict[TextName, Readings]:
        """The activations of the layers' units on the held-out texts, in one pass a text; what is cached is reused."""
        from n2g_assets.evidence.readings import read_texts

        neurons = {layer: sorted({unit.number for unit in self.units(layer)}) for layer in layers}
        readings = {
            name: read_texts(
                self.subject(),
                contexts,
                neurons,
                self.settings.harvest,
                cache_folder=self.home.cache / "readings",
                progress=show,
            )
            for name, contexts in self.held_out_contexts.items()
        }
        run = sum(one.tokens_run for one in readings.values())
        if run:
            self.log.info(f"{run:,} tokens of held-out text went through the model for layers {list(layers)}")
        return readings

    def prober(self, layer: int) -> Prober:
        """The prober of one layer; the model decides in float32."""
        from n2g_assets.model.prober import LayerProber

        return LayerProber(self.subject(), layer, self._budget)

    @cached_property
    def _budget(self) -> TokenBudget:
        from n2g_assets.model.batching import TokenBudget

        return TokenBudget(self.settings.harvest.batch_tokens)

    @cached_property
    def proposer(self) -> Proposer:
        """The proposer of substitutes that the settings name."""
        method = self.settings.method
        if method.proposer == "masked_lm":
            from n2g_assets.model.masked_lm import MaskedLMProposer

            return MaskedLMProposer(method.masked_lm, self.subject(), self.vocabulary)
        from n2g_assets.model.infill import InfillProposer

        return InfillProposer(self.subject(), self.vocabulary, method)


def first_documents(contexts: pl.DataFrame, max_tokens: int | None) -> pl.DataFrame:
    """The contexts of the first documents that together reach a number of tokens, BOS not counted.

    Contexts stand in the order of their documents' hashes, which is a random one.
    """
    if max_tokens is None:
        return contexts
    per_document = contexts.group_by("document_id", maintain_order=True).agg(
        n_tokens=(pl.col("token_ids").list.len().cast(pl.Int64) - 1).sum()
    )
    before = pl.col("n_tokens").cum_sum() - pl.col("n_tokens")
    return contexts.join(per_document.filter(before < max_tokens), on="document_id", how="semi", maintain_order="left")


def _identity(row: Mapping[str, Any]) -> str:
    """Of a row of ``subject_models``, what makes two models the same to every number."""
    return f"{row['file_sha256']}:{row['hook']}:{row['bos_id']}:{row['mask_id']}"


@lru_cache(maxsize=2)
def _load(
    files: SubjectFiles, hook: str, harvest: HarvestSettings, mask_token: str, dtype: str, lock: Path
) -> SubjectModel:
    from n2g_assets.model.load import load_subject

    return load_subject(files, hook, harvest, mask_token, dtype, lock)  # type: ignore[arg-type]
