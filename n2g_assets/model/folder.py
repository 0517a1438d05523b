"""A model's folder in Hugging Face layout: what has to be in it, what tells it from every other, how it is loaded."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import SourceError, short_reason
from n2g_assets.storage.hashing import file_sha256

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt"),
)
"""A tokenizer is at least one of these."""
TEXT_FILES = (
    *("model.safetensors.index.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("merges.txt", *TOKENIZER_FILES),
)
"""What a model's folder may hold besides its weights and config.json, in the order in which it is hashed."""
CURE = "put the whole model there anew, with its config.json and safetensors"
_INDEX = "model.safetensors.index.json"


def hash_model(folder: Path) -> str:
    """The identity of a model: :func:`hash_files` of all that decides what it computes, weights to tokenizer."""
    return hash_files((*weight_files(folder), *text_files(folder)))


def hash_files(files: Iterable[Path]) -> str:
    """The sha256 (hex) of a list of files and their hashes, in the order given, as ``sha256sum`` writes it."""
    listed = ""
    for file in files:
        found = file.stat()
        listed += f"{_sha256(file, found.st_ino, found.st_size, found.st_mtime_ns)}  {file.name}\n"
    return hashlib.sha256(listed.encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(path: Path, *_state: int) -> str:
    """The sha256 of a file, which is read again only where it has changed since this process read it."""
    return file_sha256(path)


def model_identity(facts: Mapping[str, Any], layer: int | None = None) -> str:
    """Of a row of ``subject_models``, what every number depends on: the files, the hook, BOS and the mask token.

    What concerns the units of a layer depends on the encoder there too, where ``facts["encoders"]`` has one.
    """
    identity = f"{facts['file_sha256']}:{facts['hook']}:{facts['bos_id']}:{facts['mask_id']}"
    encoder = encoder_identity(facts, layer)
    return identity if encoder is None else f"{identity}:{encoder}"


def encoder_identity(facts: Mapping[str, Any], layer: int | None) -> str | None:
    """The sha256 of the encoder of a layer; None where units are what the hook carries."""
    encoder = facts.get("encoders", {}).get(layer)
    return None if encoder is None else encoder["sha256"]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers loads: one file, or those that the index names.

    Raises:
        SourceError: The index is damaged or names files outside of the folder.
    """
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else [folder / name for name in _indexed(folder, f"The model in {folder}", CURE)]


def _indexed(folder: Path, what: str, cure: str) -> list[str]:
    """The files that the index of the weights names."""
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        inside = all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise SourceError(f"{what} has a damaged {_INDEX}: {cure}.") from error
    if not inside or not names:
        raise SourceError(f"The {_INDEX} of {what[0].lower()}{what[1:]} names no safetensors beside it: {cure}.")
    return names


def text_files(folder: Path) -> list[Path]:
    """Config and tokenizer."""
    return [folder / name for name in ("config.json", *TEXT_FILES) if (folder / name).is_file()]


def check_folder(folder: Path, what: str, cure: str) -> None:
    """Check that config, safetensors and tokenizer are there; messages say ``what`` it is and the ``cure``.

    Raises:
        SourceError: A file is missing or the index of the weights is damaged.
    """
    names = {path.name for path in folder.iterdir()}
    check_names(names, what, cure)
    if "model.safetensors" not in names:
        lacking = [name for name in _indexed(folder, what, cure) if name not in names]
        if lacking:
            raise SourceError(f"{what} lacks {lacking[0]}: {cure}.")


def check_names(names: Iterable[str], what: str, cure: str) -> None:
    """As :func:`check_folder`, of a list of file names; those in subfolders do not count."""
    there = set(names)
    if "config.json" not in there:
        raise SourceError(f"{what} has no config.json: {cure}, or name a model in Hugging Face layout.")
    if not there & {"model.safetensors", _INDEX}:
        pickles = sorted(name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
        instead = f" but {pickles[0]}, a pickle, which is never read" if pickles else ""
        raise SourceError(
            f"{what} has no model.safetensors{instead}: save the model once with "
            "save_pretrained(..., safe_serialization=True) and give that folder."
        )
    if not there & set(TOKENIZER_FILES):
        raise SourceError(f"{what} has no tokenizer ({TOKENIZER_FILES[0]}): save the model's tokenizer beside it.")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides the progress bars of transformers and the lines that the bridge writes to standard output."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(what: str, cure: str) -> Iterator[None]:
    """Loads quietly, and turns what damaged files raise into a SourceError that says ``what`` they are and the cure."""
    try:
        with quiet_transformers():
            yield
    except SourceError:
        raise
    except Exception as error:  # damaged files fail in many ways, each with a class of its own
        raise SourceError(
            f"{what} cannot be loaded ({type(error).__name__}: {short_reason(error)}): {cure}."
        ) from error
