"""What a setting is: a field of a frozen pydantic model; what is wrong with a value is said in one sentence."""

from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

Part = TypeVar("Part", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, and a misspelled key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    near = get_close_matches(str(key), cls.model_fields, n=1)
                    cure = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(cls.model_fields)}."
                    raise ValueError(f"there is no setting '{key}' here: {cure}")
        return values

    def hashed(self) -> dict[str, Any]:
        """What a stage that is handed these settings hashes: all of them that can change a row."""
        marked = {name for name, field in type(self).model_fields.items() if field.json_schema_extra == CHANGES_NO_ROW}
        return self.model_dump(mode="json", exclude=marked)

    def part(self, kind: type[Part]) -> Part:
        """The fields of one of this class's parents alone: what one stage is handed, and hashes."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})


CHANGES_NO_ROW: dict[str, Any] = {"changes_no_row": True}
"""Marks a setting that enters no input hash of the stages it is handed to: it says how work is cut up (floats may
differ within rounding), or what else is learnt from, which is hashed where it is read."""


def shape(value: Any) -> str:
    """The tag of a value where a setting may take several shapes: a word is its own tag, all else goes by type."""
    return value if isinstance(value, str) else "dict" if isinstance(value, Settings) else type(value).__name__


def one_of_shapes(sentence: str, *tags: str) -> BeforeValidator:
    """Refuses a value of any other shape in one sentence.

    A ``Discriminator`` behind it tells the others apart, so that a wrong value gives one error and not one a shape; an
    error type of its own would not survive the way through Dagster.
    """

    def check(value: Any) -> Any:
        if shape(value) not in tags:
            raise ValueError(sentence)
        return value

    return BeforeValidator(check)
