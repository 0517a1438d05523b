"""Every setting of a study, typed, with its default, its unit and its source under the field.

These are plain pydantic models that know no Dagster: ``study.N2GStudy`` reads them from a ``defs.yaml``, and the
rooms take the part they need. Unknown keys are errors. Paper sections refer to arXiv 2305.19911.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StrictInt, Tag, field_validator, model_validator

from n2g_assets.core import registry
from n2g_assets.core.explained import AnyStudyExplanation, PredictingExplanation
from n2g_assets.core.setting import CHANGES_NO_ROW, Settings, known_timezone, one_of_shapes, shape
from n2g_assets.core.sources import AnyCorpusSource, SubjectSettings
from n2g_assets.core.unit_settings import HEADS, HEADS_HOOK, AnyUnits, NeuronSample, NeuronSelection, unit_word

Executor = Literal["in_process", "multiprocess", "celery"]
"""Where the steps of a run execute."""


# ------------------------------------------------------------------------------------------ harvest
class CorpusCut(Settings):
    """How the corpus is cut and split."""

    context_length: StrictInt = Field(default=128, ge=8)
    """Tokens of a context, BOS included (the authors use 1,024 and look at the last few hundred characters)."""
    held_out_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of the documents that is never harvested."""
    near_duplicate_run: StrictInt = Field(default=13, ge=4)
    """Tokens of a run; documents that share a tenth of the shorter one's runs stay on one side of the split. White
    space counts for nothing, and documents too short for such runs are compared as wholes."""


class HarvestSettings(CorpusCut):
    """How the corpus is cut and the activation cache is filled."""

    max_tokens: StrictInt | None = Field(default=None, gt=0)
    """Harvest whole documents, in the order of their hashes, until this many tokens are reached; none takes all."""
    scanned_layers: StrictInt = Field(default=0, ge=0, json_schema_extra=CHANGES_NO_ROW)
    """Layers, from the first one on, whose units are also shown every token of the vocabulary, each twice after two
    tokens drawn by frequency (``method.preset: evidence``). It tells what tokens do that the text hardly has, and pays
    where units look at little but the token: in the first layer."""
    targeted_contexts: StrictInt = Field(default=0, ge=0, json_schema_extra=CHANGES_NO_ROW)
    """Contexts of documents beyond ``max_tokens`` that the graph of each unit asks for, where it expects most. The
    model is run on them, and all units of the layer learn from them (``method.preset: evidence``). Graphs grow twice
    then, and another sample of units asks for others."""
    targeted_firings: StrictInt | None = Field(
        default=None, ge=1, json_schema_extra=CHANGES_NO_ROW, exclude_if=lambda firings: firings is None
    )
    """Only units that fire at fewer positions of the harvest ask for contexts, as rare latents do; none: all ask."""
    strongest: StrictInt = Field(default=256, ge=1)
    """Strong positions kept for every unit (E)."""
    batch_tokens: StrictInt = Field(default=4096, ge=1, json_schema_extra=CHANGES_NO_ROW)
    """Tokens of one forward pass, padding included; a proposer's, which give logits too, have 1,024 at the most."""
    shard_tokens: StrictInt = Field(default=65536, ge=1, json_schema_extra=CHANGES_NO_ROW)
    """Tokens of a corpus shard: the unit of checkpointing and of incremental work."""
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Arithmetic of the harvest; ``tf32`` rounds the factors of matrix products, on GPUs that can. After both coarse
    ones the contexts that may be a unit's strongest are measured again in float32."""
    evidence_dtype: Literal["float32", "float16", "int8"] = "float32"
    """How activations are kept on disk: in 4 bytes, in 2, or in 1, which is exact within 0.8 % of the neuron's largest
    in the shard, and so depends within that on how the corpus was cut. What is coarse is measured again as above."""
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", json_schema_extra=CHANGES_NO_ROW)
    """``auto`` takes cuda, then mps, then cpu."""

    @model_validator(mode="after")
    def _somebody_asks(self) -> Self:
        if self.targeted_firings is not None and not self.targeted_contexts:
            raise ValueError(
                f"targeted_firings is {self.targeted_firings}, but no unit asks for contexts: set targeted_contexts "
                "too, or leave targeted_firings out."
            )
        return self

    @property
    def exact(self) -> Self:
        """The same in float32, in arithmetic and on disk."""
        return self.model_copy(update={"dtype": "float32", "evidence_dtype": "float32"})


