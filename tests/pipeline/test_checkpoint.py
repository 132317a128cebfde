import json

import pytest
import torch
from upath import UPath

from pipeline.checkpoint import checkpoint_mistakes, load_weights, save_weights, transfer
from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.training.state import pack, unpack
from preprocessing.errors import RunError

SMALL = EncoderSettings(width=24, depth=2, heads=2)


def test_weights_come_back_bit_for_bit(tmp_path):
    tensors = {"a": torch.rand(3, 4), "b": torch.arange(5), "c": torch.rand(2, dtype=torch.float64).half()}
    save_weights(UPath(tmp_path), tensors, {"kind": "encoder"})
    loaded, meta = load_weights(UPath(tmp_path), "encoder")
    assert meta["kind"] == "encoder"
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items())


def test_what_is_not_a_checkpoint_is_refused_in_plain_words(tmp_path):
    with pytest.raises(RunError, match="no checkpoint at"):
        load_weights(UPath(tmp_path / "none"))
    save_weights(UPath(tmp_path), {"a": torch.rand(3)}, {"kind": "encoder"})
    with pytest.raises(RunError, match="holds a encoder, but a segmenter"):
        load_weights(UPath(tmp_path), "segmenter")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 7)
    with pytest.raises(RunError, match="cannot be read"):
        load_weights(UPath(tmp_path))
    (tmp_path / "meta.json").write_text(json.dumps({"schema": 99}))
    save_weights(UPath(tmp_path), {"a": torch.rand(3)}, {"kind": "encoder", "schema": 99})
    with pytest.raises(RunError, match="version 99"):
        load_weights(UPath(tmp_path))


def test_what_is_wrong_with_a_named_checkpoint_is_told_before_it_is_needed(tmp_path):
    def told(name, kind="encoder", patch=(8, 8)):
        return checkpoint_mistakes("finetune.encoder", str(tmp_path / name), kind, patch)

    assert told("none") == [f"finetune.encoder = {tmp_path}/none: there is no such folder"]
    for name, meta in (("good", {"kind": "encoder"}), ("old", {"kind": "encoder", "schema": 1})):
        save_weights(UPath(tmp_path / name), {"a": torch.rand(3)}, meta | {"shape": {"patch": [8, 8]}})
    assert told("good") == told("good", patch=None) == []
    (mistake,) = told("good", patch=(16, 16))
    assert "trained on patches of [8, 8], cache.patch = [16, 16]" in mistake
    (mistake,) = told("good", kind="segmenter")
    assert "holds a encoder, but a segmenter" in mistake
    (mistake,) = told("old")
    assert mistake.startswith("finetune.encoder: the checkpoint at ")
    assert "has version 1" in mistake


def test_transfer_says_what_became_of_every_tensor():
    source, target = Encoder(SMALL, 16, 2), Encoder(EncoderSettings(width=24, depth=3, heads=2), 32, 2)
    report = transfer(target, source.state_dict(), 0.5)
    assert "embed.weight (24, 16) -> (24, 32)" in report.resized
    # what channels are like is no matter of other channels
    skipped = [n for n in target.state_dict() if "blocks.2" in n or n in ("embed.mean", "embed.scale")]
    assert sorted(s.split()[0] for s in report.skipped) == sorted(skipped)
    assert len(report.loaded) == len(source.state_dict()) - 3
    assert torch.equal(target.blocks[0].qkv.weight, source.blocks[0].qkv.weight)
    same = torch.rand(1, 16)
    torch.testing.assert_close(target.embed(torch.cat([same, same], -1)), source.embed(same))
    assert "3 resized" not in str(report)
    assert "1 resized" in str(report)


def test_another_architecture_is_refused():
    with pytest.raises(RunError, match="another architecture"):
        transfer(Encoder(SMALL, 16, 2), Encoder(EncoderSettings(width=48, depth=2, heads=2), 16, 2).state_dict(), 0.9)


def test_a_training_goes_on_as_if_nothing_had_happened(tmp_path):
    def fresh():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        return model, torch.optim.AdamW(model.parameters(), 1e-2)

    def steps(model, optimiser, numbers):
        for number in numbers:
            model(torch.full((2, 4), float(number))).sin().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    whole, optimiser = fresh()
    steps(whole, optimiser, range(10))
    part, optimiser = fresh()
    steps(part, optimiser, range(5))
    save_weights(UPath(tmp_path), pack(part, optimiser), {"kind": "pretrain"})
    resumed, optimiser = fresh()
    unpack(load_weights(UPath(tmp_path))[0], resumed, optimiser)
    steps(resumed, optimiser, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
