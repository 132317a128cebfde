"""Fine-tuning the segmenter on the labelled cases: one loop for Ray Train, Ray Tune and a test.

Data order, augmentation and learning rate are functions of the global samples seen; the loss is a mean over the global
batch whatever the workers; validation counts are summed over them. The same segmenter comes out of any number
of workers and of any restart, up to the order of sums.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights, transfer
from pipeline.models.encoder import EncoderSettings, standardise
from pipeline.models.segmenters import build_segmenter
from pipeline.models.token_segmenter import TokenSegmenter
from pipeline.seen import images_of
from pipeline.segmentation.canvas import Canvas
from pipeline.segmentation.losses import segmentation_loss
from pipeline.segmentation.regions import region_masks
from pipeline.segmentation.segmenter_file import SegmenterCard, save_segmenter
from pipeline.segmentation.threshold import DEFAULT, Choice, choose_thresholds
from pipeline.segmentation.validation import Validation
from pipeline.training.augment import augment
from pipeline.training.clock import EpochClock
from pipeline.training.group import train_group
from pipeline.training.history import History
from pipeline.training.learner import Learner
from pipeline.training.loader import Batch, PatchLoader, rows_of
from pipeline.training.loss_watch import LossWatch
from pipeline.training.memory import memory_told
from pipeline.training.optim import learning_rate
from pipeline.training.session import Session, sum_over_workers
from pipeline.training.state import with_prefix
from pipeline.training.statistics import pixel_statistics, standardise_tokens
from preprocessing.cache import PatchCache
from preprocessing.errors import RunError
from preprocessing.splits import Splits

if TYPE_CHECKING:
    from pipeline.config import Config

_BEST = "best."


@dataclass(frozen=True)
class FinetuneTask:
    """Where a fine-tuning finds its inputs and leaves its segmenter; paths or URIs.

    Attributes:
        config: the whole configuration.
        cache, splits: the patch cache and splits.csv.
        encoder: folder of the pretrained encoder; None trains from scratch.
        folder: receives history.jsonl, tensorboard/ and segmenter/.
    """

    config: Config
    cache: str
    splits: str
    encoder: str | None
    folder: str


def finetune(task: FinetuneTask, lock: str, token: str) -> UPath:
    """Train on the configured Ray workers; returns the folder of the segmenter.

    Raises:
        RunError: no labelled lesion to learn from, weights that do not fit, a loss that is not finite, a failed group.
    """
    folder = UPath(task.folder)
    train_group(finetune_loop, task, folder, task.config.resources, 2, lock, token)
    return folder / "segmenter"


def finetune_loop(task: FinetuneTask, session: Session) -> None:
    """What each worker runs."""
    with memory_told("finetune", task.config.finetune.accumulate):
        Finetuning(task, session).run()


class Finetuning:
    """The training of one segmenter, from its newest checkpoint on."""

    def __init__(self, task: FinetuneTask, session: Session) -> None:
        config = task.config
        self.task, self.session, self.config = task, session, config
        self.settings, self.seed = config.finetune, config.run.seed
        self.cache = PatchCache.open(task.cache)
        self.canvas = Canvas(self.cache.size, self.cache.patch, self.cache.channels)
        splits = Splits.read(task.splits)
        self.labelled = [*splits.labelled("train"), *splits.labelled("val")]
        self.loader = self._loader(splits.labelled("train"), self.settings.batch)
        epoch, batch = self.loader.epoch_samples, self.settings.batch
        self.total = -(-self.settings.epochs * epoch // batch) * batch
        self.position, self.worse = 0, 0
        self.choice = self.peak = Choice((DEFAULT,) * len(self.settings.classes))
        self.best: dict[str, Tensor] = {}
        self.partial: dict[str, Any] | None = None  # of the round in progress, in a checkpoint within it
        self.clock = EpochClock(self.loader)
        self._build()
        self.validation = self._validation(splits.labelled("val"))
        self.watch = LossWatch("fine-tuning", "finetune", session, self.loader, self.cache, batch)

    def run(self) -> dict[str, Any]:
        """Train to the end, or until validation stops getting better; returns the last record.

        Raises:
            RunError: the loss is not finite; names the cases of the batch.
        """
        self._resume()
        history = History(UPath(self.task.folder) if self.session.rank == 0 else None, self.position)
        record: dict[str, Any] = {}
        round_samples = self.settings.validate_every * self.loader.epoch_samples
        self._begin_round()
        stop = self.position if self._exhausted else self.total
        for batch in self.loader.batches(self.position, stop):
            first, self.position = self.position, self.position + self.settings.batch
            self.losses.append(self._step(batch, first))
            if self.position // round_samples == first // round_samples and self.position < self.total:
                if self.session.checkpoint_due():
                    self._save_within()
                continue
            self.watch.check()
            self.session.check_owner()
            record = self._end_round()
            history.append(record)
            self.session.report(record, self._write)
            if self._exhausted:
                break
            self._begin_round()
        history.close()
        if self.session.rank == 0:
            self._export()
        return record

    def _begin_round(self) -> None:
        """Begin a round, or go on in one that a restart cut in two."""
        losses, spent = (self.partial["losses"], self.partial["spent"]) if self.partial else ([], None)
        mine = torch.tensor(losses, device=self.session.device) * (self.session.rank == 0)  # the sum over all workers
        self.losses, self.partial = list(mine), None
        self.clock.start(self.position, spent)

    def _save_within(self) -> None:
        """A checkpoint within a round, with what was summed up so far."""
        self.watch.check()
        losses = sum_over_workers(self.session, torch.stack(self.losses)).tolist()
        self.partial = {"losses": losses, "spent": self.clock.spent(self.position)}
        epoch = self.position // self.loader.epoch_samples
        self.session.report({"epoch": epoch, "samples_seen": self.position}, self._write)
        self.partial = None

    @property
    def _exhausted(self) -> bool:
        return 0 < self.settings.patience <= self.worse

    def _loader(self, cases: list[str], batch: int) -> PatchLoader:
        samples, session = self.cache.sample_indices(cases), self.session
        if not len(samples):
            raise RunError(
                "fine-tuning: no labelled training case; look at splits.csv and rejected.parquet, "
                "or raise data.label_fraction"
            )
        lesion = self.cache.samples["lesion"].to_numpy()[samples] > 0
        if not lesion.any():
            raise RunError(
                "fine-tuning: none of the labelled training cases holds a lesion; raise data.label_fraction, or look "
                "at finetune.classes and the labels"
            )
        return PatchLoader(
            self.cache,
            samples[lesion],
            self.config.loader,
            self.seed,
            batch,
            session.rank,
            session.workers,
            session.device,
            others=samples[~lesion],
            share=self.settings.lesion_share,
        )

    def _validation(self, cases: list[str]) -> Validation:
        samples = self.cache.sample_indices(cases)
        names = self.cache.samples["case"].iloc[samples].tolist()
        return Validation(
            self.session, self.loader, self.canvas, samples, names, self.settings.classes, self.learner.autocast
        )

    def _build(self) -> None:
        weights = self._pretrained()
        with torch.random.fork_rng(devices=[]):  # the same initial weights everywhere, and no global seed changed
            torch.manual_seed(self.seed)
            cache, regions = self.cache, len(self.settings.classes)
            model = build_segmenter(
                self.config.segmenter, self.encoder_settings, cache.size, cache.patch, cache.channels, regions
            )
        if isinstance(model, TokenSegmenter):
            model = model.to(self.session.device)
            loaded: list[str] = []
            if weights is not None:
                report = transfer(model.encoder, weights, self.settings.min_transfer)
                loaded = report.loaded
                if self.session.rank == 0:
                    print(report, flush=True)
            if "embed.mean" not in loaded:  # from scratch, or from an encoder of other channels
                standardise(model, *pixel_statistics(self.loader, self.canvas))
            standardise_tokens(model, self.loader, self.canvas)
        # random weights have nothing worth keeping: from scratch every layer learns at the full rate, at once
        self.frozen, decay = (0.0, 1.0) if weights is None else (self.settings.frozen, self.settings.layer_decay)
        self.learner = Learner(self.session, model, self.settings, self.config.resources, decay)

    def _pretrained(self) -> dict[str, Tensor] | None:
        """The encoder's weights; its architecture is taken from the same checkpoint."""
        self.encoder_settings, self.pretrained_on = self.config.model, None
        if self.task.encoder is None:
            return None
        tensors, meta = load_weights(UPath(self.task.encoder), "encoder")
        patch = tuple(meta["shape"]["patch"])
        if patch != self.cache.patch:
            raise RunError(
                f"the encoder at {self.task.encoder} was trained on patches of {list(patch)} pixels, the cache has "
                f"{list(self.cache.patch)}; set cache.patch={list(patch)} or pretrain again"
            )
        self.encoder_settings, self.pretrained_on = EncoderSettings(**meta["model"]), meta.get("seen")
        return tensors

    def _step(self, batch: Batch, first: int) -> Tensor:
        """One update; returns this worker's part of the global batch's mean loss."""
        settings, progress = self.settings, first / self.total
        rate = learning_rate(progress, settings.lr, settings.warmup, settings.final_lr)
        self.learner.set_rate(rate, frozen=progress < self.frozen)
        rows = torch.arange(len(batch.sample), device=batch.position.device)
        total = torch.zeros((), device=self.session.device)
        parts = self.config.resources.parts(settings.accumulate, settings.batch, self.session.workers)
        for part in rows.tensor_split(parts):
            loss = self._loss(rows_of(batch, part)).sum() / settings.batch
            self.learner.backward(loss)
            total += loss.detach()
        self.learner.update()
        self.watch.add(first, total)
        return total

    def _loss(self, batch: Batch) -> Tensor:
        image, label, real = self.canvas.pixels(batch)
        ranges, spacing = self.settings.augment, self.config.cache.pixel_spacing
        image, label, real = augment(image, label, real, batch.position, self.seed, ranges, spacing)
        with self.learner.autocast():
            logits = self.learner.trained(image, real)
        return segmentation_loss(logits, region_masks(label, self.settings.classes), real, self.settings.dice_weight)

    def _end_round(self) -> dict[str, Any]:
        choice = choose_thresholds(self.validation.dsc(self.learner.smoothed)) if self.validation.cases else self.choice
        # of a few cases the highest DSC is mostly luck: the latest weights are kept unless it is surely higher (95 %)
        better = choice.dsc is None or self.peak.dsc is None or choice.dsc > self.peak.dsc
        self.peak, self.worse = (choice, 0) if better else (self.peak, self.worse + 1)
        if choice.as_good_as(self.peak, errors=2.0):
            self.choice = choice
            self.best = {name: value.detach().clone() for name, value in self.learner.smoothed.state_dict().items()}
        record = {
            "epoch": self.position // self.loader.epoch_samples,
            "samples_seen": self.position,
            "loss": float(sum_over_workers(self.session, torch.stack(self.losses)).mean()),
            "lr": self.learner.rate,
            **self.clock.record(self.position),
        }
        return record if choice.dsc is None else record | {"val_dsc": choice.dsc, "thresholds": choice.thresholds}

    def _card(self) -> SegmenterCard:
        config, cache = self.config, self.cache
        return SegmenterCard(
            modalities=cache.modalities,
            model=self.encoder_settings,
            segmenter=config.segmenter,
            classes=dict(self.settings.classes),
            thresholds=self.choice.thresholds,
            least_unit="share",
            least_sizes=(0.0,) * len(self.settings.classes),  # chosen on whole cases, once the training is over
            cache=config.cache.model_copy(update={"dir": ""}),
            trained={
                "seed": self.seed,
                "samples_seen": self.position,
                "labelled_samples": self.loader.epoch_samples,
                "validation_cases": self.validation.cases,
                "validation_dsc": self.choice.dsc,
                "pretrained": self.task.encoder is not None,
                "seen": images_of(cache, self.labelled),
                "pretrained_on": self.pretrained_on,
            },
        )

    def _write(self, folder: Path) -> None:
        meta = {
            "kind": "finetune",
            "position": self.position,
            "worse": self.worse,
            "partial": self.partial,
            "choice": asdict(self.choice),
            "peak": asdict(self.peak),
            "scaler": self.learner.scaler_state(),
        }
        best = {_BEST + name: value for name, value in self.best.items()}
        save_weights(UPath(folder), self.learner.tensors() | best, meta)

    def _resume(self) -> None:
        folder = self.session.latest()
        if folder is None:
            return
        tensors, meta = load_weights(UPath(folder), "finetune")
        self.learner.restore(tensors, meta["scaler"])
        self.best = with_prefix(tensors, _BEST)
        self.position, self.worse, self.partial = meta["position"], meta["worse"], meta["partial"]
        self.choice, self.peak = (Choice(*map(tuple, meta[name].values())) for name in ("choice", "peak"))

    def _export(self) -> None:
        save_segmenter(UPath(self.task.folder) / "segmenter", self.best, self._card())
