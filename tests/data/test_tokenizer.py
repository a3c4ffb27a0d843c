"""The tokenizer: any text comes back, symbols are one token, training is repeatable."""

import json

import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechdst.data import tokenizer as tokenizers
from speechdst.data.dialogue import BadInput
from speechdst.data.tokenizer import JsonTokenizer, Tokenizer
from speechdst.decoding.parse import target


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=("Cs",))))
@example("USER: two  spaces \n")
@example(" leading and trailing ")
@example('{"label":"zürich, 4★","domains":["hotel"]}')
@example("a\u2581b \u2581")
@example("nul \0 and tab \t and \r\n")
@example("<s></s><unk><0x41><pad>")
@example("e\u0301 é ﬁ Ⅳ")
def test_any_text_comes_back(text):
    tokenizer = tiny.tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.bos, tokenizer.eos} & set(ids), "text cannot end an answer"
    if text:
        assert tokenizer.decode(tokenizer.words(text)) == " " + text
        assert tokenizer.decode(tokenizer.characters(text)) == " " + text


@pytest.mark.parametrize("kind", ["bytes", "pieces", "model"])
def test_tokens_that_begin_a_word_are_known(kind):
    t = tiny.tokenizer() if kind == "model" else tokenizers.JsonTokenizer(
        tiny.tokenizer_json(kind), 1, 2)
    for word in ("north", "i"):
        first, *rest = (t.begins_word(i) for i in t.words(word))
        assert first and not any(rest)


def test_symbols_are_single_tokens():
    for symbol in tokenizers.target_symbols(tiny.SCHEMA):
        assert len(tiny.tokenizer().encode(symbol)) == 1, symbol


def test_the_json_of_a_target_costs_little():
    state = {"hotel": {"area": "north"}, "taxi": {"leave at": "nine"}}
    ids = tiny.tokenizer().encode(target("", state))
    words = tiny.tokenizer().encode("north") + tiny.tokenizer().encode("nine")
    assert len(ids) - len(words) <= 14


def test_the_same_input_gives_the_same_bytes_and_another_gives_others():
    symbols = tokenizers.target_symbols(tiny.SCHEMA)
    train = lambda texts: tokenizers.train(texts, symbols, size=400)
    assert train(list(tiny.USER)) == train(iter(tiny.USER))
    first, second = (Tokenizer(train(list(t))) for t in (tiny.USER, tiny.AGENT))
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == Tokenizer(first.model).fingerprint


def test_loading(tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(BadInput, match=r"no tokenizer there.*prepare"):
        Tokenizer.load(path)
    path.write_bytes(tiny.tokenizer().model)
    assert Tokenizer.load(path).fingerprint == tiny.tokenizer().fingerprint
    path.write_bytes(b"not a model")
    with pytest.raises(BadInput, match="not a SentencePiece model"):
        Tokenizer.load(path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="not a SentencePiece model"):
        Tokenizer.load(path)
    path.unlink()
    with pytest.raises(BadInput, match=r"tokenizer.json: no tokenizer there"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=("Cs",))))
@example("USER: two  spaces \n")
@example(" leading and trailing ")
@example("<bos> said aloud <eos><pad>")
@example("a\u2581b \u2581")
@example("zürich, 4★ \0")
def test_any_text_comes_back_from_a_tokenizer_json(kind, text):
    tokenizer = JsonTokenizer(tiny.tokenizer_json(kind), "<bos>", "<eos>")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text, "nothing is added, cut off or normalised"
    assert not {0, tokenizer.bos, tokenizer.eos} & set(ids), "text cannot end an answer"
    assert all(i < tokenizer.size for i in ids)
    assert tokenizer.words(text) == tokenizer.encode(" " + text) or not text


