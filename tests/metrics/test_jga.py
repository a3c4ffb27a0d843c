import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data.dialogue import BadInput, Dialogue, Turn
from speechdst.metrics import field_scorer, jga, ontology
from speechdst.metrics.ontology import Ontology
from speechdst.metrics.scores import Scores

VALUES = Ontology(
    "hand-made",
    {
        ("hotel", "name"): ("acorn guest house", "university arms hotel", "the gonville hotel"),
        ("restaurant", "food"): ("italian", "indian", "chinese"),
        ("restaurant", "name"): ("curry garden", "curry prince", "pizza hut fenditton"),
        ("taxi", "destination"): ("mumford theatre", "pizza hut fenditton"),
        ("restaurant", "time"): ("13:30", "19:45"),
    },
)


def s(**domains):
    return {d: dict(slots) for d, slots in domains.items()}


# (why, gold, predicted, right in exact, fuzzy, field), worked by hand. fuzzy: threshold 90.
CASES = [
    ("both empty: every slot of both sides agrees", {}, {}, 1, 1, 1),
    ("one slot, same string", s(hotel={"area": "east"}), s(hotel={"area": "east"}), 1, 1, 1),
    ("one slot deleted", s(hotel={"area": "east", "stars": "4"}), s(hotel={"area": "east"}),
     0, 0, 0),
    ("one slot inserted", s(hotel={"area": "east"}), s(hotel={"area": "east", "stars": "4"}),
     0, 0, 0),
    ("wrong value: ratio(east, west) = 75; field has no list for it, so it stays west",
     s(hotel={"area": "east"}), s(hotel={"area": "west"}), 0, 0, 0),
    ("right value under another domain", s(hotel={"area": "east"}), s(restaurant={"area": "east"}),
     0, 0, 0),
    ("an empty domain adds no slot", s(hotel={"area": "east"}), s(hotel={"area": "east"}, taxi={}),
     1, 1, 1),
    ("empty gold, something predicted", {}, s(hotel={"area": "east"}), 0, 0, 0),
    ("case: exact differs; fuzzy: 3 of 4 letters stay, 75; field lower-cases",
     s(hotel={"area": "East"}), s(hotel={"area": "east"}), 0, 0, 1),
    ("one letter of 19 lost: 2*18/37 = 97.3 >= 90; field snaps to the nearest name, the gold one",
     s(restaurant={"name": "pizza hut fenditton"}), s(restaurant={"name": "pizza hut fendittn"}),
     0, 1, 1),
    ("italan: 2*6/13 = 92.3; field snaps to italian", s(restaurant={"food": "italian"}),
     s(restaurant={"food": "italan"}), 0, 1, 1),
    ("itlin: 2*5/12 = 83.3 < 90, and so is its nearest value; field takes the best regardless",
     s(restaurant={"food": "italian"}), s(restaurant={"food": "itlin"}), 0, 0, 1),
    ("a gold value that is not in the list: snapping makes the right prediction wrong",
     s(restaurant={"food": "british"}), s(restaurant={"food": "british"}), 1, 1, 0),
    ("no snapping of stars, no list: 3 is not 4", s(hotel={"stars": "4"}), s(hotel={"stars": "3"}),
     0, 0, 0),
    ("times are not snapped though listed: 13:31 stays wrong; fuzzy: digits differ",
     s(restaurant={"time": "13:30"}), s(restaurant={"time": "13:31"}), 0, 0, 0),
    ("one digit of ten: ratio is exactly 90, but it is another number",
     s(profile={"phonenumber": "3703180482"}), s(profile={"phonenumber": "3703180483"}), 0, 0, 0),
    ("leading zero of a time: fuzzy compares digits 0315 with 315; field strips one zero",
     s(train={"leaveat": "03:15"}), s(train={"leaveat": "3:15"}), 0, 0, 1),
    ("space before am: fuzzy ratio 2*6/13 = 92.3, same digits; field drops the space",
     s(train={"arriveby": "3:02 am"}), s(train={"arriveby": "3:02am"}), 0, 1, 1),
    ("24 hours against 12 hours: nobody converts", s(train={"arriveby": "15:02"}),
     s(train={"arriveby": "3:02 pm"}), 0, 0, 0),
    ("ampersand: 24 letters shared of 27 and 25, 48/52 = 92.3; field writes and",
     s(attraction={"name": "holy trinity and all saints"}),
     s(attraction={"name": "holy trinity & all saints"}), 0, 1, 1),
    ("bed and breakfast: field writes b and b; ratio of 'a b and b' to it far below 90",
     s(taxi={"departure": "a b and b"}), s(taxi={"departure": "a bed and breakfast"}), 0, 0, 1),
    ("guest house: 2*10/21 = 95.2; field has one word for it",
     s(hotel={"type": "guesthouse", "area": "east"}),
     s(hotel={"type": "guest house", "area": "east"}), 0, 1, 1),
    ("swimming pool: 2*12/25 = 96; field maps it", s(attraction={"type": "swimmingpool"}),
     s(attraction={"type": "swimming pool"}), 0, 1, 1),
    ("free parking means yes to the field only", s(hotel={"parking": "yes"}),
     s(hotel={"parking": "free"}), 0, 0, 1),
    ("apostrophes vanish in the field; ratio 2*14/29 = 96.6",
     s(attraction={"name": "christs college"}), s(attraction={"name": "christ's college"}),
     0, 1, 1),
    ("canonical venue table of the field (the list of taxi places has no such name: unsnapped)",
     s(taxi={"departure": "caffe uno"}), s(taxi={"departure": "cafe uno"}), 0, 1, 1),
    ("canonical venue, far apart in letters: ratio(junction theatre, the junction) < 90",
     s(taxi={"departure": "junction theatre"}), s(taxi={"departure": "the junction"}), 0, 0, 1),
    ("slot 'price range' is 2*10/21 = 0.95 like pricerange once spaces go: renamed, or the same",
     s(hotel={"pricerange": "cheap"}), s(hotel={"price range": "cheap"}), 0, 0, 1),
    ("slot 'dest': 2*4/15 = 0.53 of destination, not above 0.7 of anything: dropped, a deletion",
     s(taxi={"destination": "mumford theatre"}), s(taxi={"dest": "mumford theatre"}), 0, 0, 0),
    ("slot 'starz': 2*4/10 = 0.8 > 0.7: the field renames it", s(hotel={"stars": "4"}),
     s(hotel={"starz": "4"}), 0, 0, 1),
    ("slot 'colour' resembles nothing: the field drops it, and what is left is right",
     s(hotel={"stars": "4"}), s(hotel={"stars": "4", "colour": "red"}), 0, 0, 1),
    ("unknown domain bus: the field drops it", s(hotel={"stars": "4"}),
     s(hotel={"stars": "4"}, bus={"day": "monday"}), 0, 0, 1),
    ("the field strips book from gold and prediction", s(restaurant={"bookpeople": "4"}),
     s(restaurant={"people": "4"}), 0, 0, 1),
    ("ASR 'mom for the theater': best of two destinations is mumford theatre; ratio below 90",
     s(taxi={"destination": "mumford theatre"}), s(taxi={"destination": "mom for the theater"}),
     0, 0, 1),
]  # fmt: skip


