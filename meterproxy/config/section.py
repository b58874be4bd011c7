"""Sections: what all levels of the configuration have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A level of the configuration: frozen, without unknown settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, value: Any) -> Any:
        """An empty level, and a setting without a value, mean the default."""
        if value is None:
            return {}
        return (
            {name: member for name, member in value.items() if member is not None} if isinstance(value, dict) else value
        )
