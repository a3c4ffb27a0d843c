"""A stand-in for data that are not there: silent dialogues of SpokenWOZ's shape.

So that a batch has the shapes and the filling that a recipe's own code gives it, before any corpus
or checkpoint is at hand. What is assumed: simulated dialogues (`data.corpora.simulated`) of 6 to 30
user turns (a recipe's own where it is simulated anyway), spoken at 0.45 s a word and 0.5 s besides
(about the 4.4 s of SpokenWOZ's user turns, arXiv 2305.13040), and a tokenizer of pieces of at most
five letters.
"""

import re
import zlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from speechdst.data import preparation
from speechdst.data.dialogue import SAMPLE_RATE
from speechdst.data.options import Options

DIALOGUES = 60
_LIKE_SPOKENWOZ = dict(turns=(6, 30), domain_counts=(0.2, 0.4, 0.4))
_PIECES = re.compile(r" ?[^\W\d_]{1,5}|\d|[^\w\s]|\s|_")


class StandInTokenizer:
    """As much of `data.tokenizer.Tokenizer` as building trees takes; its ids mean nothing."""

    bos, eos = 0, 1

    def __init__(self, size: int):
        self.size = size
        self.fingerprint = "stand-in"

    def encode(self, text: str) -> list[int]:
        return [2 + zlib.crc32(piece.encode()) % (self.size - 2)
                for piece in _PIECES.findall(text)]

    def words(self, text: str) -> list[int]:
        return self.encode(" " + text) if text else []


def silence(text: str, voice) -> np.ndarray:
    """A synthesiser (see `data.tts`) that only takes its time: int16 [samples]."""
    del voice
    return np.zeros(int(SAMPLE_RATE * (0.5 + 0.45 * len(text.split()))), np.int16)


def prepare(config: ConfigDict, stage: ConfigDict, folder: Path) -> ConfigDict:
    """Prepares a stand-in for every data set that `stage` reads in `folder`; returns `config`
    with its data there."""
    made = config.copy_and_resolve_references()
    with made.unlocked():
        made.data_dir = str(folder)
    sources = {(s["data"], s["split"]) for b in stage.batches.values() for s in b.sources}
    for name in sorted({data for data, _ in sources}):
        splits = sorted(split for data, split in sources if data == name)
        options = config.prepare[name].to_dict()
        own = options["splits"] if options["corpus"] == "simulated" else {}
        options |= dict(corpus="simulated", root="", held_out_voices=(), limit=0, splits={
            split: dict(own.get(split, _LIKE_SPOKENWOZ), dialogues=DIALOGUES, split="train")
            for split in splits})
        if options["speech"] != "none":
            options["speech"] = f"{__name__}:silence"
        preparation.prepare(name, Options.parse(name, ConfigDict(options)), folder, processes=0)
    return made
