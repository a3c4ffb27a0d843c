"""Word error rate of a recogniser over prepared data, against counts by hand."""

import json

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from speechdst.data.dialogue import BadInput, Dialogue, Turn
from speechdst.decoding.ctc import CTCHead, Speller, spelled
from speechdst.decoding.parse import Prediction
from speechdst.evaluation.states import evaluate_transcripts

CONFIG = ConfigDict({"data_dir": "data", "evaluation": {"data": "read", "split": "dev"}})


class Hears:
    def __init__(self, labels):
        self.labels = labels

    def track(self, dialogues):
        for d, label in enumerate(self.labels):
            yield d, 0, Prediction(label, [], {}, True), label


def dialogues(*texts):
    return [Dialogue(f"u{i}", "x", "dev", (Turn("user", t),)) for i, t in enumerate(texts)]


def test_words_are_counted_over_all_turns(tmp_path, capsys):
    evaluate_transcripts(CONFIG, tmp_path, Hears(["a b x", "d", "noise"]),
                         dialogues("a b c", "d e", ""))
    folder = tmp_path / "evaluation" / "read-dev-asr"
    found = json.loads((folder / "word_errors.json").read_text())
    assert (found["words"], found["substitutions"], found["deletions"]) == (5, 1, 1)
    assert found["rate"] == pytest.approx(40) and found["utterances"] == 2
    assert found["interval"][0] <= 40 <= found["interval"][1]
    assert len((folder / "transcripts.jsonl").read_text().splitlines()) == 2
    assert "40.00 [33.3, 50.0]" in capsys.readouterr().out


def test_data_without_transcripts_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no turn has a transcript"):
        evaluate_transcripts(CONFIG, tmp_path, Hears(["a"]), dialogues(""))


def test_the_best_path_spells_its_labels_once():
    blank = 3
    path = [blank, 1, 1, blank, 1, 2, 2, blank, blank, 0]
    assert spelled(np.log(np.eye(4)[path] + 1e-9)) == [1, 1, 2, 0]
    assert spelled(np.zeros((0, 4))) == []


def test_what_the_ctc_head_spells_is_scored_as_transcripts():
    model = tiny.config()
    features = np.random.default_rng(0).standard_normal((200, tiny.CHANNELS)).astype(np.float16)
    speller = Speller(tiny.parameters(model), model, tiny.tokenizer())
    found = list(speller.track([Dialogue("d", "x", "dev", (
        Turn("agent", "yes"), Turn("user", "a b", features=features)))]))
    assert [(d, turn) for d, turn, *_ in found] == [(0, 1)]
    head = CTCHead(model, tiny.parameters(model))
    assert found[0][2].label == tiny.tokenizer().decode(spelled(head(features))).strip()
