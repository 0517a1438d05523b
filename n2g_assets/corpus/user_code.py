"""Functions that a study names as ``package.module:name``: found, imported and called.

A module of the study's folder comes first, also where a package of its name is loaded, and is forgotten afterwards: two
studies may have modules of one name, and each run reads them anew. While the function runs, the study's folder stands
first on ``sys.path``, so that it can import what lies beside it. A module that has the name of one of Python's own is
refused, since libraries would import it too. The code runs with the rights of whoever runs the study, in its process.
"""

import importlib
import symtable
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import decode_source, find_spec
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import SourceError, short_reason
from n2g_assets.corpus.formats import shown


@dataclass(frozen=True)
class UserFunction:
    """A function that a study names."""

    what: str
    """What it is, for messages, such as ``corpus function``."""
    path: str
    """Module and name, such as ``package.module:name``."""
    study_folder: Path

    def __str__(self) -> str:
        """It in a sentence."""
        return f"{self.what} '{self.path}'"

    def check(self) -> Path | None:
        """Check that the module is there and binds the name; nothing is imported or run for it.

        Returns:
            The module's file; None where it is no Python file.

        Raises:
            SourceError: It is not, cannot be compiled, or has the name of a module of Python's own.
        """
        module, _, name = self.path.partition(":")
        spec = _find(module, self.study_folder)
        if spec is None:
            raise SourceError(
                f"There is no module '{module}' of the {self}, neither in the study's folder "
                f"{shown(self.study_folder)} nor among the installed packages: correct 'function', or put the module "
                "there."
            )
        if not spec.origin or not spec.origin.endswith(".py"):
            return None
        try:
            code = decode_source(Path(spec.origin).read_bytes())
            table = symtable.symtable(code, spec.origin, "exec")
        except (OSError, SyntaxError, ValueError) as error:
            raise self._broken(spec.origin, error) from error
        bound = {each.get_name() for each in table.get_symbols() if each.is_assigned() or each.is_imported()}
        if name not in bound and "__getattr__" not in bound and "import *" not in code:
            raise self._nameless(spec.origin)
        return Path(spec.origin)

    @contextmanager
    def imported(self) -> Iterator[Callable[..., Any]]:
        """The function, while the block runs.

        Raises:
            SourceError: The module or function is not there or fails.
        """
        self.check()
        module, _, name = self.path.partition(":")
        with _modules_of(self.study_folder):
            try:
                found = importlib.import_module(module)
            except (Exception, SystemExit) as error:  # whatever code of the user raises
                raise self._broken(module, error) from error
            function = getattr(found, name, None)
            if not callable(function):
                raise self._nameless(str(found.__file__))
            yield function

    def said(self, error: BaseException) -> str:
        """What the function raised, with the file of its module and the last line in it that the error passed."""
        file = str(sys.modules[self.path.partition(":")[0]].__file__)
        lines = [f":{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f"{shown(file)}{lines[-1] if lines else ''}"
        return f"{type(error).__name__}: {short_reason(error)} ({place})"

    def _broken(self, place: str, error: BaseException) -> SourceError:
        return SourceError(
            f"The module of the {self} ({shown(place)}) cannot be imported "
            f"({type(error).__name__}: {short_reason(error)}): repair it."
        )

    def _nameless(self, place: str) -> SourceError:
        name = self.path.partition(":")[2]
        return SourceError(f"The module of the {self} ({shown(place)}) has no function '{name}': correct 'function'.")


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
