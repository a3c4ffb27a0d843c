"""Words or phrases of other corpora in no order: general speech, which tells nothing of anybody's
dialogues.

Published recipes start from a speech encoder and an LLM that have met nearly every word and phrase
of the target corpus in other company. From-scratch models have not; utterances of words, or of
phrases of a few words, drawn one by one give them these, and neither dialogue, slot nor state.
Recognition and repetition are trained on it before the corpora that are compared are touched.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechdst.data import corpora
from speechdst.data.corpora import common
from speechdst.data.dialogue import BadInput, Dialogue, Turn

SPLITS = ("train", "dev", "test")


def schema(root: Path | None = None) -> None:
    """None: there is no state."""
    return None


def lexicon(root: Path, of: Sequence[dict], phrase: int = 1) -> list[str]:
    """The sorted words of the user turns of some corpora, or all their runs of `phrase` words (of a
    shorter turn the whole). `of`: for each its `corpus`, and optionally `root` (else `root`),
    `split` ("train") and options of its reader.

    Raises `BadInput` if a corpus cannot be read or no word is found.
    """
    found: set[str] = set()
    for entry in of:
        options = dict(entry)
        name, split = options.pop("corpus"), options.pop("split", "train")
        for record in corpora.read(name, options.pop("root", root), split, **options):
            if isinstance(record, Dialogue):
                for said in (common.transcript(t.text).split() for t in record.turns
                             if t.speaker == "user"):
                    found.update(" ".join(said[i : i + phrase])
                                 for i in range(max(bool(said), len(said) - phrase + 1)))
    if not found:
        raise BadInput("no user turn has a word", field="of")
    return sorted(found)


def read(root: Path, split: str, *, of: Sequence[dict], seed: int = 0, dialogues: int = 1000,
         words: tuple[int, int] = (4, 12), phrase: int = 1) -> Iterator[Dialogue]:
    """`dialogues` utterances of fewest to most `words` (or phrases of `phrase` words), of the
    `lexicon` of `of`; the same ones every time. The lexicon is gone through before one comes again,
    each time in another order."""
    common.known_split("simulated_words", split, SPLITS)
    rng = random.Random(f"simulated_words/{seed}/{split}")
    known, pile = lexicon(root, of, phrase), []
    for index in range(dialogues):
        said = []
        for _ in range(rng.randint(*words)):
            pile = pile or rng.sample(known, len(known))
            said.append(pile.pop())
        yield Dialogue(f"{split}-{seed}-{index:05d}", "simulated_words", split,
                       (Turn("user", " ".join(said)),))