# ------------------------------------------------------------------------------------------ method
class Firing(Settings):
    """When a unit counts as firing."""

    firing_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Share of a_max from which a unit fires (section 3)."""


class Matching(Settings):
    """When two tokens count as the same."""

    normalise_tokens: bool = True
    """Match tokens in lower case (those with a capital first letter alone) and without white space around them."""


class TopExampleSettings(Settings):
    """How the strongest contexts of a unit are chosen and split."""

    seed: StrictInt = 0
    """Seed of the train/test split."""
    top_contexts: StrictInt = Field(default=20, ge=2)
    """Strongest contexts a unit (section 3.1)."""
    contexts_per_document: StrictInt = Field(default=2, ge=1)
    """At most this many of them come from one document (ours: one long document must not be all evidence)."""
    min_contexts_per_side: StrictInt = Field(default=5, ge=1)
    """Fewer train or test contexts than this: ledger ``too_few_contexts``."""

    @model_validator(mode="after")
    def _both_sides_can_be_filled(self) -> Self:
        if 2 * self.min_contexts_per_side > self.top_contexts:
            raise ValueError(
                f"min_contexts_per_side: {self.min_contexts_per_side} on two sides is more than top_contexts: "
                f"{self.top_contexts}: lower it, or raise top_contexts."
            )
        return self


class PruneSettings(Firing):
    """How a context is cut to what the unit needs, and what is important in it."""

    prune_keep: float = Field(default=0.5, gt=0, le=1)
    """A pruned prompt keeps at least this share of the activation at the peak (section 3.1)."""
    prune_max_prefix: StrictInt = Field(default=30, ge=0)
    """Tokens before the peak that pruning tries at the most."""


class AugmentSettings(Matching):
    """How important tokens are exchanged."""

    augment_threshold: float = Field(default=0.8, gt=0, le=1)
    """Importance for the peak from which a token is varied (section 3.2)."""
    substitutes: StrictInt = Field(default=5, ge=0)
    """Substitutes tried for each such token; 0 turns augmentation off (section 3.2)."""
    substitute_keep: float = Field(default=0.5, gt=0, le=1)
    """A variant is kept if it has at least this share of the unvaried activation."""
    proposer: Literal["infill", "masked_lm"] = "infill"
    """Where substitutes come from: the subject's own infill, or a masked language model (the paper's DistilBERT)."""
    masked_lm: str = "distilbert-base-uncased"
    """Hub name or local folder of the masked language model, for ``proposer: masked_lm``."""
    infill_candidates: StrictInt = Field(default=64, ge=1)
    """Candidates by p(token | left) at a position."""
    infill_rescored: StrictInt = Field(default=8, ge=1)
    """Of those, how many are rescored by the tokens to their right."""
    infill_right_tokens: StrictInt = Field(default=1, ge=0)
    """Tokens to the right that rescoring reads; 8 choose 92 to 97 % the same substitutes at twice the time."""

    @model_validator(mode="after")
    def _rescored_within_candidates(self) -> Self:
        if self.infill_rescored > self.infill_candidates:
            raise ValueError("infill_rescored is larger than infill_candidates: lower it, or raise the other.")
        return self


class GraphSettings(Firing, Matching):
    """How a graph is built from prompts and importances."""

    important_threshold: float = Field(default=0.75, gt=0, le=1)
    """Importance from which a token becomes a context node (section 3.3)."""


class ClassSettings(Firing):
    """How a graph of token classes is grown on all that the harvest saw."""

    max_rules: StrictInt = Field(default=100, ge=1)
    """Rules of the largest graph; every smaller one is part of it."""
    class_offsets: StrictInt = Field(default=8, ge=1)
    """Tokens that a rule may look at: the activating token and those before it."""
    class_shrinkage: float = Field(default=2.0, gt=0)
    """Positions with a node's mean that every token and every class is shrunk by."""
    class_positions: StrictInt = Field(default=4, ge=1)
    """Fewest positions of a class, and of what it leaves; those of the scan count here."""


class PredictionSettings(Firing, Matching):
    """What scores and rule tests need of the method."""


class ScoredMethod(ClassSettings, GraphSettings):
    """What the evaluation needs of the method."""


class MethodSettings(ScoredMethod, AugmentSettings, PruneSettings, TopExampleSettings):
    """The method."""

    preset: registry.Method = "evidence"
    """``evidence`` grows graphs of token classes on all that the harvest saw; ``paper`` makes those of the paper, from
    the strongest contexts. Each reads the settings of its own steps."""
    mask_token: str = "auto"
    """Text of the token that masks another in saliency; ``auto``: end-of-text, else padding, else BOS."""
    units_per_block: StrictInt = Field(default=32, ge=1, json_schema_extra=CHANGES_NO_ROW)
    """Units whose prompts share batches; a finished block is a checkpoint. Does not change the result."""


