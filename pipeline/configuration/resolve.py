"""From a YAML file, a profile in it and `key=value` words to the checked configuration, and back to YAML.

The file's top-level keys are the sections of the configuration, plus `layouts: {hecktor: {...}}` with what holds for
one `data.layout` only, and `profiles: {small: {...}, full: {...}}`. What is said later wins: defaults, file, layout,
chosen profile, command line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.configuration.fields import children, section_models, walk
from pipeline.configuration.mistakes import explain, nearest, redact, unknown_field
from pipeline.configuration.yaml_file import Tree, one_line, parse_value, read_yaml
from preprocessing.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Resolution(Generic[ConfigT]):
    """What a configuration came to, mistakes and all.

    Attributes:
        config: the configuration; with mistakes, what it would be without the faulty fields (so that further
            checks can add theirs to the same message), or None where nothing whole is left.
        mistakes: one sentence each; empty when all is well.
    """

    config: ConfigT | None
    mistakes: list[str]


def load(path: Path, overrides: Sequence[str], model: type[ConfigT]) -> ConfigT:
    """The checked configuration.

    Raises:
        ConfigError: with every mistake found, not only the first.
    """
    resolution = resolve(path, overrides, model)
    if resolution.mistakes or resolution.config is None:
        raise ConfigError(resolution.mistakes)
    return resolution.config


def resolve(path: Path, overrides: Sequence[str], model: type[ConfigT]) -> Resolution[ConfigT]:
    """As `load`, but returns the mistakes together with what could be made of the rest."""
    builder = _Builder(model, [])
    named, origins = read_yaml(path, builder.mistakes)
    profiles, layouts = (named.pop(name, None) or {} for name in ("profiles", "layouts"))
    spoken, spoken_origins = _parse(overrides, model, builder.mistakes)
    builder.add(named, origins)
    profile = _choose_profile(builder, spoken, profiles, path)
    chosen = profiles[profile] or {} if profile is not None else {}
    layout = next(filter(None, (_at(tree, "data", "layout") for tree in (spoken, chosen, builder.tree))), None)
    own = layouts.get(layout) or {} if isinstance(layouts, dict) else None
    if isinstance(own, dict):
        builder.add(own, _inner(origins, "layout", str(layout)))
    else:
        builder.mistakes.append(f"layouts ({path.name}): should be a mapping from a layout's name to its sections")
    if profile is not None:
        builder.add(chosen, _inner(origins, "profile", profile))
    builder.add(spoken, spoken_origins)
    builder.default_run_dir(path.stem)
    return builder.build()


def _inner(origins: dict[str, str], kind: str, name: str) -> dict[str, str]:
    """Where the values of one layout or profile come from."""
    prefix = f"{kind}s.{name}."
    found = {key.removeprefix(prefix): at for key, at in origins.items() if key.startswith(prefix)}
    return {key: f"{at}, {kind} {name}" for key, at in found.items()}


def _at(tree: Any, *path: str) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def dump(config: BaseModel) -> str:
    """The resolved configuration as YAML, without credentials in addresses."""
    plain = config.model_dump(mode="json")
    return redact(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110))


class _Builder(Generic[ConfigT]):
    """Merges the layers and remembers where each value came from."""

    def __init__(self, model: type[ConfigT], mistakes: list[str]) -> None:
        self.model, self.mistakes = model, mistakes
        self.sections = {entry.path for entry in walk(model) if entry.models}
        self.tree: Tree = {}
        self.origins: dict[str, str] = {}
        # a section that a layer sets in part keeps the rest of its parent's default, not that of its own class
        for entry in walk(model):
            if len(entry.models) == 1 and isinstance(entry.default, BaseModel):
                self._merge(self._section(entry.path), entry.default.model_dump(exclude_unset=True), f"{entry.path}.")

    def add(self, layer: Tree, origins: dict[str, str]) -> None:
        self._prune(layer, section_models(self.model), "", origins)
        self._merge(self.tree, layer, "")
        self.origins.update(origins)

    def _section(self, path: str) -> Tree:
        tree = self.tree
        for name in path.split("."):
            tree = tree.setdefault(name, {})
        return tree

    def default_run_dir(self, name: str) -> None:
        run = self.tree.setdefault("run", {}) if "run" in self.sections else None
        if isinstance(run, dict) and not run.get("dir"):
            run["dir"] = f"runs/{name}"

    def build(self) -> Resolution[ConfigT]:
        try:
            return Resolution(self.model.model_validate(self.tree), self.mistakes)
        except ValidationError as error:
            found = explain(error.errors(), self.model, self.origins)
        self.mistakes.extend(found.values())
        for path in found:
            _drop(self.tree, path)
        try:
            return Resolution(self.model.model_validate(self.tree), self.mistakes)
        except ValidationError:  # follows from the mistakes above
            return Resolution(None, self.mistakes)

    def _prune(self, layer: Tree, models: tuple[type[BaseModel], ...], prefix: str, origins: dict[str, str]) -> None:
        """Takes unknown names out, so that they are reported once, with the nearest known one."""
        fields = children(models)
        for name in list(layer):
            path = f"{prefix}{name}"
            if name not in fields:
                self.mistakes.append(unknown_field(path, origins.get(path, "configuration"), self.model))
                del layer[name]
            elif path in self.sections and isinstance(layer[name], dict):
                self._prune(layer[name], section_models(fields[name].annotation), f"{path}.", origins)

    def _merge(self, base: Tree, layer: Tree, prefix: str) -> None:
        for name, value in layer.items():
            path = f"{prefix}{name}"
            if path not in self.sections:
                base[name] = value
            elif isinstance(value, dict):  # a mapping that is a field's value is replaced as a whole
                if not isinstance(base.get(name), dict):
                    base[name] = {}
                self._merge(base[name], value, f"{path}.")
            elif value is not None:  # an empty section says nothing
                base[name] = value


def _parse(words: Sequence[str], model: type[BaseModel], mistakes: list[str]) -> tuple[Tree, dict[str, str]]:
    """The tree that the `key=value` words describe."""
    texts = {entry.path for entry in walk(model) if entry.info.annotation in (str, str | None)}
    sections = {entry.path for entry in walk(model) if entry.models}
    tree: Tree = {}
    origins: dict[str, str] = {}
    for word in words:
        key, equals, raw = word.partition("=")
        if not equals or not _KEY.fullmatch(key):
            mistakes.append(f"{word} (command line): should look like key=value, such as run.seed=1")
            continue
        try:
            value = parse_value(raw)
        except yaml.YAMLError as error:
            mistakes.append(f"{redact(word)} (command line): the value is not valid YAML: {one_line(error)}")
            continue
        if key in texts and not isinstance(value, str) and raw not in ("null", "~"):
            value = raw  # a folder called 007 is meant as it is typed, and nothing is the empty text
        if key in sections and not isinstance(value, dict):
            fields = sorted(path for path in (e.path for e in walk(model)) if path.startswith(f"{key}."))
            mistakes.append(f"{word} (command line): {key} is a section; set one of its fields: {', '.join(fields)}")
            continue
        *parents, last = key.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                break
        if not isinstance(inner, dict):
            mistakes.append(f"{word} (command line): {key.rpartition('.')[0]} is set to a plain value as well")
            continue
        inner[last] = value
        origins.update(dict.fromkeys([".".join([*parents[: i + 1]]) for i in range(len(parents))], "command line"))
        origins[key] = "command line"
    return tree, origins


def _choose_profile(builder: _Builder[Any], spoken: Tree, profiles: Any, path: Path) -> str | None:
    """The profile whose values apply; None where the file has no profiles."""
    field = builder.model.model_fields.get("profile")
    if not isinstance(profiles, dict):
        builder.mistakes.append(f"profiles ({path.name}): should be a mapping from a profile's name to its sections")
        return None
    asked = spoken.get("profile", builder.tree.get("profile"))
    chosen = asked if asked is not None else field.default if field else None
    if not isinstance(chosen, str):  # the model says so
        return None
    if chosen in profiles:
        if isinstance(profiles[chosen], dict | None):
            return chosen
        builder.mistakes.append(f"profiles.{chosen} ({path.name}): should hold sections such as `cache:` and `model:`")
    elif asked is not None and profiles:
        near = nearest(str(asked), map(str, profiles))
        meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(map(str, profiles))}"
        builder.mistakes.append(f"profile = {asked}: {path.name} has no such profile; {meant}")
    return None


def _drop(tree: Any, path: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.get(parent) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(last, None)
