"""Simulated task-oriented dialogues: an agenda-based user and a rule-based agent over a schema.

The user draws a goal (one to three domains, values for some of their slots), keeps what is not
yet said on an agenda and tells it turn by turn (agenda-based simulation: Schatzmann et al. 2007).
The agent asks, confirms and proposes. The user also corrects itself, refers back ("on the same
day") and has no preference ("dontcare"). Text is what is *spoken*: lower case, no digits, no
punctuation but the apostrophe, so that a transcript is word for word what a synthesiser says;
the state holds the canonical values ("four of us" -> people=4).

A schema is a JSON file (`simulated_schema.json` is the example):

    {"name": corpus name,
     "types": {type: {canonical value: [spoken form, ...]}},
     "domains": {domain: {"nouns": [...], "done": [what the agent says when it is booked],
        "open", "open_next" (optional): own ways to open the domain, with {np},
        "different" (optional): [[slot, slot]] that may not hold the same value,
        "slots": {slot: {"type", "label" (spoken name), "phrases": ["in the {v}"], "request":
           [the agent's question], and optionally "adjectives" (said before the noun), "same"
           (said for a value known from another domain), "book" (belongs to the booking),
           "dontcare" (may be left open), "clause" (the value is no noun)}}},
     "articles": false (optional): nouns and labels bring theirs, as in German
     "and" (optional): what joins phrases}

The wording common to all domains stands in `simulated_phrases.json`; a schema may bring its own
under "phrases". A dialogue depends on (schema, seed, split, index) and on nothing else.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from speechdst.data.corpora import common
from speechdst.data.corpora.simulated_schema import load_schema
from speechdst.data.dialogue import BadInput, Dialogue, State, Turn

SPLITS = ("train", "dev", "test")
DIALOGUES = {"train": 600, "dev": 60, "test": 60}


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """How user and agent behave; probabilities unless it says otherwise."""

    turns: tuple[int, int] = (3, 6)  # user turns of a dialogue, fewest and most
    words: tuple[int, int] = (4, 14)  # words of a user turn, aimed at
    domain_counts: tuple[float, ...] = (0.5, 0.4, 0.1)  # of goals with 1, 2, 3 domains
    slots_per_turn: tuple[float, ...] = (0.4, 0.45, 0.15)  # of turns that tell 1, 2, 3 slots
    correction: float = 0.2  # a domain where one value is told wrong and corrected later
    repair: float = 0.05  # a value corrected within the turn
    dontcare: float = 0.08  # a slot without preference, where the schema allows it
    same: float = 0.3  # a value taken over from another domain, where the schema allows it
    proposal: float = 0.3  # the agent proposes a value instead of asking for it
    right_proposal: float = 0.7  # ... the one that the user wants
    confirm: float = 0.15  # the agent reads back what it has understood
    filler: float = 0.12  # the user's turn starts with "um", "well" ...
    restart: float = 0.0  # the user breaks off after a few words and begins again
    closing: float = 0.35  # the dialogue ends with a turn of thanks


def schema(root: Path | None = None, schema: str | Path | None = None,
           language: str = "en") -> dict[str, list[str]]:
    """Domain -> slots of a schema file; `root` is not used."""
    return {d: list(spec["slots"]) for d, spec in load_schema(schema, language)["domains"].items()}


def read(
    root: Path | None = None,
    split: str = "train",
    *,
    seed: int = 0,
    dialogues: int | None = None,
    first: int = 0,
    schema: str | Path | None = None,
    language: str = "en",
    domains: list[str] | None = None,
    values: int | None = None,
    **behaviour,
) -> Iterator[Dialogue]:
    """Simulates the dialogues of `split`, the same ones every time; `root` is not used.

    `dialogues`: how many (None: 600, 60, 60), from number `first` on. `domains`: a subset of the
    schema's. `values`: only the first so many of every type. `language`: whose bundled schema it is
    where `schema` names none ("en", "de"). `behaviour`: fields of `Behaviour`. Dialogue i does not
    depend on how many are asked for.
    Raises `BadInput` for an unknown split or domain, for less than two values, or for a broken
    schema file.
    """
    common.known_split("simulated", split, SPLITS)
    table = load_schema(schema, language)
    domains = list(domains or table["domains"])
    if unknown := sorted(set(domains) - set(table["domains"])):
        raise BadInput(f"unknown domains {unknown}", record=table["name"],
                       mend=f"the schema has {sorted(table['domains'])}")  # fmt: skip
    if values is not None:
        if values < 2:
            raise BadInput(f"{values} values of every type", record=table["name"],
                           field="values", mend="at least two: users change their minds")
        table = table | {"types": {name: dict(itertools.islice(forms.items(), values))
                                   for name, forms in table["types"].items()}}
    habits = Behaviour(**behaviour)
    count = DIALOGUES[split] if dialogues is None else dialogues
    for index in range(first, first + count):
        # Seeding with a string is defined by its SHA-512, alike in every Python version.
        rng = random.Random(f"{table['name']}/{seed}/{split}/{index}")
        yield Dialogue(
            id=f"{split}-{seed}-{index:05d}",
            corpus=table["name"],
            split=split,
            turns=tuple(_Simulation(table, domains, habits, rng).run()),
        )


@dataclasses.dataclass(frozen=True)
class _Item:
    """Something the user has to tell; `how` is tell, same, dontcare or correct."""

    slot: str
    value: str
    how: str = "tell"


class _Simulation:
    """One dialogue in the making."""

    def __init__(self, table: dict, domains: list[str], habits: Behaviour, rng: random.Random):
        self.table, self.domains, self.habits, self.rng = table, domains, habits, rng
        self.phrases, self.glue = table["phrases"], f" {table.get('and', 'and')} "
        self.state: State = {}
        self.goal: State = {}
        self.turns: list[Turn] = []
        self.domain = ""

    def run(self) -> list[Turn]:
        habits, rng = self.habits, self.rng
        left = rng.randint(*habits.turns)
        closing = left >= 3 and rng.random() < habits.closing
        left -= closing
        most = min(len(habits.domain_counts), len(self.domains), max(1, left // 2))
        count = rng.choices(range(1, most + 1), habits.domain_counts[:most])[0]
        chosen = rng.sample(self.domains, count)
        spans = [left // count + (i < left % count) for i in range(count)]
        rng.shuffle(spans)
        for number, (self.domain, turns) in enumerate(zip(chosen, spans, strict=True)):
            self.spec = self.table["domains"][self.domain]
            groups = self._agenda(turns)
            if number:
                self._agent(self._fill("agent_done", done=rng.choice(self.done)))
            self._user(lambda g=groups[0], n=number: self._open(g, n), groups[0])
            for items in groups[1:]:
                self._exchange(items)
            self.done = self.spec["done"]
        if closing:
            self._agent(self._fill("agent_done", done=rng.choice(self.done)))
            self._user(lambda: self._fill("close"), [])
            self._agent(self._fill("agent_close"))
        else:
            self._agent(self._fill("agent_finish", done=rng.choice(self.done)))
        return self.turns

    # The goal and its agenda.

    def _agenda(self, turns: int) -> list[list[_Item]]:
        """What is told in each of `turns` user turns of the current domain; the first tells."""
        rng, habits, slots = self.rng, self.habits, self.spec["slots"]
        weights = habits.slots_per_turn
        sizes = rng.choices(range(1, len(weights) + 1), weights, k=turns)
        names = rng.sample(list(slots), min(sum(sizes), len(slots)))
        names.sort(key=lambda s: bool(slots[s].get("book")))  # first what to find, then to book
        items = [self._draw(name) for name in names]
        groups: list[list[_Item]] = [[] for _ in range(turns)]
        # Every turn gets one item while there are some, then up to its size.
        quota = [1] * turns
        for i, size in enumerate(sizes):
            quota[i] += min(size - 1, max(0, len(items) - sum(quota)))
        for group, size in zip(groups, quota, strict=True):
            while items and len(group) < size:
                group.append(items.pop(0))
        told = [(t, i) for t in range(turns - 1) for i in groups[t] if i.how == "tell"]
        if told and rng.random() < habits.correction:
            turn, item = rng.choice(told)
            groups[turn][groups[turn].index(item)] = _Item(item.slot, self._other(item))
            later = rng.randrange(turn + 1, turns)
            groups[later] = [_Item(item.slot, item.value, "correct"), *groups[later][1:]]
        return groups

    def _draw(self, slot: str) -> _Item:
        rng, spec = self.rng, self.spec["slots"][slot]
        goal = self.goal.setdefault(self.domain, {})
        if spec.get("dontcare") and rng.random() < self.habits.dontcare:
            goal[slot] = "dontcare"
            return _Item(slot, "dontcare", "dontcare")
        known = {
            self.state[d][slot]
            for d in self.state
            if d != self.domain
            and self.state[d].get(slot, "dontcare") != "dontcare"
            and self.table["domains"][d]["slots"][slot]["type"] == spec["type"]
        }
        if len(known) == 1 and spec.get("same") and rng.random() < self.habits.same:
            goal[slot] = known.pop()
            return _Item(slot, goal[slot], "same")
        pairs = [pair for pair in self.spec.get("different", ()) if slot in pair]
        taken = {goal.get(s) for pair in pairs for s in pair if s != slot}
        goal[slot] = rng.choice([v for v in self.table["types"][spec["type"]] if v not in taken])
        return _Item(slot, goal[slot])

    def _other(self, item: _Item) -> str:
        """A wrong value for a slot, one that no other slot of the domain has."""
        taken = {item.value, *self.goal[self.domain].values()}
        values = list(self.table["types"][self.spec["slots"][item.slot]["type"]])
        free = [v for v in values if v not in taken] or [v for v in values if v != item.value]
        return self.rng.choice(free)

    # Turns.

    def _agent(self, text: str) -> None:
        self.turns.append(Turn("agent", text))

    def _user(self, render, items: list[_Item]) -> None:
        """Adds a user turn: the first of some renderings whose length fits, or the nearest.

        Where all are too long, the last of `items` is left unsaid.
        """
        low, high = self.habits.words
        while True:
            found = []
            for _ in range(12):
                text = self._restarted(render())
                if self.rng.random() < self.habits.filler:
                    text = f"{self._fill('filler')} {text}"
                words = len(text.split())
                found.append((max(low - words, words - high, 0), text))
                if not found[-1][0]:
                    break
            text = min(found, key=lambda pair: pair[0])[1]
            if len(items) < 2 or len(text.split()) <= high:
                break
            items.pop()
        for item in items:
            self.state.setdefault(self.domain, {})[item.slot] = item.value
        state = {d: dict(slots) for d, slots in self.state.items()}
        self.turns.append(Turn("user", text, state=state))

    def _restarted(self, text: str) -> str:
        words = text.split()
        # Nothing is drawn where nobody restarts, so that older dialogues stay what they were.
        if not self.habits.restart or len(words) < 3 or self.rng.random() >= self.habits.restart:
            return text
        cut = " ".join(words[: self.rng.randint(1, min(4, len(words) - 1))])
        return self._fill("restart", cut=cut, text=text)

    def _exchange(self, items: list[_Item]) -> None:
        """An agent's turn and the user's answer to it, which tells `items`."""
        rng, habits = self.rng, self.habits
        known = {s: v for s, v in self.state[self.domain].items() if v != "dontcare"}
        if items and items[0].how == "correct" and items[0].slot not in known:
            items[0] = _Item(items[0].slot, items[0].value)  # its wrong value was left unsaid
        first = items[0] if items else None
        if first is None or first.how == "correct" or rng.random() < habits.confirm:
            self._agent(self._read_back(known, first))
            if first is None:
                self._user(lambda: self._fill("affirm"), items)
            elif first.how == "correct":
                self._user(lambda: self._correct(items), items)
            else:
                self._user(lambda: self._more("accept_more", items), items)
        elif first.how == "tell" and rng.random() < habits.proposal:
            self._propose(items)
        elif rng.random() < 0.2:
            self._agent(self._fill("agent_any", noun=rng.choice(self.spec["nouns"])))
            self._user(lambda: self._more("inform", items), items)
        else:
            self._agent(rng.choice(self.spec["slots"][first.slot]["request"]))
            self._user(lambda: self._more("answer", items), items)

    def _propose(self, items: list[_Item]) -> None:
        first = items[0]
        right = self.rng.random() < self.habits.right_proposal
        value = first.value if right else self._other(first)
        book = "_book" if self.spec["slots"][first.slot].get("book") else ""
        phrase = self._phrase(_Item(first.slot, value))
        self._agent(self._fill(f"agent_propose{book}", p=phrase))

        def answer() -> str:
            if not right:
                return self._more("reject", items)
            return self._more("accept_more", items[1:]) if items[1:] else self._fill("accept")

        self._user(answer, items)

    # Wording.

    def _fill(self, key: str, **values: str) -> str:
        return self.rng.choice(self.phrases[key]).format(**values)

    def _spoken(self, item: _Item) -> str:
        return self.rng.choice(
            self.table["types"][self.spec["slots"][item.slot]["type"]][item.value]
        )

    def _phrase(self, item: _Item) -> str:
        spec = self.spec["slots"][item.slot]
        if item.how == "same":
            return self.rng.choice(spec["same"])
        return self.rng.choice(spec["phrases"]).format(v=self._spoken(item))

    def _phrases(self, items: list[_Item]) -> tuple[str, str]:
        """The items that have a value as one phrase, and the "any area is fine" of the others."""
        told, rng = [], self.rng
        for item in items:
            if item.how == "dontcare":
                continue
            phrase = self._phrase(item)
            if item.how == "tell" and rng.random() < self.habits.repair:
                old = self._phrase(_Item(item.slot, self._other(item)))
                phrase = self._fill("repair", old=old, new=phrase)
            told.append(phrase)
        glue = self.glue if rng.random() < 0.4 else " "
        open_ = [
            self._fill("dontcare", label=self.spec["slots"][i.slot]["label"])
            for i in items
            if i.how == "dontcare"
        ]
        return glue.join(told), self.glue.join(open_)

    def _open(self, items: list[_Item], number: int) -> str:
        """The first turn of a domain, with its noun: "i need a cheap hotel in the north"."""
        rng, slots = self.rng, self.spec["slots"]
        before, after = [], []
        for item in items:
            adjectives = slots[item.slot].get("adjectives")
            if adjectives and item.how == "tell" and rng.random() < 0.5:
                before.append(rng.choice(adjectives).format(v=self._spoken(item)))
            else:
                after.append(item)
        noun = " ".join([*before, rng.choice(self.spec["nouns"])])
        phrase, open_ = self._phrases(after)
        # Nouns of other languages bring their article.
        article = ("an" if noun[0] in "aeio" else "a") if self.table.get("articles", True) else ""
        np = " ".join(part for part in (article, noun, phrase) if part)
        key = "open_next" if number else "open"
        text = rng.choice(self.spec.get(key) or self.phrases[key]).format(np=np)
        return f"{text}{self.glue}{open_}" if open_ else text

    def _more(self, key: str, items: list[_Item]) -> str:
        phrase, open_ = self._phrases(items)
        if not phrase:
            return open_
        book = "_book" if self.spec["slots"][items[0].slot].get("book") else ""
        text = self._fill(key + book if key + book in self.phrases else key, p=phrase)
        return f"{text}{self.glue}{open_}" if open_ else text

    def _correct(self, items: list[_Item]) -> str:
        first, rest = items[0], items[1:]
        spec = self.spec["slots"][first.slot]
        if not spec.get("clause") and self.rng.random() < 0.4:
            text = self._fill("correct_label", label=spec["label"], v=self._spoken(first))
        else:
            text = self._fill("correct", p=self._phrase(first))
        phrase, open_ = self._phrases(rest)
        return self.glue.join(part for part in (text, phrase, open_) if part)

    def _read_back(self, known: dict[str, str], first: _Item | None) -> str:
        """The agent confirms up to two slots, among them the one that is about to be corrected."""
        rng = self.rng
        slots = rng.sample(sorted(known), min(len(known), 2))
        if first is not None and first.how == "correct" and first.slot not in slots:
            slots = [first.slot, *slots[:1]]
        if not slots:
            return self._fill("agent_any", noun=rng.choice(self.spec["nouns"]))
        phrase = " ".join(self._phrase(_Item(s, known[s])) for s in slots)
        return self._fill("agent_confirm", noun=rng.choice(self.spec["nouns"]), p=phrase)
