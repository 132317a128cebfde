"""The configuration's fields, read off its pydantic models: names, kinds, limits, defaults, meanings, help text."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Models = tuple[type[BaseModel], ...]

_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "nothing"}
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "multiple of"}
_UNSET = object()


@dataclass(frozen=True)
class Entry:
    """One field or section of the configuration, by its dotted path."""

    path: str
    info: FieldInfo
    models: Models  # of a section; () for a field that holds a value
    default: Any

    @property
    def kind(self) -> str:
        """What a value must be, in words, with its limits."""
        bounds = (
            f"{words} {getattr(part, key)}"
            for part in self.info.metadata
            for key, words in _LIMITS.items()
            if getattr(part, key, None) is not None
        )
        return ", ".join([describe(self.info.annotation), *bounds])


def section_models(annotation: Any) -> Models:
    """The models that a section's annotation allows (several for a union); () for a plain value."""
    if inspect.isclass(annotation) and not get_args(annotation):
        return (annotation,) if issubclass(annotation, BaseModel) else ()
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return tuple(model for part in get_args(annotation) for model in section_models(part))
    return ()


def children(models: Models) -> dict[str, FieldInfo]:
    """Fields of a section by name; of a union, those of all its members."""
    return {name: info for model in models for name, info in model.model_fields.items()}


def walk(model: type[BaseModel]) -> Iterator[Entry]:
    """Every section and field of the tree, parents first, in the order of their definition."""
    yield from _walk((model,), "", _UNSET)


def describe(annotation: Any) -> str:
    """A type in plain words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in _KINDS:
        return _KINDS[annotation]
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin is Annotated:
        return describe(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in parts)
    if origin in (tuple, list, set, frozenset):
        inner = [describe(part) for part in parts if part is not Ellipsis]
        return f"list of {inner[0]}" if len(set(inner)) == 1 else f"list ({', '.join(inner)})"
    if origin is dict:
        return f"mapping of {describe(parts[0])} to {describe(parts[1])}"
    return getattr(annotation, "__name__", str(annotation)).lower()


def print_help(model: type[BaseModel], console: Console) -> None:
    """All fields with default and meaning, a table for each section."""
    entries = list(walk(model))
    leaves = [entry for entry in entries if not entry.models]
    width = max(len(entry.path) for entry in leaves)
    # narrow enough that the meaning keeps at least half of the line; a long default wraps
    default_width = min(max(len(_shown(entry.default)) for entry in leaves), 16)
    for section in ["", *(entry.path for entry in entries if entry.models)]:
        own = [entry for entry in leaves if entry.path.rpartition(".")[0] == section]
        if own:
            console.print(_section_title(section, entries))
            console.print(Padding(_section_table(own, width, default_width), (0, 0, 1, 2)))


def _walk(models: Models, prefix: str, parent: Any) -> Iterator[Entry]:
    for name, info in children(models).items():
        default = getattr(parent, name, _UNSET)
        if default is _UNSET and not (info.is_required() or info.default_factory_takes_validated_data):
            default = info.get_default(call_default_factory=True)
        entry = Entry(f"{prefix}{name}", info, section_models(info.annotation), default)
        yield entry
        if entry.models:
            yield from _walk(entry.models, f"{entry.path}.", default)


def _section_title(section: str, entries: list[Entry]) -> Text:
    title = Text(section or "general", style="bold")
    for entry in entries:
        if section and entry.path == section:
            meaning = entry.info.description or _first_line(entry.models[0])
            title.append(f"  {meaning}" if meaning else "", style="dim")
    return title


def _section_table(entries: list[Entry], width: int, default_width: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=False)
    table.add_column(no_wrap=True, min_width=width)
    table.add_column(overflow="fold", min_width=default_width, max_width=default_width)
    table.add_column(overflow="fold")
    for entry in entries:
        meaning = Text(entry.info.description or "").append(f" ({entry.kind})", style="dim")
        table.add_row(Text(entry.path), Text(_shown(entry.default)), meaning)
    return table


def _shown(default: Any) -> str:
    if default is _UNSET:
        return "(must be set)"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (tuple, list)):
        return "[" + ", ".join(_shown(part) for part in default) + "]"
    return str(default) if str(default) else '""'


def _first_line(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n")[0]
