"""Writes cross_corpus_splits.json: what the held-out dialogues of the cross-corpus presets are.

    python tests/golden/make_cross_corpus_splits.py FOLDER

FOLDER holds `multiwoz`, the corpus as released, of which the ids are written; of the simulated
corpora what is said. Only to be run when a preset is meant to change: figures of before are then
of other dialogues.
"""

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from configs import cross_corpus  # noqa: E402
from speechdst.data.dialogue import Dialogue  # noqa: E402
from speechdst.data.options import Options  # noqa: E402

PRESETS = ("simulated", "german")
MULTIWOZ = {"sgd": ("b",), "restaurant-hotel": ("a", "b"), "train-taxi": ("a", "b")}


def dialogues(preset: str, name: str, split: str) -> list:
    """The dialogues of a split, without their speech."""
    spec = cross_corpus.get_config(preset).prepare[name]
    return list(Options.parse(name, spec).read(split))


def digest(of: list) -> str:
    told = [[d.id, [[t.speaker, t.text, t.state] for t in d.turns]] for d in of]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def splits() -> dict:
    return {f"{preset}/{name}/{split}": digest(dialogues(preset, name, split))
            for preset in PRESETS for name in cross_corpus.CORPORA
            for split in (cross_corpus.CHOOSING, cross_corpus.HELD_OUT)}


def multiwoz(raw: str) -> dict:
    """Ids of MultiWOZ's held-out dialogues, by preset, corpus and split, with spaces between."""
    return {f"{preset}/{name}/{split}": " ".join(sorted(
        d.id for d in dialogues(f"{preset}@{raw}", name, split) if isinstance(d, Dialogue)))
        for preset, names in MULTIWOZ.items() for name in names
        for split in (cross_corpus.CHOOSING, cross_corpus.HELD_OUT)}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: one argument is expected, the folder that holds multiwoz")
    path = Path(__file__).with_name("cross_corpus_splits.json")
    made = splits() | multiwoz(sys.argv[1])
    path.write_text(json.dumps(made, indent=1) + "\n")
