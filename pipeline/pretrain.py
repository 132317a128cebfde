"""Masked-image pretraining: one loop for Ray Train, Ray Tune and a test (see `pipeline.training.session`).

Everything that steers it (data order, masks, ratio, strength, learning rate) is a function of the global samples
seen, so the same training comes out of any number of workers and of any restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights
from pipeline.feedback import FeedbackRatio
from pipeline.methods import METHODS, Masking, Shape, build_method
from pipeline.models.encoder import standardise
from pipeline.probe import Probe
from pipeline.refresh import refresh_scores, refreshed_scores
from pipeline.report.reconstructions import draw_reconstructions
from pipeline.schedule import round_to_level
from pipeline.seen import images_of
from pipeline.segmentation.canvas import Canvas
from pipeline.training.clock import EpochClock, Spent
from pipeline.training.history import History
from pipeline.training.learner import Learner
from pipeline.training.loader import Batch, PatchLoader, rows_of
from pipeline.training.loss_watch import LossWatch
from pipeline.training.memory import memory_told
from pipeline.training.meters import EpochMeter
from pipeline.training.noise_scale import NoiseScale
from pipeline.training.optim import learning_rate
from pipeline.training.session import Session, sum_over_workers
from pipeline.training.statistics import pixel_statistics
from pipeline.training.views import Views
from preprocessing.cache import PatchCache
from preprocessing.selection.scores import ScoreTable
from preprocessing.splits import Splits

if TYPE_CHECKING:
    from pipeline.config import Config


@dataclass(frozen=True)
class PretrainTask:
    """Where a pretraining finds its inputs and leaves its encoder and pictures; paths or URIs.

    Attributes:
        config: the whole configuration.
        cache, splits: the patch cache and splits.csv.
        scores: folder of the score table for each selection that may be configured, by `selection_key`.
        folder: receives history.jsonl, tensorboard/, pictures/ and encoder/.
    """

    config: Config
    cache: str
    splits: str
    scores: Mapping[str, str]
    folder: str


def selection_key(config: Config) -> str:
    """Names a selection's settings, so that trials with other rules find their own score table."""
    return config.selection.model_dump_json()


def pretrain_loop(task: PretrainTask, session: Session) -> None:
    """What each worker runs."""
    settings = task.config.pretrain
    with memory_told("pretrain", settings.accumulate, not METHODS[settings.method].whole_batch):
        Pretraining(task, session).run()


