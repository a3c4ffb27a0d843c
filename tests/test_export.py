"""An exported folder holds what its model was trained with: the tokenizer, of either kind, the
grammar and the codec."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import tiny
import tiny_duplex

from speechdst import api, export, generate
from speechdst.codec import FILE, LogMelCodec
from speechdst.data.dialogue import SAMPLE_RATE, BadInput
from speechdst.data.grammar import Grammar
from speechdst.data.tokenizer import JsonTokenizer
from speechdst.data.tts import espeak


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_an_export_keeps_its_tokenizer(kind, tmp_path):
    tokenizer = tiny.tokenizer()
    if kind == "tokenizer.json":
        tokenizer = JsonTokenizer(tiny.tokenizer_json("bytes"), "<bos>", "<eos>")
    config = tiny.config()
    model = json.loads(json.dumps(dataclasses.asdict(config)))
    context = {"kind": "text_history", "path": "speech", "agent": "text"}
    (tmp_path / "tokenizer.json").write_text("of an earlier export")
    grammar = Grammar({"stop": [(("no", "not"), "area")]}, {"area": ("north", "south")})
    export.save(tmp_path, {p: np.asarray(v) for p, v in tiny.parameters(config).items()}, model,
                tokenizer, context, {"beam": 1, "max_new": 8,
                                     "grammar": dataclasses.asdict(grammar)})
    tracker = export.load(tmp_path)
    assert tracker.grammar == grammar and tracker.max_new == 8
    assert tracker.tokenizer.fingerprint == tokenizer.fingerprint
    assert tracker.config.decoder.vocabulary == config.decoder.vocabulary
    assert not any("lora" in path for path in tracker.params)
    other = JsonTokenizer(tiny.tokenizer_json("bytes"), "<eos>", "<bos>")
    other.save(tmp_path)
    with pytest.raises(BadInput, match=r"the vocabulary is .* trained with"):
        export.load(tmp_path)


def test_a_full_duplex_model_comes_back_and_says_the_same(tmp_path):
    """Also as `generate` writes it: the model on the left, the user on the right."""
    made, folder = dataclasses.replace(tiny_duplex.duplex(), rows=1), tmp_path / "exported"
    model = json.loads(json.dumps(dataclasses.asdict(made.config))) | {"kind": "multistream"}
    decoding = {"sampling": dataclasses.asdict(made.sampling), "pad_bonus": made.pad_bonus,
                "slots": made.slots, "chunk": made.chunk, "overflow": made.stream.overflow}
    export.save(folder, made.params, model, made.tokenizer, None, decoding, codec=made.codec)
    user, out = tmp_path / "user.wav", tmp_path / "reply.wav"
    soundfile.write(user, espeak("a hotel please"), SAMPLE_RATE)
    generate.converse(api.load(folder), str(user), out)
    both, _ = soundfile.read(out, dtype="float32")
    np.testing.assert_array_equal(both[: len(api.first_channel(user)), 1], api.first_channel(user))
    (said,) = made.hear([made.codec.encode(api.first_channel(user))])
    spoken = made.waveform(said)
    np.testing.assert_allclose(both[: len(spoken), 0], spoken, atol=1 / 32768)
    assert json.loads(out.with_suffix(".json").read_text())["alignments"] == [
        [w.text, [w.start, w.end], "SPEAKER_MAIN"] for w in made.words(said)]
    LogMelCodec(made.codec.tables + 1).save(folder / FILE)
    with pytest.raises(BadInput, match=r"the codec is .* trained with"):
        export.load(folder)
