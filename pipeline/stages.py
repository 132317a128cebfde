"""The stages of a run, in their order: each reads what the former left in the run's folder and leaves its own part.

A stage knows its inputs; one that is done for the same inputs is not done again.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import yaml
from upath import UPath

from pipeline import predict as prediction
from pipeline.checkpoint import checkpoint_digest
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.finetune import FinetuneTask
from pipeline.finetune import finetune as train_segmenter
from pipeline.inputs import (
    Inputs,
    data_inputs,
    finetune_inputs,
    finetune_search_inputs,
    pretrain_inputs,
    search_inputs,
    sections,
)
from pipeline.judging import choose_sizes, judge, predictor_for
from pipeline.methods import METHODS
from pipeline.pretrain import PretrainTask, pretrain_loop, selection_key
from pipeline.report.page import write_report
from pipeline.report.selection import report_selection
from pipeline.runfolder import RunFolder
from pipeline.scans import find_scans
from pipeline.search import Space, Study, finetune_study, schedule_study
from pipeline.search import search as search_space
from pipeline.seen import check_unseen, unseen_cases
from pipeline.tracking import Tracker
from pipeline.training.group import train_group
from pipeline.training.history import throughput
from pipeline.training.placement import on_device
from pipeline.training.progress import StageProgress
from pipeline.training.watch import watching, watching_trials
from preprocessing.build import build_cache
from preprocessing.cache import PatchCache, read_manifest
from preprocessing.case import Case, Rejection
from preprocessing.errors import RunError
from preprocessing.fingerprint import digest_files, fingerprint_of
from preprocessing.layouts import has_phantoms, load_cases
from preprocessing.selection.benchmark import selection_table
from preprocessing.selection.scores import ScoreTable, open_features, score_cache
from preprocessing.splits import Splits, make_splits
from preprocessing.storage import absolute, write_text
from tune_spaces import SPACES, choices

BEST_FILE, SPLITS_FILE = "best.yaml", "splits.csv"


class Pipeline:
    """One locked run with a Ray cluster at hand."""

    def __init__(self, config: Config, folder: RunFolder, token: str) -> None:
        self.config, self.folder, self.token = config, folder, token
        self.cache_dir = absolute(config.cache_dir)
        self.splits_file = str(folder.root / SPLITS_FILE)

    @functools.cached_property
    def tracker(self) -> Tracker:
        """Where the run's numbers go beside its folder."""
        return Tracker(self.config.tracking, self.folder.root, self.config.model_dump(mode="json"))

    @functools.cached_property
    def found(self) -> tuple[list[Case], list[Rejection]]:
        """The scans of data.root and what cannot be one; looked for once, since it takes a minute for 100,000."""
        return load_cases(self.config.data)

    @functools.cached_property
    def cache(self) -> PatchCache:
        """The patch cache, checked against the files and settings, and made where they differ."""
        cases, rejected = self.found
        with StageProgress("preprocess", len(cases), "cases") as progress:
            return build_cache(
                cases,
                rejected,
                self.config.data,
                self.config.cache,
                self.cache_dir,
                lambda done, total: progress.update(done),
            )

    @functools.cached_property
    def splits(self) -> Splits:
        """Which case belongs where; written to splits.csv."""
        splits = make_splits(self.cache.cases, self.config.data, self.config.run.seed)
        splits.write(self.splits_file)
        return splits

    @property
    def scheduled(self) -> Config:
        """The configuration with the mask schedule that was searched, where one was."""
        return self._with_choice(self.config, "search", self.config.searches, search_inputs)

    @property
    def searched(self) -> Config:
        """The same with the settings of fine-tuning that were searched, where they were."""
        wanted = self.config.search.finetune
        return self._with_choice(self.scheduled, "search_finetune", wanted, finetune_search_inputs)

    def _with_choice(
        self, config: Config, name: str, wanted: bool, inputs: Callable[[Config, Inputs], Inputs]
    ) -> Config:
        if not wanted or not self.folder.is_done(name, inputs(config, self._data)):
            return config
        return with_fields(config, yaml.safe_load((self.folder.root / name / BEST_FILE).read_text()))

    def preprocess(self) -> None:
        """Scans to patch cache, splits and lesion scores; hit rates on the test cases' labels."""
        began, before = time.monotonic(), read_manifest(self.cache_dir)
        cache, splits = self.cache, self.splits
        found: dict[str, Any] = {"cases": len(cache.cases) + len(cache.rejected), "rejected": len(cache.rejected)}
        if before is None or before["fingerprint"] != cache.fingerprint:  # else it was only looked at
            found["preprocess_seconds"] = time.monotonic() - began
        found["phantoms"] = has_phantoms(self.config.data.root)
        labels = {part: len(splits.labelled(part)) for part in ("train", "val", "test")}
        self.folder.merge_metrics({"data": {**found, "splits": splits.counts(), "labels_used": labels}})
        self._measure_selection()

    def _measure_selection(self) -> None:
        """Hit rates and pictures of the selection as it is used: as configured until a search has chosen another."""
        config, labels = self.scheduled, {"labels": self.cache.fingerprint}
        with self.folder.stage("selection", self._data | labels | sections(config, "selection")) as stage:
            if not stage.done:
                self.folder.drop_metrics("selection")
                table, cases = self._scores(config), self.splits.pretraining(config.pretrain.include_test)
                features = open_features(self.cache, cases, config.selection, self._scores_dir)
                seed = config.run.seed
                part = report_selection(self.cache, self.splits, table, features, cases, stage.folder, seed)
                self.folder.merge_metrics({"selection": part})

    def selection_table(self) -> pd.DataFrame:
        """Hit rates of every rule on the test cases, see `preprocessing.selection.benchmark`."""
        train, test = self.splits.pretraining(), self.splits.cases("test")
        settings, seed = self.config.selection, self.config.run.seed
        return selection_table(self.cache, train, test, settings, self._scores_dir, seed)

    def search(self) -> None:
        """Short pretrainings to choose the mask schedule by."""
        if not self.config.searches:
            print("search: switched off, or the method has no mask schedule")
            return
        self._needs_labels()
        with self.folder.stage("search", search_inputs(self.config, self._data)) as stage:
            if stage.done:
                return
            # weights of the user's own stand in place of a rule
            space = space_of("mask_schedule", without=("selection.rule",) if self.config.selection.weights else ())
            study = schedule_study(self.config.search)
            self._search(replace(self.pretrain_task(space), folder=str(stage.folder)), study, space, "search")
        self._measure_selection()

    def search_finetune(self) -> None:
        """Fine-tunings from the pretrained encoder to choose the fine-tuning's settings by."""
        if not self.config.search.finetune:
            return
        self._needs_labels()
        self._needs_encoder()
        with self.folder.stage("search_finetune", finetune_search_inputs(self.scheduled, self._data)) as stage:
            if stage.done:
                return
            space = space_of("finetune")
            study = finetune_study(self.config.finetune)
            self._search(self._finetune_task(stage.folder), study, space, "search_finetune")

    def _search(self, task: Any, study: Study[Any], space: Space, name: str) -> None:
        folder, settings = UPath(task.folder), self.config.search
        with watching_trials(name, folder / "trials", study.epochs, settings.runs, study.metric):
            choice = search_space(task, study, space)
        write_text(folder / "trials.csv", choice.table.to_csv(index=False))
        write_text(folder / BEST_FILE, yaml.safe_dump(json.loads(json.dumps(choice.fields))))
        best = {"dsc": choice.dsc, **choice.fields}
        self.folder.merge_metrics({name: {"trials": len(choice.table), "best": best}})

    def pretrain(self) -> None:
        """Masked-image pretraining on the training images."""
        config = self.scheduled
        if not config.pretrains:
            start = f"the encoder at {config.finetune.encoder}" if config.finetune.encoder else "random weights"
            print(f"pretrain: nothing to train, fine-tuning starts from {start}")
            return
        with self.folder.stage("pretrain", pretrain_inputs(config, self._data)) as stage:
            if stage.done:
                return
            task = replace(self.pretrain_task(), folder=str(stage.folder))
            with watching("pretrain", stage.folder, config.pretrain.epochs, told=self.tracker.records("pretrain")):
                train_group(
                    pretrain_loop,
                    task,
                    stage.folder,
                    config.resources,
                    config.pretrain.keep_checkpoints,
                    self.folder.lock_file,
                    self.token,
                )
            self.folder.merge_metrics({"pretrain": throughput(stage.folder)})

    def finetune(self) -> None:
        """Segmenter from the pretrained encoder and the labelled cases."""
        self._needs_labels()
        self._needs_encoder()
        self._train_segmenter()
        self._choose_sizes()

    def _train_segmenter(self) -> None:
        config = self.searched
        with self.folder.stage("finetune", finetune_inputs(config, self._data)) as stage:
            if stage.done:
                return
            self.folder.drop_metrics("segmentation")
            self.folder.drop_stage("evaluate")  # of the segmenter that was
            told = self.tracker.records("finetune")
            with watching("finetune", stage.folder, config.finetune.epochs, "val_dsc", told):
                train_segmenter(self._finetune_task(stage.folder), self.folder.lock_file, self.token)

    def _choose_sizes(self) -> None:
        """Least component sizes, as cases will be judged; within the segmenter's folder, with which it goes."""
        config = self.config
        applied = config.evaluate.model_dump(include={"mirror", "overlap"})
        with self.folder.stage("finetune/sizes", applied) as stage:
            if not stage.done:
                validation = set(self.splits.labelled("val"))
                cases = [case for case in self.found[0] if case.id in validation]
                on_device(config.resources, choose_sizes, config, absolute(config.segmenter_dir), cases)

    def evaluate(self) -> None:
        """Metrics on the test cases; with `checkpoint`, another run's segmenter on all labelled cases of data.root."""
        config = self.config
        checkpoint = absolute(config.segmenter_dir)
        cases = self.found[0]
        if not config.checkpoint:
            self._needs_labels()
            self._needs_segmenter()
            self._choose_sizes()  # where other settings are to be judged by than at the training
            test = set(self.splits.cases("test"))
            cases = [case for case in cases if case.id in test]
        cases = [case for case in cases if case.labels]
        digests = digest_files(cases, self.folder.root / "evaluated_files.json")  # beside the stage, to outlive it
        if config.checkpoint:
            cases = unseen_cases(checkpoint, cases, digests)
        inputs = {
            "cases": [case.id for case in cases],
            "images_and_labels": fingerprint_of(cases, digests, {}),
            "root": config.data.root,
            "checkpoint": checkpoint_digest(checkpoint),
            **sections(config, "evaluate"),
        }
        with self.folder.stage("evaluate", inputs) as stage:
            if not stage.done:
                self.folder.drop_metrics("segmentation")
                summary = on_device(config.resources, judge, config, checkpoint, cases, str(stage.folder))
                self.folder.merge_metrics({"segmentation": {"test": summary}})
        test = self.folder.read_metrics()["segmentation"]["test"]
        self.tracker.result(test)
        told = ", ".join(f"{k} {test[k]:.3f}" for k in ("dsc", "ppv", "sen", "hd95") if test.get(k) is not None)
        rejected = (
            f"; {test['rejected']} cases could not be judged (evaluate/rejected.csv)" if test.get("rejected") else ""
        )
        print(f"test: {told}{rejected}")

    def predict(self) -> None:
        """Masks for the images of `predict.input`."""
        config = self.config
        checkpoint = absolute(config.segmenter_dir)
        output = prediction.output_folder(config.predict, self.folder.root)
        predictor = predictor_for(checkpoint, config.predict, config)
        cases, aside = find_scans(config.predict.input, config.data, predictor.card.channels, output)
        with StageProgress("predict", len(cases), "scans") as progress:
            table, rejected = prediction.predict(predictor, cases, config.predict, output, progress.update, aside)
        print(f"predict: {len(table)} masks in {output}, {len(rejected)} scans set aside (rejected.csv)")

    def report(self) -> None:
        """report.html from what is there."""
        print(f"report: {write_report(str(self.folder.root))}")

    @property
    def _scores_dir(self) -> str:
        return str(UPath(self.cache_dir) / "scores")

    def _scores(self, config: Config) -> ScoreTable:
        cases = self.splits.pretraining(self.config.pretrain.include_test)
        return score_cache(self.cache, cases, config.selection, self._scores_dir, self.config.run.seed)

    def pretrain_task(self, space: Space | None = None) -> PretrainTask:
        """The pretraining as configured or chosen; with a space, a score table for every selection that it may draw."""
        config = self.config if space else self.scheduled
        scores = {}
        if METHODS[config.pretrain.method].selects(config) or space:
            # a search begins with the configuration's own
            for fields in ({}, *choices(space.fields if space else {}, "selection.")):
                variant = with_fields(config, fields)
                scores[selection_key(variant)] = self._scores(variant).root
        return PretrainTask(config, self.cache_dir, self.splits_file, scores, str(self.folder.root / "pretrain"))

    def _finetune_task(self, folder: UPath) -> FinetuneTask:
        config = self.searched
        own = str(self.folder.root / "pretrain" / "encoder") if config.pretrains else None
        encoder = absolute(config.finetune.encoder) if config.finetune.encoder else own
        return FinetuneTask(config, self.cache_dir, self.splits_file, encoder, str(folder))

    @functools.cached_property
    def _data(self) -> Inputs:
        return data_inputs(self.config, self.cache, self.splits)

    def _needs_encoder(self) -> None:
        """That the encoder that the fine-tuning starts from is what its inputs say, and saw no test case."""
        if (encoder := self.config.finetune.encoder) and not self.config.pretrain.include_test:
            check_unseen(encoder, self.cache, self.splits.cases("test"))
        config = self.scheduled
        if config.pretrains and not self.folder.is_done("pretrain", pretrain_inputs(config, self._data)):
            raise RunError(
                f"there is no pretraining in {self.folder.root} with these scans and settings; python -m jobs.pretrain "
                "with the same configuration makes it, python -m jobs.run all that is lacking"
            )

    def _needs_segmenter(self) -> None:
        """That the run's segmenter was trained on these splits: otherwise test cases may be what it learned from."""
        if not self.folder.is_done("finetune", finetune_inputs(self.searched, self._data)):
            raise RunError(
                f"there is no segmenter in {self.folder.root} for these scans and settings; python -m jobs.finetune "
                "with the same configuration makes it, python -m jobs.run all that is lacking"
            )

    def _needs_labels(self) -> None:
        if not self.splits.trainable:
            counts = ", ".join(f"{part} {len(self.splits.labelled(part))}" for part in ("train", "val", "test"))
            raise RunError(
                f"training needs labelled cases in each of train, val and test (there are: {counts}); add labels "
                "or give data.splits. Preprocessing and scores do not need them"
            )


def space_of(name: str, without: Sequence[str] = ()) -> Space:
    """A search space of `tune_spaces`, less the named fields."""
    fields = {field: domain for field, domain in SPACES[name].space().items() if field not in without}
    return Space(fields, SPACES[name].mutations())
