"""Speech encoded beforehand: what is stored, that it is found again, and that it trains alike."""

import dataclasses
import hashlib
import json
import pickle
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
import tiny_encoders
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from speechdst import encode, sharding
from speechdst.data import encoded, loader, preparation, speech
from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.dialogue import BadInput
from speechdst.data.options import Options
from speechdst.data.prepared import Prepared
from speechdst.data.tree import RowShape, Table
from speechdst.training import state

BEEP = f"{__name__}:beep"


def beep(text, voice):
    """A synthesiser that is quick: a tone for each letter, by voice and text."""
    seed = int(hashlib.sha256(f"{text}{voice}".encode()).hexdigest()[:8], 16)
    t = np.arange(800 + 80 * len(text)) / 16_000
    return (8000 * np.sin(2 * np.pi * (100 + seed % 200) * t)).astype(np.int16)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """5 + 3 spoken dialogues, 2 to a shard."""
    folder = tmp_path_factory.mktemp("data")
    options = Options.parse("sim", {
        "corpus": "simulated", "splits": {"train": {"dialogues": 5}, "test": {"dialogues": 3}},
        "speech": BEEP, "voices": 4, "held_out_voices": ("test",)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "SHARD", 2)
        patch.setitem(sys.modules, __name__, sys.modules[__name__])
        return preparation.prepare("sim", options, folder, processes=0)[0]


def model(kind):
    """Tiny, over log-mel features as they are prepared, or over waveforms."""
    made = tiny_encoders.config("wavlm_large") if kind == "wavlm" else tiny.config()
    if kind == "wavlm":
        return made
    return dataclasses.replace(made, encoder=dataclasses.replace(made.encoder, channels=80))


def stored(prepared, kind, split="train"):
    config = model(kind)
    params = tiny.parameters(config)
    encode.store(prepared, config, params)
    return config, params, encode.dialogues(prepared, split, config, params, (r"^connector",))


@pytest.mark.parametrize("kind", ["wavlm", "log_mel"])
def test_what_is_stored_is_the_encoders_output(prepared, kind):
    config, params, found = stored(prepared, kind)
    graph, _ = state.abstract(config)
    plain = prepared.dialogues("train")
    assert len(found) == len(plain) == 5 and [d.id for d in found] == [d.id for d in plain]
    run = jax.jit(lambda p, x, n: state.model_of(graph, p).encoder(x, n),
                  compiler_options=tiny.QUICK)
    recordings = 0
    for i in (0, 4, -1):
        for turn, given in zip(found[i].turns, plain[i].turns, strict=True):
            assert dataclasses.replace(turn, features=given.features) == given
            if given.audio is None:
                assert turn.features is None
                continue
            recordings += 1
            wave = speech.decode(given.audio)
            x = wave if kind == "wavlm" else given.features.astype(np.float32)
            alone = np.zeros((1, 12_000 if kind == "wavlm" else 75, *x.shape[1:]), np.float32)
            alone[0, : len(x)] = x
            out, lengths = run(params, alone, np.array([len(x)]))
            expected = np.asarray(out[0, : lengths[0]])
            assert turn.features.dtype == ml_dtypes.bfloat16
            assert turn.features.shape == expected.shape
            # One rounding to 8 bits.
            np.testing.assert_allclose(turn.features.astype(np.float32), expected, rtol=2**-8,
                                       atol=1e-4 * np.abs(expected).max())
    assert recordings > 5


def test_encoded_speech_trains_as_the_audio_does(prepared):
    config, params, found = stored(prepared, "wavlm")
    context = Context("text_history")
    build = TreeBuilder(context, tiny.tokenizer(), config.soft_length, encode.hearing(config))
    made = loader.make([loader.Source(found)], build, positions=2048, rows=1, seed=0,
                       channels=config.encoder.width, threads=0)
    table = next(iter(made)).tables[0]
    assert table.encoded.dtype == ml_dtypes.bfloat16 and table.encoded.shape[-1] == 20

    def row(dialogue, hearing, kind, size, channels):
        (tree,) = TreeBuilder(context, tiny.tokenizer(), config.soft_length, hearing).trees(
            dialogue)
        table = Table(kind, 8, size, config.soft_length(kind, size), 64)
        batch = tiny.row([tree], RowShape(1024, (table,), 128, channels))
        return batch, loader.count(batch)

    heard = Hearing.of(config.encoder)
    batches = {"encoded": row(found[0], build.hearing, "encoded", 40, config.encoder.width),
               "waveform": row(prepared.dialogues("train")[0], heard, "waveform", 13_000, 1)}
    (batch, a), (other, b) = batches.values()
    np.testing.assert_array_equal(batch.positions, other.positions)
    np.testing.assert_array_equal(batch.targets, other.targets)
    assert a["answers"] == b["answers"] > 0 and 0.9 * b["frames"] < a["frames"] < b["frames"]
    run = tiny.gradient(config)
    (loss, _), grads = run(params, batch, 0.0)
    (expected, _), others = run(params, other, 0.0)
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
    # The encoder is not asked, so nothing of it can learn; what is behind it learns the same.
    assert not any(np.abs(g).max() for p, g in grads.items() if p.startswith("encoder/"))
    path = "connector/out/kernel"
    np.testing.assert_allclose(grads[path], others[path], atol=0.05 * np.abs(others[path]).max())


def test_only_what_is_missing_is_encoded_again(prepared, monkeypatch):
    config, params, found = stored(prepared, "log_mel")
    before = {p.name: p.stat().st_mtime_ns for p in found.folder.iterdir()}
    gone = found.folder / "train-00001-of-00003.npy"
    kept = gone.read_bytes()
    gone.unlink()
    (found.folder / "train-00000-of-00003.npy.1.tmp").write_bytes(b"cut off")
    calls = []
    real = encode.SpeechEncoder.__call__
    monkeypatch.setattr(encode.SpeechEncoder, "__call__",
                        lambda self, turns: (calls.append(len(turns)), real(self, turns))[1])
    encode.store(prepared, config, params)
    after = {p.name: p.stat().st_mtime_ns for p in found.folder.iterdir()}
    assert len(calls) == 1 and gone.read_bytes() == kept and after.keys() == before.keys()
    shards = [n for n in after if n.endswith(".npy") and after[n] != before[n]]
    assert sorted(shards) == ["train-00001-of-00003.index.npy", "train-00001-of-00003.npy"]


def test_an_encoder_that_differs_in_a_weight_is_another(prepared):
    config, params, _ = stored(prepared, "wavlm")
    name = encode.fingerprint(config, params)
    other = lambda path, x: encode.fingerprint(config, params | {path: x})
    kernel = params["encoder/blocks/q/kernel"]
    assert other("encoder/blocks/q/kernel", kernel.at[1, 2, 3].add(1e-6)) != name
    swapped = kernel.at[0, 0, 0].set(kernel[0, 0, 1]).at[0, 0, 1].set(kernel[0, 0, 0])
    assert other("encoder/blocks/q/kernel", swapped) != name
    assert other("encoder/blocks/q/kernel", kernel.astype(jnp.bfloat16)) != name
    assert other("connector/out/kernel", 2 * params["connector/out/kernel"]) == name
    leaky = lambda **changes: dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, **changes))
    assert encode.fingerprint(leaky(normalize=False), params) != name
    assert encode.fingerprint(leaky(remat=True), params) == name
    mesh = sharding.make_mesh(data=1, fsdp=4, devices=jax.devices()[:4])
    spread = jax.device_put(kernel, NamedSharding(mesh, P(None, "fsdp", None)))
    assert other("encoder/blocks/q/kernel", spread) == name
    changed = params | {"encoder/relative_bias": params["encoder/relative_bias"] + 1}
    with pytest.raises(BadInput, match="not encoded by this encoder"):
        encode.dialogues(prepared, "train", config, changed, ())