# ------------------------------------------------------------------------------------------ evaluation
class Draws(Settings):
    """What decides on everything that is drawn at random in the evaluation."""

    seed: StrictInt = Field(default=0, ge=0)
    """Seed of what is drawn: quantile contexts, documents of the bootstrap, shuffled graphs, texts of rule tests,
    positions of ``reach``."""


class RuleTestSettings(Draws):
    """How rules are tried on the model."""

    tested_rules: StrictInt = Field(default=8, ge=0)
    """Rules of a unit that are tested: those with most prompts, or (evidence) furthest from its mean; 0 tests none."""
    rule_texts: StrictInt = Field(default=4, ge=1)
    """Matching texts tried for each rule, and as many near misses."""


class ScoreSettings(Draws):
    """How predictors are scored."""

    random_tokens: StrictInt = Field(default=50_000, ge=1)
    """Tokens of held-out documents, all of which are scored (text ``random``)."""
    out_of_domain_tokens: StrictInt = Field(default=30_000, ge=1)
    """Tokens of out-of-domain documents (text ``out_of_domain``)."""
    quantile_contexts: StrictInt = Field(default=2, ge=1)
    """Contexts drawn from each tenth of a unit's positive activations on held-out text (text ``quantiles``)."""
    bootstrap_draws: StrictInt = Field(default=1000, ge=1, le=100_000)
    """Draws of documents behind the 95 % intervals."""
    counterexamples: StrictInt = Field(default=5, ge=0)
    """False alarms and misses kept for each unit and held-out text."""


class ReachSettings(Draws):
    """At which positions the model is shown its last tokens alone."""

    reach_positions: StrictInt = Field(default=1500, ge=0)
    """Positions drawn from each held-out text for the stage ``reach``; 0 turns it off."""


class EvaluationSettings(ReachSettings, RuleTestSettings, ScoreSettings):
    """On what the graphs are scored, and against what. Every text gets whole documents until its tokens are reached."""


# ------------------------------------------------------------------------------------------ study
MOST_LAYERS = 10_000
"""More than any model has; each layer is a partition."""


