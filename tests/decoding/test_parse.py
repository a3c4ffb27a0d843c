import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechdst.decoding.parse import Prediction, parse, target

UTF8 = st.characters(exclude_categories=("Cs",))
TEXT = st.text(UTF8, max_size=20)
STATES = st.dictionaries(TEXT, st.dictionaries(TEXT, st.text(UTF8, min_size=1, max_size=20)))


def test_target_text():
    state = {
        "train": {"leaveat": "13:45", "day": "sunday"},
        "hotel": {},
        "attraction": {"type": "café"},
    }
    assert target("Yes, please", state) == (
        '{"label":"Yes, please","domains":["attraction","train"],'
        '"slots":{"attraction":{"type":"café"},"train":{"day":"sunday","leaveat":"13:45"}}}'
    )
    assert target("", {}) == '{"label":"","domains":[],"slots":{}}'


@given(TEXT, STATES)
def test_round_trip(label, state):
    filled = {d: slots for d, slots in state.items() if slots}
    assert parse(target(label, state)) == Prediction(label, sorted(filled), filled, True)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text('{}[]",:\\ abn019.-', max_size=40)))
@example("[" * 5000)
@example('{"slots":' * 3000)
@example('{"slots":{"a":{"b":' + "9" * 5000 + "}}}")
@example('{"slots":{"a":{"b":1e999}}}')
@example('{"slots":{"a":{"\\ud800":"\\udfff"}},"label":"\\ud800"}')
@example("\x00")
def test_no_text_raises_and_every_answer_can_be_written(text):
    got = parse(text)
    assert got.readable or got.slots == {}
    json.dumps([got.label, got.domains, got.slots], ensure_ascii=False).encode()
    for slots in got.slots.values():
        assert slots and all(isinstance(v, str) and v for v in slots.values())


@settings(max_examples=60, deadline=None)
@given(TEXT, STATES, st.floats(0, 1))
def test_cut_off_targets_do_not_raise(label, state, part):
    text = target(label, state)
    parse(text[: int(part * len(text))])


@pytest.mark.parametrize(
    "text,slots",
    [
        ('{"label":"a","slots":{"hotel":{"area":"east"}', {"hotel": {"area": "east"}}),
        ("{'slots': {'hotel': {'area': 'east'}}}", {"hotel": {"area": "east"}}),
        ('Sure! {"slots": {"hotel": {"stars": 4}}}', {"hotel": {"stars": "4"}}),
        ('{"slots":{"hotel":{"area":null,"name":""},"taxi":{}}}', {}),
        ('{"slots":{}}', {}),
    ],
)  # fmt: skip
def test_mended(text, slots):
    got = parse(text)
    assert got.readable and got.slots == slots


@pytest.mark.parametrize(
    "text",
    [
        "", "hello", "[]", "3", "null", "{}", '{"label":"a","domains":[]}',
        '{"slots":[]}', '{"slots":{"hotel":"east"}}', '{"slots":{"hotel":{"area":["east"]}}}',
        '{"slots":{"hotel":{"area":true}}}', '{"label":3,"slots":{"hotel":{"area":"east"}}}',
        '{"domains":"hotel","slots":{"hotel":{"area":"east"}}}',
        '{"domains":[1],"slots":{"hotel":{"area":"east"}}}', '{"slots":{"hotel":{"stars":NaN}}}',
    ],
)  # fmt: skip
def test_unreadable(text):
    got = parse(text)
    assert not got.readable and got.slots == {}


def test_an_unreadable_state_keeps_the_transcript():
    got = parse('{"label":"east please","domains":["hotel"],"slots":"?"}')
    assert got == Prediction("east please", ["hotel"], {}, False)
