"""Reading YAML so that a mistake can be told with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.configuration.mistakes import nearest

Tree = dict[str, Any]


class Loader(yaml.SafeLoader):
    """YAML 1.1 without its surprises: yes, no, on, off and dates are text (a true-or-false field still takes them)."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse_value(text: str) -> Any:
    """A value as it would stand in a file; raises yaml.YAMLError."""
    return yaml.load(text, Loader=Loader)  # a SafeLoader


def read_yaml(path: Path, mistakes: list[str]) -> tuple[Tree, dict[str, str]]:
    """The file's tree, and for each dotted path the line that sets it."""
    loader = None
    try:
        loader = Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        lines = dict(_lines(node, "", path.name, mistakes))
        tree = loader.construct_document(node)
    except FileNotFoundError:
        folders = (path.parent, path.parent / "configs")
        beside = [str(other) for folder in folders for other in folder.glob("*.y*ml")]
        near = nearest(str(path), beside, 3) or sorted(beside)[:3]
        mistakes.append(f"{path}: there is no such file" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return {}, {}
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{path}: cannot be read: {error}")
        return {}, {}
    except yaml.YAMLError as error:
        mistakes.append(f"{path}: is not valid YAML: {one_line(error)}")
        return {}, {}
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(tree, dict):
        mistakes.append(f"{path}: should hold sections such as `data:` and `run:`, not {type(tree).__name__}")
        return {}, {}
    return tree, lines


def _lines(node: yaml.Node, prefix: str, name: str, mistakes: list[str]) -> Iterator[tuple[str, str]]:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        path, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if path in seen:
            mistakes.append(f"{path} ({name}, line {line}): is set twice, first in line {seen[path]}; keep one")
        seen[path] = line
        yield path, f"{name}, line {line}"
        if key.tag != "tag:yaml.org,2002:merge":  # its names count where they are merged into
            yield from _lines(value, f"{path}.", name, mistakes)


def one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{getattr(error, 'problem', None) or error}{place}"
