"""What each stage's result depends on, so that one that is done for the same inputs is not done again.

Settings that change no result (`NO_INFLUENCE`) are left out; so are labels of test cases, which no training reads.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.checkpoint import SCHEMA, checkpoint_digest
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.methods import METHODS
from pipeline.search import finetune_study, schedule_study
from pipeline.search_settings import FINETUNE_SEARCH, SCHEDULE_SEARCH
from preprocessing.cache import PatchCache
from preprocessing.fingerprint import content_without_labels
from preprocessing.splits import Splits

Inputs = dict[str, Any]  # by field, nested, JSON-serialisable


def data_inputs(config: Config, cache: PatchCache, splits: Splits) -> Inputs:
    """Scans, splits and seed, which every training depends on."""
    return {
        "scans": content_without_labels(cache, splits.cases("test")),
        "splits": hashlib.sha256(splits.table.to_csv().encode()).hexdigest()[:16],
        "include_test": config.pretrain.include_test,
        "seed": config.run.seed,
        "checkpoints": SCHEMA,  # those of another version cannot be read
    }


def search_inputs(config: Config, data: Inputs) -> Inputs:
    """Of the search for a mask schedule."""
    tried = with_fields(config, schedule_study(config.search).fields)
    settings = sections(tried, "selection", "mask", "model", "decoder", "loader", "pretrain")
    searched = {"search": config.search.model_dump(mode="json", include=set(SCHEDULE_SEARCH))}
    return data | settings | searched | _method_options(tried)


def pretrain_inputs(config: Config, data: Inputs) -> Inputs:
    """Of the encoder: `selection` and `mask` where they steer the method; from scratch the model."""
    if not config.pretrains:
        return data | sections(config, "model", "loader") | {"method": config.pretrain.method}
    steering = ("selection", "mask") if METHODS[config.pretrain.method].scheduled else ()
    names = ("model", "decoder", "loader", "pretrain", *steering)
    return data | sections(config, *names) | _method_options(config)


def finetune_inputs(config: Config, data: Inputs) -> Inputs:
    """Of the segmenter: where it starts from, and its settings; another run's encoder is known by its weights."""
    inputs, finetune = pretrain_inputs(config, data), config.finetune.content()
    if encoder := finetune.pop("encoder"):
        inputs = data | sections(config, "loader") | {"encoder": checkpoint_digest(encoder)}
    return inputs | {"finetune": finetune, "segmenter": config.segmenter.used()}


def finetune_search_inputs(config: Config, data: Inputs) -> Inputs:
    """Of the search for the fine-tuning's settings."""
    tried = with_fields(config, finetune_study(config.finetune).fields)
    searched = config.search.model_dump(mode="json", include=set(FINETUNE_SEARCH))
    return finetune_inputs(tried, data) | {"search": searched}


def sections(config: Config, *names: str) -> Inputs:
    """Whole sections of the configuration, less what has no influence."""
    return {name: getattr(config, name).content() for name in names}


def _method_options(config: Config) -> Inputs:
    """The options of the method that is used; those of the others change nothing."""
    options = getattr(config.methods, config.pretrain.method, None)
    return {} if options is None else {"method": options.content()}
