"""An exported folder holds the tokenizer that its model was trained with, of either kind."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from speechdst import export
from speechdst.data.dialogue import BadInput
from speechdst.data.tokenizer import JsonTokenizer


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_an_export_keeps_its_tokenizer(kind, tmp_path):
    tokenizer = tiny.tokenizer()
    if kind == "tokenizer.json":
        tokenizer = JsonTokenizer(tiny.tokenizer_json("bytes"), "<bos>", "<eos>")
    config = tiny.config()
    model = json.loads(json.dumps(dataclasses.asdict(config)))
    context = {"kind": "text_history", "path": "speech", "agent": "text"}
    (tmp_path / "tokenizer.json").write_text("of an earlier export")
    export.save(tmp_path, {p: np.asarray(v) for p, v in tiny.parameters(config).items()}, model,
                tokenizer, context, {"beam": 1, "max_new": 8})
    tracker = export.load(tmp_path)
    assert tracker.tokenizer.fingerprint == tokenizer.fingerprint
    assert tracker.config.decoder.vocabulary == config.decoder.vocabulary
    assert not any("lora" in path for path in tracker.params)
    other = JsonTokenizer(tiny.tokenizer_json("bytes"), "<eos>", "<bos>")
    other.save(tmp_path)
    with pytest.raises(BadInput, match=r"the vocabulary is .* trained with"):
        export.load(tmp_path)
