"""How every group of settings behaves: frozen, checked, and closed to unknown names."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from thinktune.errors import ConfigError


class Settings(BaseModel):
    """A group of settings; subclasses stand beside the code they configure.

    A docstring under a field becomes its description in the JSON schema.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; who writes ``rank=true`` meant something else."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("true or false is not allowed here")
        return value


S = TypeVar("S", bound=Settings)


def parse_settings(kind: type[S], values: Mapping[str, Any]) -> S:
    """Make one group of settings of plain values.

    Raises:
        ConfigError: the first value that is not allowed, and what is.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        known = kind.model_fields
        name = ".".join(str(part) for part in first["loc"] if unknown or str(part) in known)
        message = first["msg"].removeprefix("Value error, ")
        if unknown:
            message = f"no such setting; known: {', '.join(known)}"
        told = f"{name}={first['input']!r:.80}: {message}" if name else message
        raise ConfigError(told) from None
