"""The tokenizer: any text comes back, symbols are one token, training is repeatable."""

import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechdst.data import tokenizer as tokenizers
from speechdst.data.dialogue import BadInput
from speechdst.data.tokenizer import Tokenizer
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
