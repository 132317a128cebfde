"""Base class of every settings section.

Each section is defined in the module that uses it; `pipeline.config` composes them into one tree.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable, and strict about names: an unknown key is a mistake, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
