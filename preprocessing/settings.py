"""Base class of every settings section.

Each section is defined in the module that uses it; `pipeline.config` composes them into one tree.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

# json_schema_extra of a field on which no result depends: speed, memory, storage, what is kept or drawn beside it
NO_INFLUENCE: dict[str, JsonValue] = {"influence": False}


class Settings(BaseModel):
    """Immutable, and strict about names: an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def content(self) -> dict[str, Any]:
        """All that a result depends on, as JSON has it: a change of any of it makes the result anew."""
        return json.loads(self.model_dump_json(exclude=_left_out(self)))


def _left_out(settings: Settings) -> dict[str, Any]:
    """The fields without influence, those of the sections below included, as pydantic's `exclude` takes them."""
    found: dict[str, Any] = {}
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if info.json_schema_extra == NO_INFLUENCE:
            found[name] = True
        elif isinstance(value, Settings) and (below := _left_out(value)):
            found[name] = below
    return found
