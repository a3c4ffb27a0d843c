"""Word error rate of a recogniser over prepared data, against counts by hand."""

import json

import pytest
from ml_collections import ConfigDict

from speechdst.data.dialogue import BadInput, Dialogue, Turn
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
