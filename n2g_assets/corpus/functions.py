"""The function that a source of kind ``python`` names: found, imported and called.

A module of the study's folder comes first, also where a package of its name is loaded, and is forgotten afterwards: two
studies may have modules of one name, and each run reads them anew. While the function runs, the study's folder stands
first on ``sys.path``, so that it can import what lies beside it. A module that has the name of one of Python's own is
refused, since libraries would import it too. The code runs with the rights of whoever runs the study, in its process.
"""

import importlib
import symtable
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import decode_source, find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from n2g_assets.core.errors import CorpusError, SourceError, short_reason
from n2g_assets.core.sources import PythonSource
from n2g_assets.corpus.formats import shown
from n2g_assets.corpus.rows import RawDocument

_KEYS = ("text", "token_ids", "name", "kind")
"""What a document may hold that is a mapping or a named tuple."""


def check_function(source: PythonSource, study_folder: Path) -> None:
    """Check that the module is there and binds the name; nothing is imported or run for it.

    Raises:
        SourceError: It is not, cannot be compiled, or has the name of a module of Python's own.
    """
    module, _, name = source.function.partition(":")
    spec = _find(module, study_folder)
    if spec is None:
        raise SourceError(
            f"There is no module '{module}' of the corpus function '{source.function}', neither in the study's folder "
            f"{shown(study_folder)} nor among the installed packages: correct 'function', or put the module there."
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        return
    try:
        code = decode_source(Path(spec.origin).read_bytes())
        table = symtable.symtable(code, spec.origin, "exec")
    except (OSError, SyntaxError, ValueError) as error:
        raise _broken(source, spec.origin, error) from error
    bound = {each.get_name() for each in table.get_symbols() if each.is_assigned() or each.is_imported()}
    if name not in bound and "__getattr__" not in bound and "import *" not in code:
        raise _nameless(source, spec.origin)


def call(source: PythonSource, study_folder: Path) -> Generator[RawDocument, None, None]:
    """The documents that the function yields, in its order, each named after its number (from 0) if not by itself.

    Raises:
        SourceError: The module or function is not there or fails, or gives no documents.
        CorpusError: A document is neither text nor token ids.
    """
    check_function(source, study_folder)
    with _modules_of(study_folder):
        module = _imported(source)
        function = getattr(module, source.function.partition(":")[2], None)
        if not callable(function):
            raise _nameless(source, str(module.__file__))
        number = 0
        try:
            documents = function(**source.arguments)
            if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
                raise SourceError(
                    f"The corpus function '{source.function}' gives {_shown(documents)}, not documents: let it "
                    "yield them one by one."
                )
            for document in documents:
                yield _document(source.function, number, document)
                number += 1
        except (SourceError, CorpusError):
            raise
        except (Exception, SystemExit) as error:  # whatever code of the user raises
            raise SourceError(
                f"The corpus function '{source.function}' fails at document {number} (counted from 0) with "
                f"{type(error).__name__}: {short_reason(error)} ({_line(error, module)}): repair it or its "
                "'arguments'."
            ) from error


# ------------------------------------------------------------------------------------------ modules
def _find(module: str, study_folder: Path) -> ModuleSpec | None:
    """Where a module would come from; nothing is imported for it."""
    importlib.invalidate_caches()
    top, *parts = module.split(".")
    spec = PathFinder.find_spec(top, [str(study_folder)])
    if spec is not None and spec.origin and top in sys.stdlib_module_names:
        raise SourceError(
            f"The module '{top}' in the study's folder {shown(study_folder)} has the name of one of Python's own: give "
            "its file another name."
        )
    if spec is None or spec.origin is None:  # a folder without __init__.py gives way to a package, as Python has it
        spec = _installed(top) or spec
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec


def _installed(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except ValueError:  # a module that was made in code
        return None


@contextmanager
def _modules_of(study_folder: Path) -> Iterator[None]:
    """Modules of the study's folder are imported before all others, and forgotten at the end."""
    folder = str(study_folder.absolute())

    def file_of(top: str) -> str | None:
        spec = None if top in sys.stdlib_module_names else PathFinder.find_spec(top, [folder])
        return None if spec is None else spec.origin

    def top_of(name: str) -> str:
        return name.partition(".")[0]

    loaded = {top: getattr(sys.modules.get(top), "__file__", None) for top in map(top_of, list(sys.modules))}
    hidden = {top for top, file in loaded.items() if file_of(top) not in (None, file)}
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if top_of(name) in hidden}
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # its time stamps would miss a quick change
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = writes
        for name in list(sys.modules):
            top = top_of(name)
            if (top in hidden or top not in loaded) and PathFinder.find_spec(top, [folder]) is not None:
                del sys.modules[name]
        sys.modules.update(kept)


def _imported(source: PythonSource) -> Any:
    module = source.function.partition(":")[0]
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever code of the user raises
        raise _broken(source, module, error) from error


def _broken(source: PythonSource, place: str, error: BaseException) -> SourceError:
    return SourceError(
        f"The module of the corpus function '{source.function}' ({shown(place)}) cannot be imported "
        f"({type(error).__name__}: {short_reason(error)}): repair it."
    )


def _nameless(source: PythonSource, place: str) -> SourceError:
    name = source.function.partition(":")[2]
    return SourceError(
        f"The module of the corpus function '{source.function}' ({shown(place)}) has no function '{name}': correct "
        "'function'."
    )


def _line(error: BaseException, module: Any) -> str:
    """The file of the module, and the last line in it that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f":{frame.lineno}" for frame in frames if frame.filename == module.__file__]
    return f"{shown(module.__file__)}{lines[-1] if lines else ''}"


# ------------------------------------------------------------------------------------------ documents
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
        raise CorpusError(f"{where}{_shown(value)}: give text.")
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
        raise CorpusError(f"{where} is {_shown(value)}: give text, or a list or array of whole numbers.")
    return ids.astype(np.int64)


def _shown(value: object) -> str:
    """A value and its type, short enough for a sentence."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 40 else f'{text[:40]}...'} ({type(value).__name__})"
