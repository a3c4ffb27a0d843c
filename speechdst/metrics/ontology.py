"""Lists of the values a slot can take, for scorers that look a value up before comparing it.

Scores depend on the list (one made from train + dev + test values is optimistic), so an `Ontology`
carries its name, and the name is printed beside the scores.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from speechdst.data.dialogue import BadInput, Dialogue
from speechdst.metrics.normalize import slot_name

_UNFILLED = ("", "none", "not mentioned")


@dataclasses.dataclass(frozen=True)
class Ontology:
    """`values[domain, slot]`: the values in a fixed order, each once; `name` says where from."""

    name: str
    values: dict[tuple[str, str], tuple[str, ...]]


def from_dialogues(dialogues: Iterable[Dialogue], name: str) -> Ontology:
    """Every value in the states of `dialogues` (take the training split)."""
    found: dict[tuple[str, str], set[str]] = {}
    for dialogue in dialogues:
        for _, turn in dialogue.user_turns():
            for domain, slots in turn.state.items():
                for slot, value in slots.items():
                    found.setdefault((domain, slot_name(slot)), set()).add(value)
    return Ontology(name, {key: tuple(sorted(values)) for key, values in found.items()})


def from_values(values: dict[str, dict[str, list[str]]], name: str) -> Ontology:
    """From domain -> slot -> values, as `Prepared.ontology(split)` gives them."""
    return Ontology(
        name,
        {(d, slot_name(s)): tuple(v) for d, slots in values.items() for s, v in slots.items() if v},
    )


def load(path: str | Path) -> Ontology:
    """Reads a corpus's own ontology file.

    Both published forms are read: `{"domain-slot": [value, ...]}` (also `domain-semi-slot`,
    `domain-book-slot`) and `{domain: {slot: [value, ...]}}`. "a|b" counts as two values.
    Raises `BadInput` if the file is neither.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read as an ontology ({error})", file=path) from error
    if not isinstance(raw, dict):
        raise BadInput("expected a JSON object of slots", file=path)
    found: dict[tuple[str, str], dict[str, None]] = {}
    for key, content in raw.items():
        if isinstance(content, dict):
            pairs = [((key.lower(), slot_name(slot)), values) for slot, values in content.items()]
        else:
            parts = key.lower().split("-")
            if len(parts) < 2:
                raise BadInput(f"key {key!r} is no domain-slot", file=path, record=key)
            pairs = [((parts[0], slot_name(parts[-1])), content)]
        for name, values in pairs:
            if not isinstance(values, list):
                raise BadInput("expected a list of values", file=path, record=key)
            kept = found.setdefault(name, {})
            for value in values:
                for one in str(value).split("|"):
                    if one.strip().lower() not in _UNFILLED:
                        kept[one] = None  # a dict keeps the file's order, which breaks ties
    return Ontology(path.name, {key: tuple(values) for key, values in found.items() if values})
