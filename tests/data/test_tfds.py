import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from speechdst.data import preparation
from speechdst.data.dialogue import (
    Answer,
    Audio,
    Dialogue,
    Passage,
    Question,
    Turn,
    Word,
    to_bytes,
)
from speechdst.data.options import Options
from speechdst.data.prepared import Prepared
from speechdst.data.tfds_builder import (
    Config,
    SpeechDST,
    TfdsDialogues,
    of_corpus,
    of_prepared,
    to_dialogue,
    to_example,
)


def options():
    splits = {"train": {"dialogues": 3}, "test": {"dialogues": 1}}
    return {"corpus": "simulated", "splits": splits, "speech": "espeak", "voices": 2}


def same(built, prepared):
    assert len(built) == len(prepared)
    for a, b in zip(built, prepared, strict=True):
        assert to_bytes(a) == to_bytes(b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three and one dialogues, prepared, and built from there."""
    data = tmp_path_factory.mktemp("data")
    preparation.prepare("tiny", Options.parse("tiny", options()), data, processes=0)
    builder = SpeechDST(config=of_prepared(data / "tiny"), data_dir=data / "tfds")
    builder.download_and_prepare()
    return data


def test_tfds_gives_the_prepared_dialogues(folder):
    prepared = Prepared(folder / "tiny")
    for split in prepared.splits:
        source = tfds.data_source("speech_dst/tiny", data_dir=folder / "tfds", split=split)
        dialogues = TfdsDialogues(source)
        same(dialogues, prepared.dialogues(split))
        assert dialogues[0].turns[0].features.shape[1] == 80
        assert to_bytes(dialogues[-1]) == to_bytes(prepared.dialogues(split)[-1])
        with pytest.raises(IndexError):
            dialogues[len(dialogues)]
    assert "tensorflow" not in sys.modules


def test_read_without_speechdst_in_a_process_of_its_own(folder):
    """Who has only the files and tfds can read them too; nothing asks for TensorFlow or JAX."""
    code = (
        "import sys, json, tensorflow_datasets as tfds\n"
        f"b = tfds.builder_from_directory({str(folder / 'tfds/speech_dst/tiny/1.1.0')!r})\n"
        "e = b.as_data_source(split='train')[0]\n"
        "bad = [m for m in ('tensorflow', 'speechdst', 'jax') if m in sys.modules]\n"
        "print(json.dumps([e['id'].decode(), e['turns']['flac'][0][:4].decode(), bad]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout.splitlines()[-1]) == ["train-0-00000", "fLaC", []]


def test_adapter_may_be_pickled_and_names_its_content(folder):
    source = tfds.data_source("speech_dst/tiny", data_dir=folder / "tfds", split="train")
    dialogues = TfdsDialogues(source)
    copy = pickle.loads(pickle.dumps(dialogues))
    same(copy, dialogues)
    assert repr(copy) == repr(dialogues) == "TfdsDialogues(speech_dst/tiny/1.1.0/train)"


def test_from_a_corpus_bad_recordings_are_left_out_and_kept_count_of(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    tone = 0.3 * np.sin(np.arange(8000) * 0.05)
    soundfile.write(corpus / "good.wav", tone, 16_000)
    soundfile.write(corpus / "silent.wav", 0 * tone, 16_000)
    with open(corpus / "manifest.jsonl", "w") as out:
        for name in ("good", "silent", "missing"):
            turn = {"speaker": "user", "text": "hello", "audio": f"{name}.wav", "state": {}}
            out.write(json.dumps({"id": name, "split": "train", "turns": [turn]}) + "\n")
    given = {"corpus": "manifest", "root": str(corpus), "splits": {"train": {}}}
    builder = SpeechDST(config=of_corpus("own", given), data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    dialogues = TfdsDialogues(builder.as_data_source(split="train"))
    assert [d.id for d in dialogues] == ["good"]
    problems = [bad.problem for bad in builder.left_out]
    assert len(problems) == 2 and "silent" in problems[0] and "missing" in problems[1]
    preparation.prepare("own", Options.parse("own", given), tmp_path, processes=0)
    same(dialogues, Prepared(tmp_path / "own").dialogues("train"))


def test_example_keeps_what_is_absent_apart_from_what_is_empty():
    features = np.arange(160, dtype=np.float16).reshape(2, 80)
    turns = (
        Turn("user", "hé", (Word("hé", 0.0, 0.1),), Audio(b"fLaC", 4, "v"), {}, features, 1.5),
        Turn("agent", "", audio=Audio(b"fLaC", 4)),
        Turn("user", "x", state={"taxi": {"day": "today"}}),
    )
    question = Question("q", "", (Answer("today", (0, 5)), Answer("now")), 2)
    passages, groups = (Passage("today", 0, 0),), {"dialect": "usa"}
    dialogue = Dialogue("d", "c", "train", turns, passages, (question,), groups)
    example = to_example(dialogue)
    rows = [dict(t, speaker=("user", "agent").index(t["speaker"])) for t in example["turns"]]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    for form in (rows, columns):
        assert to_bytes(to_dialogue(example | {"turns": form})) == to_bytes(dialogue)


def test_building_from_nothing_says_what_to_give(tmp_path):
    builder = SpeechDST(config=Config(name="x"), data_dir=tmp_path)
    with pytest.raises(Exception, match="of_prepared"):
        builder.download_and_prepare()