def refs(*golds, name="d1"):
    return {name: [{"state": g, "text": "hello", "turn": 2 * i} for i, g in enumerate(golds)]}


def preds(*states, name="d1"):
    return {name: [{"active_domains": [], "state": p} for p in states]}


@pytest.mark.parametrize("why,gold,predicted,exact,fuzzy,field", CASES, ids=[c[0] for c in CASES])
def test_hand_worked_turns(why, gold, predicted, exact, fuzzy, field):
    for mode, right in (("exact", exact), ("fuzzy", fuzzy), ("field", field)):
        scores = jga.score(refs(gold), preds(predicted), mode, ontology=VALUES)
        assert scores.joint_goal_accuracy.value == 100 * right, (mode, why)


def test_there_are_enough_hand_worked_cases():
    assert len(CASES) >= 20 and len({c[0] for c in CASES}) == len(CASES)


def test_slot_counts_by_hand():
    # gold: area, stars, food (3). predicted: area right, stars wrong (sub), day extra (ins); food
    # missing (del). SER = 3/3; P = 1/3, R = 1/3, F1 = 2*1/(3+3).
    gold = s(hotel={"area": "east", "stars": "4"}, restaurant={"food": "thai"})
    got = s(hotel={"area": "east", "stars": "3", "day": "monday"})
    scores = jga.score(refs(gold), preds(got))
    c = scores.slots
    assert (c.gold, c.predicted, c.matched) == (3, 3, 1)
    assert (c.substitutions, c.insertions, c.deletions) == (1, 1, 1)
    assert scores.slot_error_rate.value == pytest.approx(100)
    assert c.precision == c.recall == scores.slot_f1.value == pytest.approx(100 / 3)
    assert scores.by_slot["hotel-stars"].confusions == [("4", "3", 1)]
    assert scores.by_slot["restaurant-food"].slots.deletions == 1
    assert scores.slot_error_rate.low is None  # one dialogue has no interval


