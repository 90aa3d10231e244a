"""How every group of settings behaves: frozen, checked, and closed to unknown names."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings; subclasses stand beside the code they configure.

    A docstring under a field becomes its description in the JSON schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
