"""Weights on disk: safetensors beside a JSON that says what they are. Nothing is ever unpickled.

A checkpoint carries what it was made with: a segmenter all that evaluation and prediction need, an encoder its
architecture and patch for fine-tuning.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from upath import UPath

from preprocessing.errors import RunError
from preprocessing.object_store import fresh, reaching
from preprocessing.storage import make_folder, replacing, write_text

SCHEMA = 2  # 2: an encoder standardises its pixels, a segmenter its tokens
_WEIGHTS, _META = "model.safetensors", "meta.json"


def save_weights(folder: UPath | str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write model.safetensors and, last, meta.json: a folder without it is not a checkpoint.

    Args:
        folder: any path or URI.
        tensors: named tensors of any dtype.
        meta: JSON-serialisable; must say its "kind" ("encoder", "segmenter", "scores", or of a training to go on with
            "pretrain" or "finetune").
    """
    folder = UPath(folder)
    make_folder(folder)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(folder / _WEIGHTS) as temporary:
        temporary.write_bytes(safetensors.torch.save(plain))
    write_text(folder / _META, json.dumps({"schema": SCHEMA, "torch": torch.__version__, **meta}, indent=1))


def load_weights(folder: UPath | str, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and meta of a checkpoint.

    Raises:
        RunError: there is none, it is of another kind or version, or its weights cannot be read.
    """
    folder = fresh(UPath(folder))
    meta = read_meta(folder, kind)
    try:
        with reaching(str(folder)):
            tensors = safetensors.torch.load((folder / _WEIGHTS).read_bytes())
    except FileNotFoundError:
        raise _no_checkpoint(folder) from None
    except SafetensorError as error:
        raise _unreadable(folder, error) from None
    return tensors, meta


def read_meta(folder: UPath | str, kind: str | None = None) -> dict[str, Any]:
    """What a checkpoint says of itself, without its weights.

    Raises:
        RunError: there is none, or it is of another kind or version.
    """
    folder = fresh(UPath(folder))
    try:
        with reaching(str(folder)):
            meta = json.loads((folder / _META).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise _no_checkpoint(folder) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(folder, error) from None
    if meta.get("schema") != SCHEMA:
        raise RunError(
            f"the checkpoint at {folder} has version {meta.get('schema')}, this program reads version {SCHEMA}; "
            "use the program that wrote it or train again"
        )
    if kind is not None and meta.get("kind") != kind:
        raise RunError(f"the checkpoint at {folder} holds a {meta.get('kind')}, but a {kind} is needed here")
    return meta


def checkpoint_mistakes(field: str, folder: str, kind: str, patch: tuple[int, ...] | None = None) -> list[str]:
    """What is wrong with a checkpoint that a setting names, before it is needed: one mistake at most.

    Args:
        field: the setting.
        folder: its value.
        kind: what it must be.
        patch: what its patches must be, where that is known.
    """
    if not fresh(UPath(folder)).is_dir():
        return [f"{field} = {folder}: there is no such folder"]
    try:
        meta = read_meta(folder, kind)
    except RunError as error:
        return [f"{field}: {error}"]
    own = tuple(meta.get("shape", {}).get("patch", ()))
    if patch and own and own != patch:
        return [f"{field} = {folder}: was trained on patches of {list(own)}, cache.patch = {list(patch)}"]
    return []


def _no_checkpoint(folder: UPath) -> RunError:
    return RunError(f"no checkpoint at {folder}: it needs {_WEIGHTS} and {_META}")


def _unreadable(folder: UPath, error: Exception) -> RunError:
    return RunError(f"the checkpoint at {folder} cannot be read ({error}); use another or train again")


def checkpoint_digest(folder: UPath | str) -> str:
    """What a checkpoint is known by, wherever it lies: digest of its files, missing ones being empty."""
    found = hashlib.sha256()
    for name in (_META, _WEIGHTS):
        file = fresh(UPath(folder)) / name
        found.update(file.read_bytes() if file.exists() else b"")
    return found.hexdigest()[:16]


@dataclass
class TransferReport:
    """What became of every tensor of the model: names, by fate."""

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    share: float = 0.0

    def __str__(self) -> str:
        text = f"weights: {len(self.loaded)} tensors loaded, {len(self.resized)} resized, {len(self.skipped)} skipped"
        text += f" ({self.share:.1%} of the parameters come from the checkpoint)"
        for name, fate in (("resized", self.resized), ("skipped", self.skipped)):
            if fate:
                text += f"\n  {name}: " + ", ".join(fate)
        return text


def transfer(model: nn.Module, tensors: dict[str, Tensor], min_share: float) -> TransferReport:
    """Copy equally named tensors into the model, and say what happened to each.

    A patch embedding for another number of channels (its inputs a multiple of the other's) is resized: repeated with a
    share of its weight each, or summed over channels, so that its response to equal channels stays. Every other shape
    that differs is skipped.

    Args:
        model: changed in place.
        tensors: the checkpoint's.
        min_share: least share of the model's parameters that must come from the checkpoint.

    Raises:
        RunError: less than that came.
    """
    report = TransferReport()
    own = model.state_dict()
    fitted: dict[str, Tensor] = {}
    for name, target in own.items():
        source = tensors.get(name)
        if source is None:
            report.skipped.append(f"{name} (not in the checkpoint)")
        elif source.shape == target.shape:
            fitted[name] = source
            report.loaded.append(name)
        elif name.endswith("embed.weight") and _channels_differ(source, target):
            fitted[name] = _resize_channels(source, target.shape[1])
            report.resized.append(f"{name} {tuple(source.shape)} -> {tuple(target.shape)}")
        else:
            report.skipped.append(f"{name} (checkpoint {tuple(source.shape)}, model {tuple(target.shape)})")
    total = sum(tensor.numel() for tensor in own.values())
    report.share = sum(tensor.numel() for tensor in fitted.values()) / max(total, 1)
    if report.share < min_share:
        raise RunError(
            f"only {report.share:.1%} of the model's parameters come from the checkpoint, at least {min_share:.0%} are "
            f"asked for; is it of another architecture?\n{report}"
        )
    model.load_state_dict(fitted, strict=False)
    return report


def _channels_differ(source: Tensor, target: Tensor) -> bool:
    small, large = sorted((source.shape[-1], target.shape[-1]))
    return source.shape[0] == target.shape[0] and large % small == 0


def _resize_channels(weight: Tensor, inputs: int) -> Tensor:
    """[F, D] to [F, inputs]; the inputs are channel-major: whole channels are repeated, a share each, or summed."""
    if inputs > weight.shape[1]:
        repeats = inputs // weight.shape[1]
        return weight.repeat(1, repeats) / repeats
    return weight.view(weight.shape[0], -1, inputs).sum(1)
