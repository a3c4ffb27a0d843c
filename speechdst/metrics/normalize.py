"""Text normalisation before counting: of transcripts, and of slots and values as the field does.

The field's scorer is the MultiWOZ/SpokenWOZ evaluation that goes with arXiv 2506.08633 and arXiv
2511.22503, a descendant of the MultiWOZ evaluation of Nekvinda and Dusek (GEM 2021, MIT licence);
the tables of canonical names below are its facts.
"""

import re
import unicodedata

TIME_SLOTS = frozenset({"time", "arriveby", "leaveat", "arrive", "leave"})
PLACE_SLOTS = frozenset({"name", "destination", "departure"})

# Spellings met in the corpora -> the name the databases use. Keys have lost ' ( ) already.
VENUES = {
    "hotel du vin bistro": "hotel du vin and bistro",
    "the river bar and grill": "the river bar steakhouse and grill",
    "city center b and b": "city center north b and b",
    "acorn house": "acorn guest house",
    "caffee uno": "caffe uno",
    "cafe uno": "caffe uno",
    "rosas": "rosas b and b",
    "restaurant called two two": "restaurant two two",
    "restaurant 2 two": "restaurant two two",
    "restaurant two 2": "restaurant two two",
    "restaurant 2 2": "restaurant two two",
    "restaurant 1 7": "restaurant one seven",
    "restaurant 17": "restaurant one seven",
    "lime house": "limehouse",
    "cityrooms": "cityroomz",
    "whale of time": "whale of a time",
    "huntingdon hotel": "huntingdon marriott hotel",
    "holiday inn exlpress, cambridge": "express by holiday inn cambridge",
    "university hotel": "university arms hotel",
    "arbury guesthouse and lodge": "arbury lodge guesthouse",
    "arbury guesthouse": "arbury lodge guesthouse",
    "bridge house": "bridge guest house",
    "nandos in the city centre": "nandos city centre",
    "broughton gallery": "broughton house gallery",
    "scudamores punt co": "scudamores punting co",
    "cambridge botanic gardens": "cambridge university botanic gardens",
    "the botanical gardens at cambridge university": "cambridge university botanic gardens",
    "the junction": "junction theatre",
    "trinity street college": "trinity college",
    "christ college": "christs college",
    "christs": "christs college",
    "history of science museum": "whipple museum of the history of science",
    "parkside pools": "parkside swimming pool",
    "cafe jello museum": "cafe jello gallery",
}
TYPES = {
    "swimming pool": "swimmingpool",
    "mutliple sports": "multiple sports",
    "night club": "nightclub",
    "guest house": "guesthouse",
}
FOODS = {
    "eriterean": "mediterranean",
    "brazilian": "portuguese",
    "sea food": "seafood",
    "portugese": "portuguese",
    "modern american": "north american",
    "americas": "north american",
    "intalian": "italian",
    "italain": "italian",
    "asian or oriental": "asian",
    "english": "british",
    "australasian": "australian",
    "gastropod": "gastropub",
    "brutish": "british",
    "bristish": "british",
    "europeon": "european",
}

_DELETED = str.maketrans("", "", "'()’")
_APOSTROPHES = str.maketrans("", "", "'’`")


def transcript(text: str) -> str:
    """For the word error rate: lower case, no punctuation, single spaces ("It's 5-ish." -> "its
    5 ish"). Apostrophes vanish, other punctuation and symbols separate words."""
    text = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    kept = (c if unicodedata.category(c)[0] in "LNM" else " " for c in text)
    return " ".join("".join(kept).split())


def slot_name(slot: str) -> str:
    """The field's slot name: lower case, no spaces, no leading "book" ("book_", "book ").

    The field strips "book" only; the separator goes too here, since MultiWOZ readers write both.
    """
    slot = slot.lower().replace(" ", "")
    stripped = slot.removeprefix("book").lstrip("_-")
    return stripped or slot


def field_value(slot: str, value: str) -> str:
    """The field's form of a value; `slot` as `slot_name` gives it (joint_dst protocol: gold and
    prediction both go through it)."""
    value = value.lower().translate(_DELETED)
    if slot in PLACE_SLOTS:
        value = " ".join(value.replace("&", " and ").split())
        value = value.replace("bed and breakfast", "b and b")
        return VENUES.get(value, value)
    if slot == "type":
        return TYPES.get(value, value)
    if slot == "food":
        value = value.strip()
        return FOODS.get(value, value)
    if slot in ("parking", "internet"):
        return "yes" if value == "free" else value
    if slot in TIME_SLOTS:
        return re.sub(r"\s+(?=[ap]m\b)", "", value).removeprefix("0")
    return value
