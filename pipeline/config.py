"""The whole configuration: every section is owned by the module that uses it, and composed here."""

from __future__ import annotations

from pydantic import Field, model_validator
from upath import UPath

from pipeline.benchmark.settings import BenchmarkSettings
from pipeline.evaluate import EvaluateSettings
from pipeline.feedback import FeedbackSettings
from pipeline.finetune_settings import FinetuneSettings
from pipeline.methods import METHODS, MethodsSettings
from pipeline.models.encoder import EncoderSettings
from pipeline.models.mae import DecoderSettings
from pipeline.models.segmenters import SegmentersSettings
from pipeline.models.unet import MISSING as UNET_MISSING
from pipeline.models.unet import available as unet_available
from pipeline.predict import PredictSettings
from pipeline.pretrain_settings import SCRATCH, PretrainSettings
from pipeline.runfolder import RunSettings
from pipeline.schedule import RatioSettings, ScheduleSettings
from pipeline.search_settings import SearchSettings
from pipeline.tracking import TrackingSettings
from pipeline.training.loader import LoaderSettings
from pipeline.training.precision import ResourceSettings
from preprocessing.cache_settings import CacheSettings
from preprocessing.layouts import DataSettings
from preprocessing.selection.selection import SelectionSettings
from preprocessing.settings import Settings


class MaskSettings(Settings):
    """What is masked: how much (AMS) and how strictly by lesion score (MPS)."""

    ratio: RatioSettings = Field(RatioSettings(), description="Masking ratio over the training.")
    strength: ScheduleSettings = Field(
        ScheduleSettings(family="constant", start=0.3, end=0.3),
        description="Weight of the standardised lesion score against uniform noise; 0 is random masking.",
    )
    random_share: float = Field(
        0.0, ge=0, le=1, description="Share of the samples whose mask is random whatever the strength."
    )
    feedback: FeedbackSettings = Field(
        FeedbackSettings(), description="Lets the ratio follow the training instead of its schedule."
    )

    @property
    def selects(self) -> bool:
        """Whether lesion scores are used at all."""
        strength = self.strength
        values = {"piecewise": [v for _, v in strength.points], "constant": [strength.start]}
        moving = [strength.start, strength.end]
        return any(v > 0 for v in values.get(strength.family, moving)) and self.random_share < 1


