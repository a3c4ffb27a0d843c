"""The field's way with a predicted state: clean its schema, snap its values, normalise, compare.

The protocol of the MultiWOZ/SpokenWOZ evaluation that arXiv 2506.08633 and arXiv 2511.22503 report
("fuzzy" joint goal accuracy). Kept apart from our own comparison so that figures can be set beside
published ones; see `jga.score(mode="field")`.

Where it departs from the published tool: rapidfuzz stands in for fuzzywuzzy (same WRatio, scores
rounded to whole percents as there, first of the best taken; inner roundings may differ by one); a
value that is in the list but for case stays, even if an earlier one ties with it; a "book" prefix
is stripped before the schema is cleaned, so that `book_time` survives; and a slot given by its
right name is not overwritten by one that is renamed to it.
"""

import numpy as np
from rapidfuzz import fuzz, process, utils
from rapidfuzz.distance import Indel

from speechdst.data.dialogue import State
from speechdst.metrics.normalize import field_value, slot_name
from speechdst.metrics.ontology import Ontology

_MULTIWOZ = {
    "restaurant": "area day food name people pricerange time",
    "hotel": "area day internet name parking people pricerange stars stay type",
    "train": "arriveby day departure destination leaveat people",
    "taxi": "arriveby departure destination leaveat",
    "attraction": "area name type",
    "hospital": "department",
}
MULTIWOZ_SCHEMA = {domain: slots.split() for domain, slots in _MULTIWOZ.items()}
SPOKENWOZ_SCHEMA = MULTIWOZ_SCHEMA | {
    "profile": ["email", "idnumber", "name", "phonenumber", "platenumber"]
}
RENAME_ABOVE = 0.7
NOT_SNAPPED = frozenset({"time", "leaveat", "arriveby", "people", "stars"})

Flat = dict[tuple[str, str], str]
"""(domain, slot) -> value."""


def clean(state: State, schema: dict[str, list[str]]) -> State:
    """Drops domains outside `schema`; an unknown slot takes the first allowed name that is more
    than 0.7 similar (Levenshtein sequence ratio), else it is dropped."""
    cleaned: State = {}
    for domain, slots in state.items():
        if domain not in schema:
            continue
        allowed = schema[domain]
        named = {slot_name(slot): value for slot, value in sorted(slots.items())}
        kept = {slot: value for slot, value in named.items() if slot in allowed}
        for slot, value in named.items():
            if slot not in allowed:
                near = (a for a in allowed if Indel.normalized_similarity(slot, a) > RENAME_ABOVE)
                name = next(near, None)
                if name is not None:
                    kept.setdefault(name, value)
        if kept:
            cleaned[domain] = kept
    return cleaned


def normal(state: State) -> Flat:
    """The flattened state with the field's slot names and values."""
    flat = {}
    for domain, slots in state.items():
        for slot, value in sorted(slots.items()):
            name = slot_name(slot)
            flat[domain, name] = field_value(name, value)
    return flat


class Snapper:
    """Replaces a value by the best match among its slot's known values, however bad the match.

    Answers are remembered: a run repeats few distinct values over many turns.
    """

    def __init__(self, ontology: Ontology):
        self._choices = ontology.values
        self._processed: dict[tuple[str, str], list[str]] = {}
        self._exact: dict[tuple[str, str], dict[str, int]] = {}
        self._known: dict[tuple[str, str, str], str] = {}

    def __call__(self, domain: str, slot: str, value: str) -> str:
        if slot in NOT_SNAPPED or (domain, slot) not in self._choices:
            return value
        key = (domain, slot, value)
        if key not in self._known:
            self._known[key] = self._best(domain, slot, value)
        return self._known[key]

    def _best(self, domain: str, slot: str, value: str) -> str:
        at, choices = (domain, slot), self._choices[domain, slot]
        if at not in self._processed:
            self._processed[at] = [utils.default_process(choice) for choice in choices]
            self._exact[at] = {}
            for i, choice in enumerate(choices):
                self._exact[at].setdefault(choice.lower(), i)
        if value.lower() in self._exact[at]:
            return choices[self._exact[at][value.lower()]]
        query = [utils.default_process(value)]
        scores = process.cdist(query, self._processed[at], scorer=fuzz.WRatio)[0]
        return choices[int(np.argmax(np.rint(scores)))]  # argmax: the first of equals

    def state(self, state: State) -> State:
        return {
            domain: {slot: self(domain, slot, value) for slot, value in slots.items()}
            for domain, slots in state.items()
        }


def counts_as_slot_match(prediction: str, gold: str) -> bool:
    """What the tool's slot precision and recall call a match: partial ratio above 0.95 on a scale
    of 0 to 100, so nearly everything matches. Reproduced to be comparable; do not rely on it."""
    return round(fuzz.partial_ratio(prediction, gold)) > 0.95
