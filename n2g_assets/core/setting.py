"""What a setting is: a field of a frozen pydantic model; what is wrong with a value is said in one sentence."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

Part = TypeVar("Part", bound="Settings")


_LARGEST = 10**12
"""No setting counts further; a number beyond it is a slip of the hand, and would not fit the tables."""


class UnknownSettingError(ValueError):
    """There is no setting of this name; pydantic's errors hand it on."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        near = get_close_matches(key, known, n=1)
        cure = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
        super().__init__(f"there is no setting '{key}' here: {cure}")
        self.key = key


class Settings(BaseModel):
    """Base of all settings: frozen, of exact types, and a misspelled key is an error that names it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_min_length=1, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise UnknownSettingError(str(key), cls.model_fields)
        return values

    @model_validator(mode="before")
    @classmethod
    def _numbers_can_be_kept(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(number, int) and abs(number) > _LARGEST for number in numbers):
                raise ValueError(f"{key} holds a number beyond {_LARGEST:,}: take a smaller one.")
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


def known_timezone(timezone: str) -> str:
    """Refuses the name of a time zone that there is not."""
    try:
        ZoneInfo(timezone)
    except (LookupError, OSError, ValueError) as error:  # the last two where it is a folder, or no path inside one
        near = get_close_matches(timezone, available_timezones(), n=1)
        cure = f"did you mean '{near[0]}'?" if near else "give a name such as UTC or Europe/Berlin."
        raise ValueError(f"there is no time zone '{timezone}': {cure}") from error
    return timezone