class Pretraining:
    """The training of one encoder, from its newest checkpoint on."""

    def __init__(self, task: PretrainTask, session: Session) -> None:
        config = task.config
        self.task, self.session, self.config = task, session, config
        self.settings, self.seed = config.pretrain, config.run.seed
        self.selects = METHODS[self.settings.method].selects(config)
        self.cache = PatchCache.open(task.cache)
        self.shape = Shape.of(self.cache)
        splits = Splits.read(task.splits)
        self.loader = self._loader(splits)
        epoch, batch = self.loader.epoch_samples, self.settings.batch
        self.total = -(-self.settings.epochs * epoch // batch) * batch
        self.position, self.best, self.worse, self.stopped = 0, -1.0, 0, False
        # (progress, ratio, strength) as they were, an epoch each
        self.trail: list[tuple[float, float | None, float | None]] = []
        self.partial: dict[str, Any] | None = None  # of the epoch in progress, in a checkpoint within it
        self.feedback = FeedbackRatio(config.mask.feedback, config.mask.ratio.start, config.mask.ratio.end)
        self._build()
        self.meter, self.noise, self.clock = EpochMeter(session.device), NoiseScale(), EpochClock(self.loader)
        self.probe = self._probe(splits)
        self.watch = LossWatch("pretraining", "pretrain", session, self.loader, self.cache, batch)

    def run(self) -> dict[str, Any]:
        """Train to the end, or until the probe stops getting better; returns the last epoch's record.

        Raises:
            RunError: the loss is not finite; names the cases of the batch.
        """
        self._resume()
        history = History(UPath(self.task.folder) if self.session.rank == 0 else None, self.position)
        record: dict[str, Any] = {}
        self.stopped = self._exhausted  # by a training that a kill kept from saying so
        for end in self._sections() if not self.stopped else ():
            record = self._train_until(end, history) or record
            if self.stopped:
                break
        history.close()
        if self.session.rank == 0:
            self._export()
        return record

    def _sections(self) -> Iterator[int]:
        """Where to train to: the whole way, or to the clustering on the encoder's tokens and on from there."""
        refresh = self.config.selection.refresh if self.selects else 0.0
        if refresh:
            # the step that ends the epoch
            epochs = math.ceil(refresh * self.total / self.loader.epoch_samples)
            batch = self.settings.batch
            at = min(self.total, -(-epochs * self.loader.epoch_samples // batch) * batch)
            folder = UPath(self.task.folder) / "refreshed"
            if self.position <= at:  # also where a kill came between the checkpoint and the clustering
                if self.position < at:
                    yield at
                if self.session.rank == 0:
                    features = str(UPath(self.task.scores[selection_key(self.config)]).parent)
                    refresh_scores(
                        self.config,
                        self.cache,
                        self.loader,
                        self.learner.smoothed.encoder,
                        self.shape.coords().to(self.session.device),
                        self.cases,
                        features,
                        folder,
                    )
            sum_over_workers(self.session, torch.zeros(1, device=self.session.device))  # all wait for rank 0
            self.loader.scores = refreshed_scores(folder)
        yield self.total

    def _train_until(self, end: int, history: History) -> dict[str, Any]:
        record: dict[str, Any] = {}
        self.clock.start(self.position, self._take_partial())
        for batch in self.loader.batches(self.position, end):
            first, self.position = self.position, self.position + self.settings.batch
            self._step(batch, first)
            epoch = self.position // self.loader.epoch_samples
            if epoch == first // self.loader.epoch_samples and self.position < end:
                if self.session.checkpoint_due():
                    self._save_within(epoch)
                continue
            self.watch.check()
            self.session.check_owner()
            record = self._end_epoch(epoch, first)
            history.append(record)
            self.stopped = self._should_stop(record)
            last = self.stopped or self.position >= end
            due = self._due(epoch, first, self.settings.checkpoint_every)
            write = self._write if last or due else None
            self.session.report({**record, "trail": self.trail}, write)
            if self.stopped:
                break
            self.clock.start(self.position)
        return record

    def _save_within(self, epoch: int) -> None:
        """A checkpoint within an epoch, with what was summed up so far."""
        self.watch.check()
        self.partial = {
            "spent": self.clock.spent(self.position),
            "sums": self.meter.totals(self.session),
            "noise": self.noise.state(),
        }
        self.session.report({"epoch": epoch, "samples_seen": self.position, "trail": self.trail}, self._write)
        self.partial = None

    def _take_partial(self) -> Spent | None:
        """Go on with the sums of the epoch that a restart cut in two."""
        if self.partial is None:
            return None
        if self.session.rank == 0:  # they are of all workers together
            self.meter.restore(self.partial["sums"])
        self.noise.restore(self.partial["noise"])
        spent, self.partial = self.partial["spent"], None
        return spent

    def ratio(self, progress: float) -> float | None:
        """The masking ratio at a progress in [0, 1], by feedback or the method's own; None: nothing is masked."""
        model, mask = self.learner.model, self.config.mask
        if model.scheduled and mask.feedback.signal != "none":
            return round_to_level(self.feedback.ratio, mask.ratio.level)
        return model.ratio(progress)

    def _loader(self, splits: Splits) -> PatchLoader:
        config, session = self.config, self.session
        self.cases = splits.pretraining(include_test=self.settings.include_test)
        scores = ScoreTable.open(self.task.scores[selection_key(config)]).scores if self.selects else None
        return PatchLoader(
            self.cache,
            self.cache.sample_indices(self.cases),
            config.loader,
            self.seed,
            self.settings.batch,
            session.rank,
            session.workers,
            session.device,
            scores,
        )

    def _build(self) -> None:
        config = self.config
        with torch.random.fork_rng(devices=[]):  # the same initial weights everywhere, and no global seed changed
            torch.manual_seed(self.seed)
            model = build_method(self.settings.method, config, self.shape)
        canvas = Canvas(self.shape.size, self.shape.patch, self.shape.channels)
        standardise(model, *pixel_statistics(self.loader, canvas))
        self.learner = Learner(self.session, model, self.settings, config.resources, betas=(0.9, 0.95))
        shape, augment, spacing = self.shape, self.settings.augment, config.cache.pixel_spacing
        self.views = Views(shape.size, shape.patch, shape.channels, augment, self.seed, spacing)

    def _probe(self, splits: Splits) -> Probe | None:
        if self.session.rank or not self.settings.probe_every:
            return None
        cases = [*splits.labelled("train"), *splits.labelled("val")]
        samples = self.cache.sample_indices(cases)
        if not len(samples):
            return None
        # evenly spread, so that pixels and features of all of them fit into memory together
        pixels = math.prod(self.shape.patch) * (self.shape.channels + 1)
        each = 8 * self.cache.tokens * (pixels + 2 * self.config.model.width)
        most = min(len(samples), max(64, self.config.loader.memory_mb * 2**20 // each))
        samples = samples[np.linspace(0, len(samples) - 1, most).astype(int)]
        groups = [splits.group(case) for case in self.cache.samples["case"].iloc[samples]]
        probe = Probe(self.loader, samples, groups, self.shape.coords().to(self.session.device))
        return probe if probe.usable else None

    def _step(self, batch: Batch, first: int) -> None:
        progress = first / self.total
        settings, model = self.settings, self.learner.model
        ratio, strength = self.ratio(progress) or 0.0, model.strength(progress) or 0.0
        self.learner.set_rate(learning_rate(progress, settings.lr, settings.warmup, settings.final_lr))
        views = [self.views(batch, number) for number in range(model.views)]
        measure = settings.noise_every > 0 and (first // settings.batch) % settings.noise_every == 0
        measure = measure and not model.whole_batch  # its halves would have another loss
        halves = self._halves(views, first) if measure else [self._parts(views)]
        parts = [part for half in halves for part in half]
        ends = {len(halves[0]) - 1, len(parts) - 1}
        losses, first_half = [], []
        for number, part in enumerate(parts):
            with self._synchronise(number in ends):
                with self.learner.autocast():
                    result = self.learner.trained(part, ratio, strength, self.seed)
                self.learner.backward(result.loss.float().sum() / settings.batch)
            self.meter.add(part[0], result.loss.detach(), result.masked)
            losses.append(result.loss.detach().float().sum())
            if measure and number == len(halves[0]) - 1:
                first_half = self.learner.gradients()
        if measure:
            self.noise.halves(self.learner.model, first_half, settings.batch)
        self.learner.update()
        model.after_update(progress, self.total // settings.batch)
        self.watch.add(first, torch.stack(losses).sum())

    def _parts(self, views: list[Batch]) -> list[list[Batch]]:
        """The step in the parts in which it is computed."""
        parts = self.config.resources.parts(self.settings.accumulate, self.settings.batch, self.session.workers)
        if parts == 1 or self.learner.model.whole_batch:
            return [views]
        rows = torch.arange(len(views[0].sample), device=views[0].position.device)
        return [[rows_of(view, part) for view in views] for part in rows.tensor_split(parts)]

    def _halves(self, views: list[Batch], first: int) -> list[list[list[Batch]]]:
        """The lower and the upper half of the global batch, in parts no larger than otherwise."""
        parts = self.config.resources.parts(self.settings.accumulate, self.settings.batch, self.session.workers)
        lower = views[0].position < first + self.settings.batch // 2
        halves = []
        for half in (lower, ~lower):
            rows = half.nonzero()[:, 0]
            pieces = rows.tensor_split(max(1, min(len(rows), -(-parts // 2))))
            halves.append([[rows_of(view, piece) for view in views] for piece in pieces])
        return halves

    def _synchronise(self, now: bool) -> AbstractContextManager[Any]:
        if not now and isinstance(self.learner.trained, DistributedDataParallel):
            return self.learner.trained.no_sync()
        return nullcontext()

    def _due(self, epoch: int, first: int, every: int) -> bool:
        """Whether the step from position `first` on passed a multiple of `every` epochs; it may be longer than one."""
        return epoch // every > first // self.loader.epoch_samples // every

    def _end_epoch(self, epoch: int, first: int) -> dict[str, Any]:
        progress = first / self.total
        record: dict[str, Any] = {
            "epoch": epoch,
            "samples_seen": self.position,
            "ratio": self.ratio(progress),
            "strength": self.learner.model.strength(progress),
            "lr": self.learner.rate,
            **self.meter.take(self.session),
            "noise_scale": self.noise.take(),
            **self.clock.record(self.position),
        }
        self.trail.append((progress, record["ratio"], record["strength"]))
        self.feedback.observe(record["loss"], record["noise_scale"])
        every = self.settings.probe_every
        if every and (self._due(epoch, first, every) or self.position >= self.total):
            record |= self._look(epoch, record["ratio"] or 0.0, record["strength"] or 0.0)
        return record

    def _look(self, epoch: int, ratio: float, strength: float) -> dict[str, float]:
        """Probe and pictures on rank 0; the DSC is given to all workers, who decide on it together."""
        model = self.learner.smoothed
        dsc = torch.full((1,), -1.0, device=self.session.device) * (self.session.rank == 0)
        if self.probe is not None:
            dsc[0] = self.probe.dsc(model.encoder)
        if self.session.rank == 0 and self.settings.pictures and isinstance(model, Masking):
            samples = self.loader.some(self.settings.pictures)
            draw_reconstructions(model, self.loader.gather(samples), ratio, strength, self.seed, self._picture(epoch))
        value = float(sum_over_workers(self.session, dsc))
        return {} if value < 0 else {"probe_dsc": value}

    def _picture(self, epoch: int) -> UPath:
        return UPath(self.task.folder) / "pictures" / f"epoch_{epoch:05d}.png"

    def _should_stop(self, record: dict[str, Any]) -> bool:
        if "probe_dsc" not in record:
            return False
        if record["probe_dsc"] > self.best:
            self.best, self.worse = record["probe_dsc"], 0
        else:
            self.worse += 1
        return self._exhausted

    @property
    def _exhausted(self) -> bool:
        return 0 < self.settings.patience <= self.worse

    def _write(self, folder: Path) -> None:
        meta = {
            "kind": "pretrain",
            "config": self.config.model_dump(mode="json"),
            "position": self.position,
            "feedback": self.feedback.state_dict(),
            "best": self.best,
            "worse": self.worse,
            "trail": self.trail,
            "partial": self.partial,
            "scaler": self.learner.scaler_state(),
        }
        save_weights(UPath(folder), self.learner.tensors(), meta)

    def _resume(self) -> None:
        folder = self.session.latest()
        if folder is None:
            return
        tensors, meta = load_weights(UPath(folder), "pretrain")
        self.learner.restore(tensors, meta["scaler"])
        self.position, self.best, self.worse = meta["position"], meta["best"], meta["worse"]
        self.trail = [(p, r, s) for p, r, s in meta["trail"]]
        self.partial = meta["partial"]
        self.feedback.load_state_dict(meta["feedback"])

    def _export(self) -> None:
        """The encoder alone, which is what all this was for."""
        meta = encoder_meta(self.config, self.shape) | {"seen": images_of(self.cache, self.cases)}
        save_weights(UPath(self.task.folder) / "encoder", self.learner.smoothed.encoder.state_dict(), meta)


def encoder_meta(config: Config, shape: Shape) -> dict[str, Any]:
    """What must be known to use an encoder's weights."""
    return {
        "kind": "encoder",
        "model": config.model.model_dump(mode="json"),
        "shape": {"channels": shape.channels, "size": shape.size, "patch": shape.patch},
    }