def test_field_precision_is_nearly_blind_but_its_error_rate_is_not():
    # partial ratio of east and west is 75 > 0.95, so it "matches"; the error rate counts it.
    gold, got = s(hotel={"area": "east"}), s(hotel={"area": "west"})
    scores = jga.score(refs(gold), preds(got), "field")
    assert scores.slot_f1.value == 100 and scores.slot_error_rate.value == 100
    assert jga.score(refs(gold), preds(got)).slot_f1.value == 0


def test_by_domain_and_turn_number():
    golds = [s(hotel={"area": "east"}), s(hotel={"area": "east"}, taxi={"leaveat": "1:00"}), {}]
    got = [s(hotel={"area": "east"}), s(hotel={"area": "west"}, taxi={"leaveat": "1:00"}),
           s(train={"day": "monday"})]  # fmt: skip
    scores = jga.score(refs(*golds), preds(*got))
    domains = {
        d: (x.joint_goal_accuracy.value, x.joint_goal_accuracy.count)
        for d, x in scores.by_domain.items()
    }
    # hotel in turns 1 (right) and 2 (wrong); taxi in turn 2; train only as an insertion in turn 3.
    assert domains == {"hotel": (50, 2), "taxi": (100, 1), "train": (0, 1)}
    assert [scores.by_turn[n].value for n in (1, 2, 3)] == [100, 0, 0]


def test_missing_turns_are_wrong_in_exact_and_left_out_in_field():
    golds = refs({}, s(hotel={"area": "east"})) | refs({}, name="d2")
    got = preds({})  # d1 turn 1 only
    for mode in ("exact", "fuzzy"):
        scores = jga.score(golds, got, mode)
        assert (scores.turns, scores.missing_turns, scores.missing_dialogues) == (3, 2, 1)
        assert scores.joint_goal_accuracy.value == pytest.approx(100 / 3)
        assert scores.slots.deletions == 1
    field = jga.score(golds, got, "field")
    assert (field.turns, field.missing_turns, field.joint_goal_accuracy.value) == (1, 2, 100)


def test_none_is_a_missing_turn_and_json_endings_are_ignored():
    golds = {"MUL1.json": refs({}, {})["d1"]}
    scores = jga.score(golds, {"MUL1": [None, {"state": {}}]})
    assert (scores.missing_turns, scores.joint_goal_accuracy.value) == (1, 50)


def test_unreadable_and_transcripts_are_counted():
    golds = refs({}, {}, {})
    got = {"d1": [{"state": {}, "readable": False, "label": "Hello!"}, {"state": {}, "label": "a"},
                  {"state": {}, "readable": True}]}  # fmt: skip
    scores = jga.score(golds, got)
    assert scores.unreadable == 1
    assert scores.word_errors["words"] == 2 and scores.word_errors["substitutions"] == 1
    assert jga.score(golds, preds({}, {}, {})).word_errors is None


