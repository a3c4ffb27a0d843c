import itertools
import json
import re

import pytest

from speechdst.data.corpora import simulated
from speechdst.data.dialogue import BadInput, validate

SCHEMAS = [None, "b"]


def _read(split="train", **kwargs):
    return list(simulated.read(None, split, **kwargs))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_records_are_valid_and_text_is_spoken(schema):
    domains = simulated.schema(schema=schema)
    read = _read(schema=schema, dialogues=200)
    assert len({d.id for d in read}) == 200
    for dialogue in read:
        validate(dialogue, domains)
        assert [t.speaker for t in dialogue.turns[:2]] == ["user", "agent"]
        for turn in dialogue.turns:
            assert re.fullmatch(r"[a-z']+( [a-z']+)*", turn.text), turn.text


@pytest.mark.parametrize("schema", SCHEMAS)
def test_told_values_are_spoken(schema):
    """A newly set value is said by the user, or by the agent right before, or known before."""
    table = simulated.load_schema(schema)
    for dialogue in _read(schema=schema, dialogues=150):
        before = {}
        for i, turn in dialogue.user_turns():
            heard = turn.text + " " + (dialogue.turns[i - 1].text if i else "")
            for domain, slots in turn.state.items():
                for slot, value in slots.items():
                    if before.get(domain, {}).get(slot) == value or value == "dontcare":
                        continue
                    spec = table["domains"][domain]["slots"][slot]
                    forms = table["types"][spec["type"]][value]
                    same = any(s in heard for s in spec.get("same", []))
                    elsewhere = any(s.get(slot) == value for s in before.values())
                    assert any(f in heard for f in forms) or (same and elsewhere), (heard, value)
            before = turn.state


def test_state_is_cumulative_and_first_turn_informs():
    read = _read(dialogues=200)
    assert all(d.turns[0].state for d in read)
    for dialogue in read:
        states = [t.state for _, t in dialogue.user_turns()]
        for old, new in itertools.pairwise(states):
            assert all(set(slots) <= set(new[domain]) for domain, slots in old.items())


def test_corrections_dontcare_and_references_happen():
    changed = dontcare = same = 0
    for dialogue in _read(dialogues=200):
        states = [t.state for _, t in dialogue.user_turns()]
        for old, new in itertools.pairwise(states):
            changed += any(new[d][s] != v for d, slots in old.items() for s, v in slots.items())
        dontcare += "dontcare" in str(states[-1])
        same += any("the same" in t.text for t in dialogue.turns)
    assert changed > 10 and dontcare > 10 and same > 5


def test_same_dialogue_whatever_the_order_and_other_for_other_seed_or_split():
    assert _read(dialogues=20)[:7] == _read(dialogues=7)
    assert _read(seed=1, dialogues=5)[0].turns != _read(dialogues=5)[0].turns
    texts = {
        s: {t.text for d in _read(s, dialogues=60) for t in d.turns[:1]} for s in ("dev", "test")
    }
    assert texts["dev"] != texts["test"]


def test_limits_hold():
    read = _read(dialogues=100, turns=(2, 3), words=(4, 10), domains=["train", "hotel"])
    assert {len(d.user_turns()) for d in read} == {2, 3}
    assert {k for d in read for _, t in d.user_turns() for k in t.state} == {"train", "hotel"}
    lengths = [len(t.text.split()) for d in read for _, t in d.user_turns()]
    assert min(lengths) >= 4 and sum(n > 10 for n in lengths) < 0.05 * len(lengths)


def test_departure_and_destination_differ():
    for dialogue in _read(dialogues=300):
        for slots in dialogue.user_turns()[-1][1].state.values():
            assert "departure" not in slots or slots["departure"] != slots.get("destination")


def test_no_two_values_of_a_type_sound_alike():
    for name in SCHEMAS:
        for values in simulated.load_schema(name)["types"].values():
            forms = [form for spoken in values.values() for form in spoken]
            assert len(forms) == len(set(forms))


def test_values_are_the_first_of_every_type():
    table, used = simulated.load_schema(), {}
    for dialogue in _read(dialogues=100, values=3):
        for _, turn in dialogue.user_turns():
            for domain, slots in turn.state.items():
                for slot, value in slots.items():
                    name = table["domains"][domain]["slots"][slot]["type"]
                    used.setdefault(name, set()).add(value)
    assert len(used) > 5
    for name, found in used.items():
        assert found - {"dontcare"} == set(list(table["types"][name])[:3])
    with pytest.raises(BadInput, match="1 values of every type"):
        _read(values=1)


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no split 'valid'"):
        _read("valid")
    with pytest.raises(BadInput, match="unknown domains"):
        _read(domains=["boat"])
    with pytest.raises(BadInput, match=r"none\.json.*cannot be read"):
        _read(schema=tmp_path / "none.json")
    path = tmp_path / "s.json"
    path.write_text("{")
    with pytest.raises(BadInput, match="not a JSON file"):
        _read(schema=path)
    slot = {"type": "n", "label": "number", "phrases": ["{v}"], "request": ["how many"]}
    table = {
        "name": "x",
        "types": {"n": {"1": ["one"], "2": ["2"]}},
        "domains": {"shop": {"nouns": ["shop"], "done": ["done"], "slots": {"number": slot}}},
    }
    path.write_text(json.dumps(table))
    with pytest.raises(BadInput, match=r"types\.n\.2: '2' is not spoken text"):
        _read(schema=path)
    table["types"]["n"]["2"] = ["two"]
    path.write_text(json.dumps(table))
    assert len(_read(schema=path, dialogues=20)) == 20


def test_german_is_spoken_and_valid():
    domains = simulated.schema(language="de")
    read = _read(language="de", dialogues=200, restart=0.2)
    texts = [t.text for d in read for t in d.turns]
    for dialogue in read:
        validate(dialogue, domains)
        assert dialogue.corpus == "simulated_de"
    assert all(re.fullmatch(r"[a-zäöüß']+( [a-zäöüß']+)*", text) for text in texts)
    words = {w for text in texts for w in text.split()}
    # Nothing of the English wording is left, which would be glue, articles or phrases.
    assert not words & {"and", "the", "please", "you"} and "und" in words
    table = simulated.load_schema(language="de")
    assert set(table["phrases"]) >= set(simulated.load_schema()["phrases"])
    with pytest.raises(BadInput, match="language: no bundled schema in 'xx'"):
        simulated.schema(language="xx")


def test_restarts_say_the_beginning_twice_and_change_no_state():
    plain, again = (_read(dialogues=60, filler=0.0, restart=p) for p in (0.0, 1.0))
    words = [t.text.split() for d in again for _, t in d.user_turns()]
    repeated = [any(w[:n] == w[k : k + n] for n in (1, 2, 3, 4) for k in range(n, n + 3))
                for w in words if len(w) > 4]
    assert sum(repeated) > 0.95 * len(repeated)
    assert all(t.state is not None for d in again for _, t in d.user_turns())
    assert plain == _read(dialogues=60, filler=0.0)