class StudySettings(Settings):
    """One study: one subject model, one corpus, one setting of the method."""

    preset: registry.Preset = "full"
    """``paper`` scores as the paper does and does nothing else: firing on the units' own test contexts, by the paper's
    graph, a token lookup and n-grams, without controls, held-out text or rule tests; ``method.preset`` is ``paper``."""

    subject: SubjectSettings
    """The model whose units are explained."""
    corpus: Annotated[list[AnyCorpusSource], Field(min_length=1)]
    """Where the text comes from, in order."""
    layers: Annotated[
        Annotated[StrictInt, Tag("int")] | Annotated[list[StrictInt], Tag("list")],
        Discriminator(shape),
        one_of_shapes("layers must be a count of at least 1 or a list of different layers from 0 on.", "int", "list"),
    ]
    """A count (layers 0 to n-1) or a list; checked against the model when it is loaded."""
    neurons: NeuronSelection = NeuronSample(sample=64)
    """Which neurons, latents or heads of each layer: ``{sample: n, seed: s}``, ``all`` or a list."""
    signs: list[Literal["positive", "negative"]] = Field(default=["positive"], min_length=1)
    """``positive`` reads the activation, ``negative`` the negated one (gated MLPs fire both ways)."""
    hook: str = "mlp.hook_post"
    """TransformerLens hook name inside a block; with ``units`` ``auto``, its default there: that of the encoder, or of
    heads, which are read at ``attn.hook_z`` alone."""
    units: AnyUnits = Field(default=None, exclude_if=lambda units: units is None)
    """Without it, units are what the hook carries, such as an MLP's neurons; ``{encoder: ...}`` makes them latents, and
    with ``heads`` each attention head is one: the norm of what it adds to the residual stream."""
    bos: str = "auto"
    """Token at position 0 of every context: ``auto`` takes the tokenizer's BOS, else its end of sequence, else end of
    text; or the text of one token, but not of one that is spelt ``auto`` or ``none``. With ``none`` the model reads
    contexts from their first token of text on: position 0, which ``harvest.context_length`` counts, then stands for the
    beginning of the text and is not read. ``subject_models`` says which it is, and why."""
    layers_at_once: Annotated[
        Annotated[StrictInt, Tag("int")] | Annotated[Literal["all"], Tag("all")],
        Discriminator(shape),
        one_of_shapes("layers_at_once must be 'all' or a count of at least 1.", "int", "all"),
    ] = "all"
    """Layers that one run takes: ``n2g run``, the schedule and backfills make a run for each group of so many. A count
    bounds the disk: when a layer is evaluated, what the model did on it is dropped; a run of more layers is refused."""
    keep_evidence: bool = False
    """Keep it all the same, where ``layers_at_once`` is a count; with ``all`` it is always kept."""
    executor: Executor | None = None
    """Where the steps of the study's runs execute: ``in_process``, ``multiprocess`` or ``celery``; without one as
    ``$N2G_EXECUTOR`` says, and in the run's own process where that is not set either."""
    control_of: str | None = None
    """Name of the study whose control this one is: the same study with ``subject.reinitialise`` set, mostly a smaller
    one. The view ``controls`` and the report of that study set the two side by side on the units that both have."""
    schedule: str = "0 3 * * *"
    """Cron line of the study's schedule, which is off until it is turned on in the UI."""
    timezone: str = "UTC"
    """Time zone in which ``schedule`` is read, such as ``Europe/Berlin``."""
    harvest: HarvestSettings = HarvestSettings()
    """How the corpus is cut and the activation cache is filled."""
    method: MethodSettings = MethodSettings()
    """The method."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """On what the graphs are scored."""
    explanations: list[AnyStudyExplanation] = Field(default=[])
    """Other people's explanations of the same units: those that predict are scored beside the graphs on the same texts,
    and what they say in words stands on the page of a unit."""

    @field_validator("explanations")
    @classmethod
    def _explanations_differ(cls, explanations: list[AnyStudyExplanation]) -> list[AnyStudyExplanation]:
        names = [each.name for each in explanations]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two explanations have the name '{twice}': give one of them another.")
        return explanations

    @model_validator(mode="after")
    def _layers_make_sense(self) -> Self:
        layers = self.layers if isinstance(self.layers, list) else [self.layers - 1]
        if not layers or min(layers) < 0 or len(set(layers)) != len(layers):
            raise ValueError(
                f"layers must be a count of at least 1 or a list of different layers from 0 on, not {self.layers}."
            )
        if max(layers) >= MOST_LAYERS:
            raise ValueError(f"layers goes to {max(layers):,}, and no model has {MOST_LAYERS:,}: name fewer.")
        if self.layers_at_once != "all" and self.layers_at_once < 1:
            raise ValueError(f"layers_at_once must be 'all' or a count of at least 1, not {self.layers_at_once}.")
        return self

    @model_validator(mode="before")
    @classmethod
    def _units_name_their_hook(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("units") is None:
            return values
        values = {"hook": "auto"} | values
        if values["units"] == HEADS and values["hook"] not in ("auto", HEADS_HOOK):
            raise ValueError(f"hook is {values['hook']}, but heads are read at {HEADS_HOOK}: leave hook out.")
        return values

    @model_validator(mode="before")
    @classmethod
    def _paper_scores_its_graphs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            method = values.get("method", {})
            method = dict(method) if isinstance(method, dict) else method.model_dump(exclude_unset=True)
            if method.setdefault("preset", "paper") != "paper":
                raise ValueError("preset: paper scores the paper's graphs alone: leave method.preset out.")
            return values | {"method": method}
        return values

    @model_validator(mode="after")
    def _heads_have_no_sign(self) -> Self:
        if self.units == HEADS and "negative" in self.signs:
            raise ValueError("signs names negative, but a head's activation is a length: leave signs out.")
        return self

    @model_validator(mode="after")
    def _controls_are_redrawn(self) -> Self:
        if self.control_of is not None and self.subject.reinitialise is None:
            raise ValueError(
                f"control_of names '{self.control_of}', but the model keeps its trained weights: set "
                "subject.reinitialise to a seed."
            )
        return self

    @field_validator("neurons")
    @classmethod
    def _neurons_differ(cls, neurons: NeuronSelection) -> NeuronSelection:
        if isinstance(neurons, list) and len(set(neurons)) != len(neurons):
            raise ValueError("neurons names one neuron twice: name each once.")
        return neurons

    @field_validator("signs")
    @classmethod
    def _signs_differ(cls, signs: list[str]) -> list[str]:
        if len(set(signs)) != len(signs):
            raise ValueError(f"signs names one sign twice ({', '.join(signs)}): name each once.")
        return signs

    _timezone_is_known = field_validator("timezone")(known_timezone)

    @property
    def layer_numbers(self) -> list[int]:
        """The layers in ascending order."""
        return sorted(self.layers) if isinstance(self.layers, list) else list(range(self.layers))

    @property
    def word(self) -> str:
        """What a unit is called."""
        return unit_word(self.units)

    @property
    def scored_explanations(self) -> tuple[str, ...]:
        """The names of the explanations that predict."""
        return tuple(each.name for each in self.explanations if isinstance(each, PredictingExplanation))

    @property
    def sign_numbers(self) -> list[int]:
        """The signs as +1 and -1, +1 first."""
        return [sign for name, sign in (("positive", 1), ("negative", -1)) if name in self.signs]