@pytest.mark.parametrize(
    "predictions,expected",
    [
        ({"other": []}, "no such dialogue"),
        (preds({}, {}), "2 predictions for 1"),
        ({"d1": {"state": {}}}, "expected a list"),
        ({"d1": [{"states": {}}]}, "no state object"),
        (preds({"hotel": ["east"]}), "hotel holds no object"),
        (preds({"hotel": {"stars": 4}}), "hotel-stars is 4"),
        ([], "JSON object"),
    ],
)
def test_unusable_predictions_are_named(predictions, expected):
    with pytest.raises(BadInput, match=expected):
        jga.score(refs({}), predictions)


def test_unknown_mode():
    with pytest.raises(ValueError, match="exakt"):
        jga.score(refs({}), preds({}), "exakt")


def test_references_take_annotated_user_turns_only():
    east = s(hotel={"area": "east"})
    turns = (Turn("user", "hi", state={}), Turn("agent", "hello"), Turn("user", "thanks"),
             Turn("agent", "bye"), Turn("user", "east", state=east))  # fmt: skip
    one = Dialogue("a", "corpus", "dev", turns)
    got = jga.references([one, Dialogue("b", "corpus", "dev", turns[1:4])])
    assert got == {"a": [{"state": {}, "text": "hi", "turn": 0},
                         {"state": east, "text": "east", "turn": 4}]}  # fmt: skip
    with pytest.raises(BadInput, match="twice"):
        jga.references([one, one])
    assert jga.score(got, jga.always_empty(got)).joint_goal_accuracy.value == 50


def test_nothing_to_score():
    for mode in jga.MODES:
        scores = jga.score({}, {}, mode)
        assert scores.joint_goal_accuracy.value is None and scores.turns == 0
        assert Scores.from_json(scores.to_json()) == scores
        assert jga.table(scores)


def test_scores_survive_json_and_print():
    golds = {f"d{i}": refs({}, s(hotel={"area": "east"}))["d1"] for i in range(4)}
    got = {f"d{i}": preds({}, s(hotel={"area": "w" * (i % 2) + "east"}))["d1"] for i in range(4)}
    scores = jga.score(golds, got, "fuzzy", ontology=VALUES)
    assert scores.ontology == "hand-made" and scores.threshold == 90
    assert Scores.from_json(scores.to_json()) == scores
    low, high = scores.joint_goal_accuracy.low, scores.joint_goal_accuracy.high
    assert 50 <= low < 75 < high <= 100 and scores.joint_goal_accuracy.value == 75
    assert jga.score(golds, got, "fuzzy").joint_goal_accuracy == scores.joint_goal_accuracy
    for text in ("", "{}", "[1]", json.dumps({"slots": 3})):
        with pytest.raises(BadInput, match="scores"):
            Scores.from_json(text, "scores.json")


NAMES = [(d, slot) for d, slots in field_scorer.SPOKENWOZ_SCHEMA.items() for slot in slots]
VALUE = st.text(alphabet="abc xyz019:&'", min_size=1, max_size=12)


@st.composite
def states(draw):
    out = {}
    for d, slot in draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True)):
        out.setdefault(d, {})[slot] = draw(VALUE)
    return out


corpora = st.dictionaries(
    st.sampled_from([f"d{i}" for i in range(5)]), st.lists(states(), min_size=1, max_size=4),
    max_size=4,
)  # fmt: skip


def listed(golds):
    values = {}
    for turns in golds.values():
        for state in turns:
            for d, slots in state.items():
                for slot, v in slots.items():
                    values.setdefault((d, slot), []).append(v)
    return Ontology("gold", {k: tuple(v) for k, v in values.items()})


@settings(max_examples=60, deadline=None)
@given(corpora, st.sampled_from(jga.MODES))
def test_gold_against_gold_is_right(golds, mode):
    # field: with every gold value in the list, as the published lists have it.
    references = {n: refs(*turns)["d1"] for n, turns in golds.items()}
    predictions = {n: preds(*turns)["d1"] for n, turns in golds.items()}
    for values in (None, listed(golds)):
        scores = jga.score(references, predictions, mode, ontology=values, resamples=20)
        assert scores.joint_goal_accuracy.value == (100 if golds else None)
        assert scores.slots.errors == 0 and scores.slots.matched == scores.slots.gold


