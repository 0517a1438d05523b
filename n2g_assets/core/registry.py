"""What there is of stages, texts and predictors, each declared once.

The asset graph, the checks, the plots, the report, the SQL views, the documentation and the columns' meanings are
derived from these three lists. A stage's code is in ``assets/`` (``study.LAYER_STAGES``); a predictor's is
``evaluation/predictors/<name>.py``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

Preset = Literal["full", "paper"]
"""How much a study scores: ``study.preset``."""
Method = Literal["evidence", "paper"]
"""How its graphs are made: ``method.preset``."""
ThresholdKind = Literal["top", "ordinary"]
"""Kind of text that a unit has a threshold of its own for: contexts like its strongest ones, or any text."""
THRESHOLDS: tuple[ThresholdKind, ...] = get_args(ThresholdKind)
"""The values of ``thresholds.kind``."""

SHOWN_RULES = 10
"""Rules of the best graph that is shown of a unit, and whose rules are tested, where graphs are of token classes."""

STRONG_SHARE = 1 / 2
"""A rule is strong that expects this share of what its unit's strongest does."""
COMPONENT_SHARE = 1 / 5
"""A component of rules counts that holds this share of the unit's firings."""
USED_FROM = 0.1
"""A graph of token classes uses a token, for searches, with which it expects this share of a_max."""

LEAST_SHARED = 100
"""Units of two samples are correlated that share so many tokens, which gives a standard error of .1 or less."""


@dataclass(frozen=True)
class Stage:
    """One per-layer stage of the pipeline."""

    name: str
    """Name of the asset, and value of ``ledger.stage``."""
    tables: tuple[str, ...]
    """Tables that it writes, the main one first."""
    upstream: tuple[str, ...]
    """Assets that it reads; after the first stage, the first one's ledger says which units have ended."""
    presets: tuple[Preset, ...] = ("full", "paper")
    """Presets of a study that have this stage."""
    methods: tuple[Method, ...] = ("evidence", "paper")
    """Methods that have it."""


@dataclass(frozen=True)
class Text:
    """A text on which predictors are scored."""

    name: str
    """Value of ``evaluation.text``."""
    label: str
    """Heading."""
    phrase: str
    """The text inside a sentence, after "on"."""
    meaning: str
    """What it is, in whole sentences."""
    threshold: ThresholdKind = "ordinary"
    """Which of a unit's thresholds says from which prediction on it is predicted to fire here."""
    presets: tuple[Preset, ...] = ("full",)
    """Presets of a study that score this text."""
    methods: tuple[Method, ...] = ("evidence", "paper")
    """Methods that score it."""
    ordinary: bool = False
    """Whether it is whole documents as they come: there the graded activation is shown first, before firing."""


@dataclass(frozen=True)
class Predictor:
    """Something that predicts a unit's activation and is scored."""

    name: str
    """Value of ``evaluation.predictor``; its code is ``evaluation/predictors/<name>.py``."""
    label: str
    """Name for reading."""
    role: Literal["explanation", "baseline", "control"]
    """``explanation``: what is judged; ``baseline``: what it has to beat; ``control``: what must fail, or isolates one
    step of the method."""
    color: str
    """Colour in plots: Okabe and Ito's, which readers with impaired colour vision can tell apart."""
    marker: str
    """Marker in plots, as matplotlib names it; markers of controls are hollow."""
    meaning: str
    """What it is, in whole sentences."""
    presets: tuple[Preset, ...] = ("full",)
    """Presets of a study that score this predictor."""
    methods: tuple[Method, ...] = ("evidence", "paper")
    """Methods that score it."""
    rival: str = ""
    """Its name inside a sentence, where the summary of a report compares the graph with it; empty where it does not."""


STAGES: tuple[Stage, ...] = (
    Stage(
        "activation_cache",
        (
            "neuron_stats", "activations", "top_contexts", "sampled_positions", "sampled_activations", "output_tokens",
        ),
        ("corpus_tokens", "subject_model"),
    ),
    Stage("top_examples", ("top_examples",), ("activation_cache", "corpus_tokens")),
    Stage("pruned_examples", ("pruned_examples", "saliencies"), ("top_examples",)),
    Stage("augmented_examples", ("augmented_examples",), ("pruned_examples",), methods=("paper",)),
    Stage(
        "neuron_graphs", ("rules", "graph_nodes", "token_classes"),
        ("augmented_examples", "pruned_examples", "top_examples", "activation_cache", "corpus_tokens"),
    ),
    Stage("rule_tests", ("rule_tests",), ("neuron_graphs", "corpus_tokens"), presets=("full",)),
    Stage("reach", ("reach",), ("activation_cache", "corpus_tokens"), presets=("full",)),
    Stage(
        "evaluation",
        (
            "evaluation", "size_curve", "thresholds", "document_scores", "strength_examples", "counterexamples",
            "failures",
        ),
        ("neuron_graphs", "rule_tests", "pruned_examples", "top_examples", "activation_cache", "corpus_tokens"),
    ),
)  # fmt: skip
"""The per-layer stages in the order of the pipeline."""

