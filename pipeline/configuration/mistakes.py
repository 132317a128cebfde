"""What is wrong with a configuration, in plain words: what, where, what would be right, the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from pipeline.configuration.fields import Entry, children, section_models, walk

_WORDS = {
    "greater_than": "should be more than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "finite_number": "should be a finite number",
    "string_type": "should be text (put it in quotes)",
    "model_type": "is a section: give its fields",
    "model_attributes_type": "is a section: give its fields",
    "value_error": "{error}",
    "assertion_error": "{error}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "should be a list in brackets, such as [8, 8]"),
}
# a name, or a name and a key, which may hold a /; and what signs an address
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/@\s]+|[^/@:\s]+:[^@\s]+)(?=@)")
_SIGNED = re.compile(r"([?&][\w-]*(?:signature|sig|token|key|credential)[\w-]*=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without user names, keys and signatures in its addresses."""
    return _SIGNED.sub(r"\1***", _CREDENTIALS.sub("***", text))


def nearest(word: str, options: Iterable[str], count: int = 1) -> list[str]:
    """The options most like the word, best first; none if nothing is near."""
    lower = {option.lower(): option for option in options}
    return [lower[match] for match in get_close_matches(word.lower(), lower, n=count, cutoff=0.6)]


def unknown_field(path: str, where: str, model: type[BaseModel]) -> str:
    """Says that there is no such field, with the names that may have been meant, wherever they stand in the tree."""
    entries = {entry.path: entry for entry in walk(model)}
    section, _, name = path.rpartition(".")
    siblings = [other for other in entries if other.rpartition(".")[0] == section]
    same_name = [other for other in entries if other.rpartition(".")[2] == name]
    same_name.sort(key=lambda other: -SequenceMatcher(None, other, path).ratio())
    near_sibling = nearest(path, siblings) if section else nearest(path, entries)
    by_name = {other.rpartition(".")[2]: other for other in reversed(entries)}
    meant = (
        same_name[:3] or near_sibling or nearest(path, entries) or [by_name[near] for near in nearest(name, by_name)]
    )
    hint = f"did you mean {_either(meant)}?" if meant else "--help lists all fields"
    return f"{path} ({where}): there is no such field; {hint}"


def explain(errors: Sequence[ErrorDetails], model: type[BaseModel], origins: Mapping[str, str]) -> dict[str, str]:
    """Pydantic's errors by field, each as one sentence.

    Args:
        errors: of one validation.
        model: the tree that was validated.
        origins: where a path was set ("command line", "busi.yaml, line 12").

    Returns:
        Dotted path of the faulty field or section -> sentence. A union's several complaints become one.
    """
    entries = {entry.path: entry for entry in walk(model)}
    found: dict[tuple[str, str], list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_place(error["loc"], model), []).append(error)
    sentences: dict[str, list[str]] = {}
    for (path, item), group in found.items():
        texts = list(dict.fromkeys(_text(error, entries.get(path)) for error in group))
        where = _origin(path, origins)
        value = "" if _without_value(group[0]) else f" = {redact(_short(group[0]['input']))}"
        label = f"{path}{item}" or "configuration"
        sentences.setdefault(path, []).append(f"{label}{value}{f' ({where})' if where else ''}: {' or '.join(texts)}")
    return {path: "; ".join(lines) for path, lines in sentences.items()}


def _place(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, str]:
    """Dotted path of the field, and the place within its value ("[1]"); names of union members are left out."""
    models, names, items = section_models(model), list[str](), ""
    for part in loc:
        fields = children(models)
        if isinstance(part, str) and part in fields:
            names.append(part)
            models = section_models(fields[part].annotation)
        elif isinstance(part, int):
            items += f"[{part}]"
    return ".".join(names), items


def _text(error: ErrorDetails, entry: Entry | None) -> str:
    if error["type"] == "missing":
        meaning = entry.info.description if entry else ""
        return f"must be set; {meaning}".rstrip("; ")
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"])
        near = nearest(str(error["input"]), options)
        return f"should be {context['expected']}" + (f"; did you mean {near[0]}?" if near else "")
    if error["type"] in _WORDS:
        return _WORDS[error["type"]].format(**context)
    return error["msg"].replace("Input should be", "should be")


def _without_value(error: ErrorDetails) -> bool:
    # a whole section would only hide the sentence
    return error["type"] == "missing" or isinstance(error["input"], (dict, BaseModel))


def _origin(path: str, origins: Mapping[str, str]) -> str:
    while path and path not in origins:
        path = path.rpartition(".")[0]
    return origins.get(path, "")


def _short(value: Any, limit: int = 60) -> str:
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
