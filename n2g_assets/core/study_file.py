"""A ``defs.yaml`` as people write it: what it says, and each mistake in it as one sentence with the file and the line.

1. The text becomes a tree of YAML nodes, which know their lines. A key that stands twice is a mistake.
2. The document that describes a study is a mapping whose ``attributes`` are its settings.
3. What pydantic finds wrong with them becomes a sentence for each mistake.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ValidationError

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.setting import UnknownSettingError
from n2g_assets.core.settings import StudySettings

COMPONENT = "n2g_assets.N2GStudy"
"""What a study's file names as its type, unless it is one made from it."""
_KEYS = ("type", "attributes", "template_vars_module", "requirements", "post_processing")
"""What Dagster knows at the top of a component's file."""

Place = Sequence[str | int]
"""Keys and positions that lead to a value, from the top of ``attributes``."""


class Mistake(NamedTuple):
    """Something wrong with a study's settings."""

    place: Place
    """Where in ``attributes``; empty where it concerns the whole."""
    sentence: str
    """What is wrong and what to do."""


class _Loader(yaml.SafeLoader):
    """Takes dates as text, as Dagster does, and names the line of a value that Python cannot hold."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # of a number of thousands of digits
            raise yaml.MarkedYAMLError(None, None, str(error), node.start_mark) from error


class StudyFile(NamedTuple):
    """The file of a study."""

    path: Path
    node: yaml.Node
    """The document as YAML's tree, which knows its lines."""
    values: Mapping[str, Any]
    """The document as values."""

    @classmethod
    def read(cls, path: Path, component: str = "N2GStudy") -> "StudyFile":
        """The one study that a file describes, by the name of its component's class.

        Raises:
            SettingsError: it is no readable YAML, a key stands twice, or it does not describe one study.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise SettingsError(f"{path}:{line}: this is not UTF-8: save the file as UTF-8.") from None
        except OSError as error:
            raise SettingsError(
                f"The study's file {path} cannot be read ({error.strerror}): correct its path."
            ) from error
        try:
            documents = [_document(path, node) for node in yaml.compose_all(text, Loader=_Loader)]
        except yaml.YAMLError as error:
            raise SettingsError(_no_yaml(error, path, text)) from None
        except RecursionError:
            raise SettingsError(f"{path}: its values are nested too deeply: take out what is no setting.") from None
        studies = [one for one in documents if str(one.values.get("type")).rpartition(".")[2] == component]
        if len(studies) > 1:
            raise SettingsError(
                f"{studies[1].where(())}: the file describes a second study of the same name: give it a folder and a "
                "defs.yaml of its own."
            )
        if not studies:
            named = next((str(one.values["type"]) for one in documents if "type" in one.values), "")
            raise SettingsError(
                f"{path}:1: the file describes no study" + (f" but '{named}'" if named else "")
                + f": begin it with 'type: {COMPONENT}'."
            )  # fmt: skip
        return studies[0]

    def where(self, place: Place) -> str:
        """The file and the line at which the key or entry stands, or the nearest that holds it."""
        return self._where(("attributes", *place))

    def _where(self, place: Place) -> str:
        node, line = self.node, self.node.start_mark.line
        for step in place:
            key, node = _step(node, step)
            if key is None:
                break
            line = key.start_mark.line
        return f"{self.path}:{line + 1}"

    def error(self, mistakes: Iterable[Mistake]) -> SettingsError:
        """The error that says each of the mistakes on a line of its own."""
        return SettingsError("\n".join(f"{self.where(place)}: {' '.join(said.split())}" for place, said in mistakes))

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings, as they are written.

        Raises:
            SettingsError: there are none, or something else stands beside them.
        """
        for key in self.values:
            if key not in _KEYS:
                raise SettingsError(f"{self._where((key,))}: '{key}' is not known here: known are {', '.join(_KEYS)}.")
        attributes = self.values.get("attributes")
        if not isinstance(attributes, dict) or not attributes:
            raise SettingsError(
                f"{self.where(())}: the study has no settings: write its subject, corpus and layers, indented, under "
                "'attributes:'."
            )
        return attributes


def check_files(paths: Iterable[Path]) -> None:
    """Read the files that name this package, so that mistakes which Dagster meets first are said as all others.

    Raises:
        SettingsError: one is no readable YAML, a key stands twice, or it does not describe one study.
    """
    for path in paths:
        if b"type: n2g_assets." in path.read_bytes():
            _ = StudyFile.read(path).attributes