def folder(path, kind="bytes", config=None, **own):
    """A checkpoint's folder: tokenizer.json, what names its special tokens, config.json."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_bytes(tiny.tokenizer_json(kind))
    for name, values in (("tokenizer_config.json", own), ("config.json", config)):
        if values is not None:
            (path / name).write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(("own", "config", "expected"), [
    (dict(bos_token="<bos>", eos_token="<eos>"), dict(bos_token_id=1, eos_token_id=2), (1, 2)),
    (dict(bos_token=dict(content="<bos>"), eos_token=dict(content="<eos>")), None, (1, 2)),
    (dict(bos_token=None, eos_token="<eos>"), dict(bos_token_id=0, eos_token_id=2), (0, 2)),
    (dict(bos_token=None, eos_token="<eos>"), dict(bos_token_id=None, eos_token_id=2), (2, 2)),
    (dict(), dict(eos_token_id=[2, 0]), (2, 2)),
    (dict(eos_token="<pad>"), dict(eos_token_id=[2, 0], text_config=dict(vocab_size=400)), (0, 0)),
])
def test_special_tokens_of_a_checkpoint(tmp_path, own, config, expected):
    tokenizer = Tokenizer.load(folder(tmp_path, config=config, **own))
    assert (tokenizer.bos, tokenizer.eos) == expected
    # What is written beside an exported model is the same tokenizer.
    (tmp_path / "out").mkdir()
    tokenizer.save(tmp_path / "out")
    again = Tokenizer.load(tmp_path / "out")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.bos, again.eos) == expected


SPECIAL = dict(bos_token="<bos>", eos_token="<eos>")


@pytest.mark.parametrize(("own", "config", "message"), [
    (SPECIAL, dict(eos_token_id=7), r"tokenizer.json, field eos_token_id: eos is 2, the model has "
                                    r"7 \(use the tokenizer"),
    (SPECIAL, dict(bos_token_id=7, eos_token_id=2), "bos is 1, the model has 7"),
    (SPECIAL, dict(eos_token_id=[7, 8]), r"the model has \[7, 8\]"),
    (SPECIAL, dict(vocab_size=200), "320 tokens, the model has 200"),
    (SPECIAL, dict(text_config=dict(vocab_size=200)), "320 tokens, the model has 200"),
    (dict(eos_token="</s>"), {}, "no end-of-sequence token '</s>'.*tokenizer_config.json"),
    ({}, {}, "no end-of-sequence token None"),
])
def test_a_tokenizer_of_another_model(tmp_path, own, config, message):
    with pytest.raises(BadInput, match=message):
        Tokenizer.load(folder(tmp_path, config=config, **own))


def test_tokens_beyond_the_embedding_that_no_text_has_are_no_error(tmp_path):
    """As in Gemma 3 1B, whose tokenizer knows the images of its larger kin."""
    tokenizer = Tokenizer.load(folder(tmp_path, config=dict(vocab_size=320), **SPECIAL))
    assert tokenizer.size == 320 == tokenizer.processor.token_to_id("<audio>")


def test_a_sentencepiece_model_in_a_checkpoint(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.save(tmp_path)
    good = dict(bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos, vocab_size=tokenizer.size)
    (tmp_path / "config.json").write_text(json.dumps(good))
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint
    (tmp_path / "config.json").write_text(json.dumps(good | dict(vocab_size=10)))
    with pytest.raises(BadInput, match=r"tokenizer.model, field vocab_size"):
        Tokenizer.load(tmp_path)


def test_damaged_files_of_a_checkpoint(tmp_path):
    at = folder(tmp_path, **SPECIAL)
    (at / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(BadInput, match=r"not a tokenizer.json"):
        Tokenizer.load(at)
    (at / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadInput, match=r"tokenizer_config.json: not JSON"):
        Tokenizer.load(at)


def test_rows_behind_the_vocabulary_are_no_token():
    tokenizer = tiny.tokenizer()
    ids = tokenizer.encode("north")
    assert tokenizer.decode([*ids, tokenizer.size, tokenizer.size + 9]) == "north"
