"""Rows 68 and 69: no checkpoint or weights file runs code, and no damage to one goes unseen."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from cryoaae.errors import FittingDivergedError, InputError
from cryoaae.io import checkpoint as ck
from cryoaae.io.weights import digest, load_weights, save_weights


def state(value=1.0):
    generator = torch.Generator().manual_seed(0)
    return {
        "step": 7,
        "loss": 0.5,
        "model": {"w": torch.randn(8, 8, generator=generator) * value, "b": torch.arange(3).bfloat16()},
        "optim": {"state": {0: {"exp_avg": torch.zeros(4)}}, "betas": (0.9, 0.999)},
        "rng": generator.get_state(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_state_comes_back_exactly(tmp_path):
    ck.save_checkpoint(tmp_path / "a.ckpt", state())
    assert same(ck.load_checkpoint(tmp_path / "a.ckpt"), state())


def test_no_flipped_byte_changes_the_state_unseen(tmp_path):
    path = tmp_path / "a.ckpt"
    ck.save_checkpoint(path, state())
    raw = path.read_bytes()
    seen = 0
    for offset in range(0, len(raw), 37):
        damaged = bytearray(raw)
        damaged[offset] ^= 0x41
        path.write_bytes(damaged)
        try:
            assert same(ck.load_checkpoint(path), state()), offset  # padding and time stamps are harmless
        except InputError:
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("size", [0, 1, 100, 1500, -1])
def test_truncated(size, tmp_path):
    path = tmp_path / "a.ckpt"
    ck.save_checkpoint(path, state())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="whole checkpoint"):
        ck.load_checkpoint(path)


@pytest.mark.parametrize("archive", [True, False])
def test_malicious_pickle_is_refused_and_not_run(archive, tmp_path):
    path, target = tmp_path / "evil.ckpt", tmp_path / "executed"
    if archive:
        torch.save({"format": ck.FORMAT, "version": ck.VERSION, "state": {"x": Evil(target)}, "digest": {}}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(target)))
    with pytest.raises(InputError):
        ck.load_checkpoint(path)
    assert not target.exists()


def crafted(**changes):
    tensor = torch.ones(3)
    payload = {"format": ck.FORMAT, "version": ck.VERSION, "state": {"w": tensor}}
    payload |= {"digest": {"state.w": ck.tensor_crc32(tensor)}} | changes
    return payload


NAN = torch.full((3,), float("nan"))
CRAFTED = {
    "newer": (crafted(version=99), "upgrade cryoaae"),
    "older": (crafted(version=1), "fit again"),
    "other format": (crafted(format="something"), "not a checkpoint"),
    "no format": ({"weights": torch.ones(3)}, "not a checkpoint"),
    "wrong digest": (crafted(digest={"state.w": 1}), "checksum of state.w"),
    "missing tensor": (crafted(state={}), "not those of its digest"),
    "NaN": (crafted(state={"w": NAN}, digest={"state.w": ck.tensor_crc32(NAN)}), "not finite"),
    "bomb": (crafted(state={"w": torch.ones(1).expand(200_000, 200_000)}), "more values than the file"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted(case, tmp_path):
    payload, message = CRAFTED[case]
    torch.save(payload, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=message):
        ck.load_checkpoint(tmp_path / "a.ckpt")


def test_crafted_without_a_fault_loads(tmp_path):
    torch.save(crafted(), tmp_path / "a.ckpt")
    assert torch.equal(ck.load_checkpoint(tmp_path / "a.ckpt")["w"], torch.ones(3))


def test_nan_is_not_written_over_a_good_one(tmp_path):
    ck.save_rotating(tmp_path, state())
    with pytest.raises(FittingDivergedError, match=r"state\.model\.w"):
        ck.save_rotating(tmp_path, state(float("nan")))
    assert same(ck.load_latest(tmp_path), state())


def test_falls_back_to_the_previous_with_a_warning(tmp_path, caplog):
    ck.save_rotating(tmp_path, state(1.0))
    ck.save_rotating(tmp_path, state(2.0))
    assert same(ck.load_latest(tmp_path), state(2.0))
    (tmp_path / ck.LAST).write_bytes(b"damaged")
    assert same(ck.load_latest(tmp_path), state(1.0))
    assert "falling back" in caplog.text
    (tmp_path / ck.PREVIOUS).write_bytes(b"too")
    with pytest.raises(InputError, match=ck.LAST):
        ck.load_latest(tmp_path)


def test_only_plain_data_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"state\.path"):
        ck.save_checkpoint(tmp_path / "a.ckpt", {"path": tmp_path})
    assert os.listdir(tmp_path) == []


def test_weights_round_trip_and_every_flip_is_seen(tmp_path):
    path, tensors = (
        tmp_path / "model.safetensors",
        {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)},
    )
    save_weights(path, tensors, {"voxel": 10.0, "list": [1, "a"]})
    back, metadata = load_weights(path)
    assert same(back, tensors)
    assert metadata == {"voxel": 10.0, "list": [1, "a"], "digest": digest(tensors)}
    raw = path.read_bytes()
    for offset in range(0, len(raw)):
        damaged = bytearray(raw)
        damaged[offset] ^= 0x04
        path.write_bytes(damaged)
        try:
            found = load_weights(path)
        except InputError:
            continue
        assert same(found[0], tensors), offset
        assert found[1] == metadata, offset


def test_digest_depends_on_names_shapes_and_values():
    a = {"w": torch.zeros(4)}
    others = [
        {"v": torch.zeros(4)},
        {"w": torch.zeros(2, 2)},
        {"w": torch.ones(4)},
        {"w": torch.zeros(4).int()},
    ]
    assert len({digest(a), *map(digest, others)}) == 5