_CURES = {
    "'\\t'": "indent with spaces",
    "unhashable": "put a template {{ ... }} in quotes",
    "digits": "take a smaller number",
}


def _no_yaml(error: yaml.YAMLError, path: Path, text: str) -> str:
    mark, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if context and ("end of stream" in said or "stream end" in said):  # what is never closed begins there
        mark = context
    line = mark.line + 1 if mark else text[: getattr(error, "position", 0)].count("\n") + 1
    cure = next((cure for sign, cure in _CURES.items() if sign in said), "correct the line or the one before it")
    return f"{path}:{line}: this is not YAML ({' '.join(said.split())}): {cure}."


def _document(path: Path, node: yaml.Node) -> StudyFile:
    for key in _repeated_keys(node, set()):
        raise SettingsError(
            f"{path}:{key.start_mark.line + 1}: '{key.value}' stands here for the second time: leave one of them."
        )
    values = _Loader("").construct_document(node)
    return StudyFile(path, node, values if isinstance(values, dict) else {})


def _repeated_keys(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _repeated_keys(child, seen)
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    yield key
                keys.add(key.value)
            yield from _repeated_keys(child, seen)


def _step(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """What stands for a step of a place, such as the key, and its value; None where nothing does."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(step)), (None, None))
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None, None


# ------------------------------------------------------------------------------------------ pydantic's errors
def mistakes_of(error: ValidationError, attributes: Any) -> list[Mistake]:
    """Every mistake that pydantic found in a study's settings."""
    return [_mistake(dict(found), attributes) for found in error.errors(include_url=False)]


def _mistake(found: Mapping[str, Any], attributes: Any) -> Mistake:
    kind, about = found["type"], found.get("ctx", {})
    place, value = _place(found["loc"], attributes, missing=kind == "missing")
    name = _name(place)
    if kind == "value_error":
        return _of_validator(about["error"], place, value)
    if kind == "missing":
        return Mistake(place[:-1], f"{name} is missing: add it.")
    if kind == "union_tag_not_found":
        key = about["discriminator"].strip("'")
        return Mistake(place, f"{name} lacks '{key}': add it, one of {', '.join(_choices(place, key))}.")
    if kind == "union_tag_invalid":
        key = about["discriminator"].strip("'")
        said = f"{name}.{key} must be one of {about['expected_tags']}, not {_shown(about['tag'])}."
        return Mistake((*place, key), said)
    must = _MUST.get(kind) or found["msg"].removeprefix("Input should ")
    return Mistake(place, f"{name} must {must}, not {_shown(found['input'])}.")


def _of_validator(error: ValueError, place: Place, value: Any) -> Mistake:
    """What a validator of ours says; one that looks at several settings begins with the name of the first of them."""
    name, said = _name(place), str(error)
    first = said.split(maxsplit=1)[0].rstrip(":")
    if isinstance(error, UnknownSettingError):
        return Mistake((*place, error.key), f"{name}: {said}" if name else said)
    if isinstance(value, Mapping) and first in value:
        return Mistake((*place, first), f"{name}.{said}" if name else said)
    return Mistake(place, said if said.startswith(name) else f"{name}: {said}")


_MAPPING = "hold settings by name, such as {name: value}"
_MUST = {
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "list_type": "be a list, such as [one, another]",
    "int_type": "be a whole number",
    "float_type": "be a number",
    "bool_type": "be true or false",
    "string_type": "be text (in quotes, where it looks like something else)",
    "too_short": "name at least one",
    "string_too_short": "have at least one character",
}
"""What a value must do, by the type of pydantic's error, where pydantic's words are not enough."""


def _place(location: Sequence[str | int], attributes: Any, *, missing: bool) -> tuple[tuple[str | int, ...], Any]:
    """Pydantic's location of an error without the tags of unions, which stand for no key; and the value there."""
    value, place = attributes, list[str | int]()
    for step in location:
        inside = range(len(value)) if isinstance(value, list) else value if isinstance(value, Mapping) else ()
        if step in inside:
            value = value[step]
            place.append(step)
    return (*place, *(location[-1:] if missing else ())), value


def _name(place: Place) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")


def _choices(place: Place, key: str) -> list[str]:
    """The values of the setting that tells the kinds of a part apart."""

    def models(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for inner in get_args(annotation):
            yield from models(inner)

    kinds: Iterable[type[BaseModel]] = [StudySettings]
    for step in (step for step in place if isinstance(step, str)):
        kinds = [inner for kind in kinds for inner in models(kind.model_fields[step].annotation)]
    return [get_args(kind.model_fields[key].annotation)[0] for kind in kinds]


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
