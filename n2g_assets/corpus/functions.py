"""The function that a source of kind ``python`` names: called, and what it yields made documents (``user_code``)."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.sources import PythonSource
from n2g_assets.corpus.formats import shown
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.corpus.user_code import UserFunction

_KEYS = ("text", "token_ids", "name", "kind")
"""What a document may hold that is a mapping or a named tuple."""


def function_of(source: PythonSource, study_folder: Path) -> UserFunction:
    """The function that a source names."""
    return UserFunction("corpus function", source.function, study_folder)


def call(source: PythonSource, study_folder: Path) -> Generator[RawDocument, None, None]:
    """The documents that the function yields, in its order, each named after its number (from 0) if not by itself.

    Raises:
        SourceError: The module or function is not there or fails, or gives no documents.
        CorpusError: A document is neither text nor token ids.
    """
    user = function_of(source, study_folder)
    with user.imported() as function:
        number = 0
        try:
            documents = function(**source.arguments)
            if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
                raise SourceError(
                    f"The {user} gives {shown_value(documents)}, not documents: let it yield them one by one."
                )
            for document in documents:
                yield _document(source.function, number, document)
                number += 1
        except (SourceError, CorpusError):
            raise
        except (Exception, SystemExit) as error:  # whatever code of the user raises
            raise SourceError(
                f"The {user} fails at document {number} (counted from 0) with {user.said(error)}: repair it or its "
                "'arguments'."
            ) from error


def _document(function: str, number: int, value: Any) -> RawDocument:
    """A document as the function gives it.

    Raises:
        CorpusError: It is neither text nor token ids, nor a mapping or named tuple that holds one of them.
    """
    where = f"Document {number} (counted from 0) of the corpus function '{function}'"
    if hasattr(value, "_asdict"):
        value = value._asdict()
    is_mapping = isinstance(value, Mapping)
    if not is_mapping:
        value = {"text" if isinstance(value, str) else "token_ids": value}
    unknown = [key for key in value if key not in _KEYS]
    given = {key: each for key, each in value.items() if each is not None or not is_mapping}
    if unknown or len(given.keys() & {"text", "token_ids"}) != 1:
        has = f"has {unknown[0]!r}" if unknown else f"has {' and '.join(given) or 'nothing'}"
        raise CorpusError(
            f"{where} {has}: give text, a list of token ids, or a mapping with either 'text' or 'token_ids' and, if "
            "wanted, 'name' and 'kind'."
        )
    for key in ("text", "name", "kind"):
        _check_text(f"{where} has, as its {key}, ", given.get(key, "-"), may_be_empty=key == "text")
    ids = _token_ids(where, given["token_ids"]) if "token_ids" in given else None
    name = shown(given.get("name", number))
    return RawDocument(name, given.get("text", ""), token_ids=ids, kind=given.get("kind"))


def _check_text(where: str, value: Any, *, may_be_empty: bool) -> None:
    if not isinstance(value, str) or not (value or may_be_empty):
        raise CorpusError(f"{where}{shown_value(value)}: give text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}half a surrogate pair at character {error.start}: take it out.") from error


def _token_ids(where: str, value: Any) -> Integer[np.ndarray, " tokens"]:
    is_list = hasattr(value, "__array__") or (isinstance(value, Sequence) and not isinstance(value, bytes | bytearray))
    try:
        ids = np.asarray(value if is_list else None)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths, a tensor of a device
        ids = np.asarray(None)
    if ids.shape == (0,):
        return np.empty(0, np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise CorpusError(f"{where} is {shown_value(value)}: give text, or a list or array of whole numbers.")
    return ids.astype(np.int64)


def shown_value(value: object) -> str:
    """A value and its type, short enough for a sentence."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 40 else f'{text[:40]}...'} ({type(value).__name__})"