def test_a_stage_that_trains_the_encoder_is_refused(prepared):
    config = model("wavlm")
    with pytest.raises(BadInput, match="trains the speech encoder"):
        encode.dialogues(prepared, "train", config, tiny.parameters(config), (r"^encoder",))


def test_damage_is_named(prepared):
    _, _, found = stored(prepared, "log_mel", "test")
    path = found.folder / "test-00001-of-00002.npy"
    whole = path.read_bytes()
    again = lambda: encoded.Encoded(prepared, "test", found.encoder)[2]
    path.write_bytes(whole[:-5])
    with pytest.raises(BadInput, match=r"test-00001-of-00002\.npy"):
        again()
    np.save(path, np.zeros((3, 3), np.uint16))
    with pytest.raises(BadInput, match="expected uint16"):
        again()
    path.write_bytes(whole)
    assert again().id == found[2].id
    manifest = found.folder / "manifest.json"
    text = manifest.read_text()
    for bad, words in (("{", "not JSON"), (json.dumps({"format": 9}), "format 9")):
        manifest.write_text(bad)
        with pytest.raises(BadInput, match=words):
            again()
    manifest.write_text(text)


def test_dialogues_may_be_pickled_and_are_named_by_content(prepared):
    _, _, found = stored(prepared, "log_mel")
    first = found[0]
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy[0].turns[0].features, first.turns[0].features)
    assert repr(copy) == repr(found) and found.encoder in repr(found)
    assert [d.id for d in found[1:3]] == [found[1].id, found[2].id]
    assert Prepared(prepared.folder).fingerprint in repr(found)