@settings(max_examples=40, deadline=None)
@given(corpora, corpora, st.sampled_from(jga.MODES), st.randoms(use_true_random=False))
def test_order_does_not_matter(golds, answers, mode, order: random.Random):
    references = {n: refs(*turns)["d1"] for n, turns in golds.items()}
    predictions = {n: preds(*answers.get(n, [])[: len(t)])["d1"] for n, t in golds.items()}

    def shuffled(mapping):
        items = list(mapping.items())
        order.shuffle(items)
        return dict(items)

    def deep(state):
        return shuffled({d: shuffled(slots) for d, slots in state.items()})

    def run(r, p):
        return jga.score(r, p, mode, ontology=VALUES, resamples=20)

    mixed_p = {n: [t | {"state": deep(t["state"])} for t in p] for n, p in predictions.items()}
    mixed_r = {n: [t | {"state": deep(t["state"])} for t in r] for n, r in references.items()}
    a, b = run(references, predictions), run(shuffled(mixed_r), shuffled(mixed_p))
    assert a.slots == b.slots and a.by_slot == b.by_slot
    assert a.joint_goal_accuracy.value == b.joint_goal_accuracy.value
    assert {n: r.value for n, r in a.by_turn.items()} == {n: r.value for n, r in b.by_turn.items()}


@settings(max_examples=60, deadline=None)
@given(corpora, corpora)
def test_counts_add_up(golds, answers):
    references = {n: refs(*turns)["d1"] for n, turns in golds.items()}
    predictions = {n: preds(*answers.get(n, [])[: len(t)])["d1"] for n, t in golds.items()}
    c = jga.score(references, predictions, resamples=20).slots
    assert c.gold == c.matched + c.substitutions + c.deletions
    assert c.predicted == c.matched + c.substitutions + c.insertions


def test_ontology_files(tmp_path):
    flat = tmp_path / "flat.json"
    flat.write_text(json.dumps({"hotel-semi-area": ["east", "centre|west", "none", ""],
                                "hotel-book-day": ["monday"]}))  # fmt: skip
    got = ontology.load(flat)
    assert got.values == {("hotel", "area"): ("east", "centre", "west"),
                          ("hotel", "day"): ("monday",)}  # fmt: skip
    nested = tmp_path / "nested.json"
    nested.write_text(json.dumps({"hotel": {"price range": ["cheap"]}}))
    assert ontology.load(nested).values == {("hotel", "pricerange"): ("cheap",)}
    for bad in ("[1]", "{", '{"hotel": 3}', '{"hotel-area": "east"}'):
        flat.write_text(bad)
        with pytest.raises(BadInput, match=r"flat\.json"):
            ontology.load(flat)
    with pytest.raises(BadInput, match="nowhere"):
        ontology.load(tmp_path / "nowhere.json")
    turns = (Turn("user", "x", state=s(hotel={"book_day": "monday"})),)
    made = ontology.from_dialogues([Dialogue("a", "c", "train", turns)], "train states")
    assert made == Ontology("train states", {("hotel", "day"): ("monday",)})
    assert ontology.from_values({"hotel": {"book_day": ["monday"], "x": []}}, made.name) == made


def test_the_snapper_takes_the_first_of_equals_and_leaves_what_it_has_no_list_for():
    snap = field_scorer.Snapper(Ontology("x", {("a", "name"): ("bb!", "bb", "cc")}))
    assert snap("a", "name", "BB") == "bb"  # listed but for case
    assert snap("a", "name", "bb?") == "bb!"  # both score 100 without punctuation
    assert snap("a", "name", "???") == "bb!"  # nothing to compare: the first value
    assert snap("a", "area", "east") == "east" and snap("a", "stars", "4") == "4"


def test_schema_cleaning_keeps_the_rightly_named_slot():
    schema = {"hotel": ["stars", "area"]}
    got = field_scorer.clean(
        s(hotel={"starz": "1", "stars": "4", "xx": "?"}, bus={"a": "b"}), schema
    )
    assert got == s(hotel={"stars": "4"})
    assert field_scorer.clean(s(hotel={"book_area": "east"}), schema) == s(hotel={"area": "east"})
