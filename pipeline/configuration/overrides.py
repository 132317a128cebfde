"""A configuration with some fields changed, by dotted path: what a trial of a search is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from preprocessing.settings import Settings

S = TypeVar("S", bound=Settings)


def with_fields(config: S, fields: Mapping[str, Any]) -> S:
    """A checked copy of the configuration.

    Args:
        config: left as it is.
        fields: dotted path -> value.

    Raises:
        KeyError: no such field.
        pydantic.ValidationError: a value that the field does not take.
    """
    tree = config.model_dump()
    for path, value in fields.items():
        *sections, name = path.split(".")
        node: Any = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name not in node:
            raise KeyError(path)
        node[name] = value
    return type(config).model_validate(tree)


def field_value(config: Settings, path: str) -> Any:
    """The value of a field by its dotted path."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
