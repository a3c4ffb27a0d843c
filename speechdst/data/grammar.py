"""Grammars of spoken commands: what may be said, and which intent and slots it means.

Read from a folder's one .yaml file, `context: expressions: {intent: [expression, ...]}, slots:
{type: [value, ...]}`. In an expression `[a, b]` is one of a and b, `$type:name` a value of a slot,
all else is said as it stands.
"""

import dataclasses
import itertools
import random
import re
from pathlib import Path

import yaml

from speechdst.data.corpora import common
from speechdst.data.dialogue import BadInput

_PART = re.compile(r"\[([^\][]*)\]|\$(\w+):(\w+)|([\w']+)|(\S)")

Part = tuple[str, ...] | str
"""Of an expression: what may be said in its place, or the name of the slot whose value stands
there."""


@dataclasses.dataclass(frozen=True)
class Grammar:
    """`expressions`: intent -> its expressions as parts; `values`: slot -> what it may be, in
    lower case."""

    expressions: dict[str, list[tuple[Part, ...]]]
    values: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, root: Path) -> "Grammar":
        """Raises `BadInput` if there is no grammar in the folder `root`, or a broken one."""
        found = common.listed(root, "*.yaml")
        if len(found) != 1:
            raise BadInput(f"{len(found)} .yaml files, expected the grammar alone", file=root)
        path = found[0]
        try:
            context = yaml.safe_load(path.read_text("utf-8"))["context"]
            types = {str(name): tuple(spoken(v) for v in values)
                     for name, values in context["slots"].items()}
            written = {str(intent): tuple(map(str, lines))
                       for intent, lines in context["expressions"].items()}
        except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError,
                AttributeError) as error:
            raise BadInput(f"not a grammar ({type(error).__name__}: {error})", file=path,
                           mend="context: {expressions: {intent: [...]}, slots: {type: [...]}}"
                           ) from error  # fmt: skip
        values: dict[str, tuple[str, ...]] = {}
        return cls({intent.lower(): [_parts(line, types, values, path) for line in lines]
                    for intent, lines in written.items()}, values)

    @classmethod
    def of(cls, plain: dict) -> "Grammar":
        """One that `dataclasses.asdict` made plain, and JSON lists of its tuples."""
        part = lambda p: p if isinstance(p, str) else tuple(p)
        return cls({intent: [tuple(map(part, parts)) for parts in lines]
                    for intent, lines in plain["expressions"].items()},
                   {name: tuple(values) for name, values in plain["values"].items()})

    def said(self, part: Part) -> tuple[str, ...]:
        """All that may be said in its place."""
        return self.values[part] if isinstance(part, str) else part

    def wordings(self, intent: str, slots: dict[str, str]) -> list[str]:
        """All that may be said for this intent with these slots."""
        said = [itertools.product(*([slots[p]] if isinstance(p, str) else p for p in parts))
                for parts in self.expressions.get(intent, ())
                if {p for p in parts if isinstance(p, str)} == set(slots)]
        return list(dict.fromkeys(" ".join(words) for one in said for words in one))

    def draw(self, rng: random.Random) -> tuple[str, dict[str, str], str]:
        """An intent, its slots and a wording: first which slots, then their values and an
        expression that has them, each alike likely."""
        intent = rng.choice(sorted(self.expressions))
        by_slots: dict[frozenset, list] = {}
        for parts in self.expressions[intent]:
            by_slots.setdefault(frozenset(p for p in parts if isinstance(p, str)), []).append(parts)
        chosen = rng.choice(sorted(by_slots, key=sorted))
        slots = {name: rng.choice(self.values[name]) for name in sorted(chosen)}
        parts = rng.choice(by_slots[chosen])
        words = [slots[p] if isinstance(p, str) else rng.choice(p) for p in parts]
        return intent, slots, " ".join(words)


def spoken(value) -> str:
    """As it is written in a transcript."""
    return common.transcript(str(value))


def _parts(line: str, types: dict[str, tuple[str, ...]], values: dict[str, tuple[str, ...]],
           path: Path) -> tuple[Part, ...]:
    """The parts of an expression; what its slots may be goes into `values`."""
    parts: list[Part] = []
    for choices, kind, slot, word, other in _PART.findall(line):
        if other or (kind and kind not in types):
            raise BadInput(f"{other or kind!r} in the expression {line!r:.80}", file=path,
                           mend="there are words, [choices] and $type:name of the slots")
        if kind:
            values[slot.lower()] = types[kind]
            parts.append(slot.lower())
        else:
            parts.append(tuple(spoken(c) for c in (choices or word).split(",")))
    return tuple(parts)