class Config(Settings):
    """Everything that a run depends on."""

    profile: str = Field(
        "small",
        description="Which of the file's profiles applies, such as small (2 cores), small_3d (crops of volumes) or "
        "full (GPUs).",
    )
    checkpoint: str = Field("", description="Checkpoint folder for evaluate and predict; empty: this run's own.")
    run: RunSettings = Field(RunSettings(), description="Where the run lives and its seed.")
    data: DataSettings = Field(DataSettings(), description="The scans, and how they are split.")
    cache: CacheSettings = Field(CacheSettings(), description="Geometry, intensities and the patch cache.")
    selection: SelectionSettings = Field(SelectionSettings(), description="Masked patches selection (MPS).")
    mask: MaskSettings = Field(MaskSettings(), description="Masking ratio (AMS) and selection strength.")
    model: EncoderSettings = Field(EncoderSettings(), description="The encoder.")
    decoder: DecoderSettings = Field(DecoderSettings(), description="The reconstruction decoder of pretraining.")
    loader: LoaderSettings = Field(LoaderSettings(), description="Reading the cache during training.")
    pretrain: PretrainSettings = Field(PretrainSettings(), description="Masked-image pretraining.")
    methods: MethodsSettings = Field(MethodsSettings(), description="Own settings of the pretraining methods.")
    search: SearchSettings = Field(SearchSettings(), description="Search over mask schedules.")
    segmenter: SegmentersSettings = Field(SegmentersSettings(), description="The segmenter.")
    finetune: FinetuneSettings = Field(FinetuneSettings(), description="Fine-tuning for segmentation.")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="Judging the segmenter on test cases.")
    predict: PredictSettings = Field(PredictSettings(), description="Prediction on new scans.")
    benchmark: BenchmarkSettings = Field(BenchmarkSettings(), description="The comparison table.")
    tracking: TrackingSettings = Field(TrackingSettings(), description="The run's numbers on an MLflow server too.")
    resources: ResourceSettings = Field(ResourceSettings(), description="Workers, devices, number formats.")

    @property
    def searches(self) -> bool:
        """Whether mask schedules are searched: only where the method has one."""
        return self.search.enabled and self.pretrains and METHODS[self.pretrain.method].scheduled

    @property
    def pretrains(self) -> bool:
        """Whether the run trains an encoder of its own, neither starting from random weights nor from another's."""
        return self.pretrain.method != SCRATCH and not self.finetune.encoder

    @property
    def cache_dir(self) -> str:
        """Where the patch cache lies."""
        return self.cache.dir or str(UPath(self.run.dir) / "cache")

    @property
    def segmenter_dir(self) -> str:
        """The segmenter that is evaluated and predicts: another run's, or this one's own."""
        return self.checkpoint or str(UPath(self.run.dir) / "finetune" / "segmenter")

    @model_validator(mode="after")
    def _segmenter_has_what_it_needs(self) -> Config:
        if self.segmenter.has_unet and not unet_available():
            raise ValueError(UNET_MISSING)
        if self.segmenter.has_encoder:
            return self
        if self.finetune.encoder:
            raise ValueError(f"finetune.encoder is given, but segmenter.kind = {self.segmenter.kind} has no encoder")
        if self.pretrain.method != SCRATCH:
            raise ValueError(
                f"segmenter.kind = {self.segmenter.kind} has no encoder to pretrain; set pretrain.method={SCRATCH}"
            )
        return self

    @model_validator(mode="after")
    def _batches_reach_all_workers(self) -> Config:
        most = self.resources.most_workers
        field = "workers" if most == self.resources.workers else "max_workers"
        for name, batch in (("pretrain.batch", self.pretrain.batch), ("finetune.batch", self.finetune.batch)):
            if batch < 2 * most:
                raise ValueError(
                    f"{name} = {batch} is too small for resources.{field} = {most}: each worker needs two samples of "
                    f"a step, so at least {2 * most}"
                )
        return self

    @model_validator(mode="after")
    def _feedback_has_what_it_follows(self) -> Config:
        if self.mask.feedback.signal == "noise_scale" and not self.pretrain.noise_every:
            raise ValueError(
                "mask.feedback.signal = noise_scale: pretrain.noise_every = 0 never measures it, so that the ratio "
                "would not move"
            )
        return self

    @model_validator(mode="after")
    def _table_is_possible(self) -> Config:
        chosen, folds = self.benchmark, max(1, self.data.folds)
        if any(not 0 <= fold < folds for fold in chosen.folds):
            told = f"must be below data.folds ({folds})" if self.data.folds else "set data.folds to their number"
            raise ValueError(f"benchmark.folds = {list(chosen.folds)}: {told}")
        if len(chosen.folds) > 1 and self.data.splits:
            raise ValueError("benchmark.folds: with data.splits every fold would be the same")
        shared = any(share != self.data.label_fraction for share in chosen.label_fractions)
        if shared and self.pretrain.patience:
            raise ValueError(
                f"pretrain.patience = {self.pretrain.patience} stops by a probe on labels, but one pretraining serves "
                "all of benchmark.label_fractions; set pretrain.patience=0"
            )
        return self

    @model_validator(mode="after")
    def _steps_that_must_stay_whole(self) -> Config:
        if self.pretrain.accumulate == 1:
            return self
        used = {self.pretrain.method: "pretrain.method"}
        for arm in self.benchmark.arms:
            used.setdefault(
                self.benchmark.arm(arm).get("pretrain.method", self.pretrain.method), f"benchmark.arms, {arm}"
            )
        for name, where in used.items():
            if name in METHODS and METHODS[name].whole_batch:
                raise ValueError(
                    f"pretrain.accumulate = {self.pretrain.accumulate}: {name} ({where}) relates the samples of a "
                    "step to each other, so that a step in parts would be another training; set pretrain.accumulate=1, "
                    "and lower pretrain.batch or raise resources.workers where memory is short"
                )
        return self