TEXTS: tuple[Text, ...] = (
    Text(
        "top", "Own test contexts", "the units' own test contexts",
        "The paper's protocol: the half of a unit's strongest contexts that its graph was not built from. It flatters "
        "every predictor: each of these contexts was chosen because the unit is strong in it.",
        threshold="top",
        presets=("full", "paper"),
    ),
    Text(
        "quantiles", "Every strength", "contexts of every strength",
        "Contexts of held-out documents, drawn where the unit's activation lies in each tenth of its positive ones; "
        "all of their tokens are scored. Most tenths are far below firing, so that few tokens fire here.",
    ),
    Text(
        "random", "Held-out text", "held-out text",
        "All tokens of whole documents that no graph was built from, as they come: here false alarms show.",
        ordinary=True,
    ),
    Text(
        "out_of_domain", "Out-of-domain text", "out-of-domain text",
        "All tokens of documents of another kind than the harvest.",
        ordinary=True,
    ),
)  # fmt: skip
"""The texts in order."""

PREDICTORS: tuple[Predictor, ...] = (
    Predictor(
        "graph", "graph", "explanation", "#d55e00", "o",
        "The unit's token graph, the explanation that is judged.",
        presets=("full", "paper"),
    ),
    Predictor(
        "combined", "all evidence", "explanation", "#8b3a62", "*",
        "The graph, suffix evidence and skip-bigrams, weighed for each unit on harvested documents that were left out: "
        "the best that the evidence says, and nothing to read.",
        methods=("evidence",),
    ),
    Predictor(
        "token_lookup", "token lookup", "baseline", "#0072b2", "s",
        "Mean activation of each token over the same train contexts, or in the method evidence, shrunk, over all of "
        "the harvest; it knows no context.",
        presets=("full", "paper"),
        rival="a token lookup",
    ),
    Predictor(
        "ngram", "n-gram", "baseline", "#56b4e9", "^",
        "Mean activation of each run of n tokens over the same train contexts; n is chosen on them.",
        presets=("full", "paper"),
        methods=("paper",),
    ),
    Predictor(
        "ngram_backoff", "back-off n-gram", "baseline", "#009e73", "D",
        "A strong baseline: an interpolated, shrunk back-off n-gram, learnt from all of the harvest.",
        methods=("paper",),
        rival="the back-off n-gram",
    ),
    Predictor(
        "suffixes", "suffix evidence", "baseline", "#e69f00", "P",
        "The strongest baseline: the mean activation after the last one to six tokens, each pulled towards that after "
        "one token less, learnt from all of the harvest.",
        methods=("evidence",),
        rival="suffix evidence",
    ),
    Predictor(
        "skip_bigram", "skip-bigrams", "baseline", "#cc79a7", "v",
        "A strong baseline: what a token does beside an earlier one, learnt from all of the harvest.",
    ),
    Predictor(
        "always_zero", "always zero", "control", "#98a2ad", "x",
        "Control: it predicts silence everywhere.",
    ),
    Predictor(
        "graph_shuffled", "shuffled graph", "control", "#5b6673", "s",
        "Control: the graph of another unit of the layer; what any graph would reach.",
    ),
    Predictor(
        "graph_unaugmented", "unaugmented graph", "control", "#b58256", "o",
        "Control: the graph without the paths of substituted tokens; it shows what augmentation brings.",
        methods=("paper",),
    ),
)  # fmt: skip
"""The predictors in the order of tables and plots."""

Entry = TypeVar("Entry", Stage, Text, Predictor)


def of_study(entries: Iterable[Entry], preset: Preset, method: Method) -> tuple[Entry, ...]:
    """The entries that a study of this preset and method has."""
    return tuple(entry for entry in entries if preset in entry.presets and method in entry.methods)


def named(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Entries by their name, in order."""
    return {entry.name: entry for entry in entries}
