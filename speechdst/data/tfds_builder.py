"""The records as a TensorFlow Datasets builder, written and read without TensorFlow.

    builder = SpeechDST(config=of_prepared("data/demo/simulated"), data_dir="tfds")
    builder.download_and_prepare()
    source = tfds.data_source("speech_dst/simulated", data_dir="tfds", split="train")
    dialogues = TfdsDialogues(source)  # what the loader takes

An example is a dialogue with a sequence of turns. What may be absent is empty: `state` "" is a turn
that is not annotated ("{}": annotated as empty), `flac` b"" one without audio, `features` of no
frames one without features, `start` NaN one whose place is not known. The bytes under `flac` are a
16 kHz mono FLAC file; `tfds.features.Audio` is not used because it needs TensorFlow.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from speechdst.data import shard, speech
from speechdst.data.dialogue import (
    SPEAKERS,
    Audio,
    BadInput,
    Dialogue,
    Turn,
    Word,
    about,
    from_about,
)
from speechdst.data.options import Options
from speechdst.data.prepared import Prepared

_BYTES = tfds.features.Tensor(shape=(), dtype=np.bytes_)


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Where the dialogues come from: the folder of a prepared data set, or a corpus by `options`.

    Reading needs neither.
    """

    prepared: str = ""
    options: Options | None = None


def of_prepared(folder: str | Path) -> Config:
    """A config named after the prepared data set in `folder`."""
    return Config(name=Prepared(folder).manifest["name"], prepared=str(folder))


def of_corpus(name: str, options: Mapping) -> Config:
    """A config that reads and speaks a corpus itself; `options` as in `config.prepare`."""
    return Config(name=name, options=Options.parse(name, options))


class SpeechDST(tfds.core.GeneratorBasedBuilder):
    """Spoken dialogues with states; see the module for what an example holds."""

    name = "speech_dst"
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Turns with states, FLAC audio and features.",
        "1.1.0": "Passages and questions about them.",
    }

    def __init__(self, *, file_format: str = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        self.left_out: list[BadInput] = []
        """Records of the corpus that could not be used, as the last generation met them."""

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        turn = {
            "speaker": tfds.features.ClassLabel(names=list(SPEAKERS)),
            "text": text,
            "words": text,  # JSON: [[word, start, end], ...] in seconds
            "state": text,  # JSON: {domain: {slot: value}}
            "start": tfds.features.Scalar(np.float64),
            "flac": _BYTES,
            "samples": tfds.features.Scalar(np.int64),
            "voice": text,
            "features": tfds.features.Tensor(
                shape=(None, speech.MELS), dtype=np.float16, encoding="zlib"
            ),
        }
        features = tfds.features.FeaturesDict(
            {
                "id": text,
                "corpus": text,
                "split": text,
                "about": text,  # JSON: passages, questions and groups, as `dialogue.about` says
                "turns": tfds.features.Sequence(turn),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        config = self.builder_config
        if config.prepared:
            prepared = Prepared(config.prepared)
            return {s: self._generate_examples(prepared.dialogues(s)) for s in prepared.splits}
        if config.options is None:
            raise BadInput(
                "nothing to build from",
                field="config",
                mend="use of_prepared(folder) or of_corpus(name, options)",
            )
        return {s: self._generate_examples(self._read(s)) for s in config.options.splits}

    def _read(self, split: str) -> Iterator[Dialogue]:
        """The dialogues of a corpus, spoken as preparation does it."""
        options: Options = self.builder_config.options
        spoken, clock = options.spoken(split), Counter()
        for record in options.read(split):
            if isinstance(record, BadInput):
                self.left_out.append(record)
                continue
            try:
                yield shard.prepare(record, spoken, clock)[0]
            except BadInput as bad:
                self.left_out.append(bad)

    def _generate_examples(self, dialogues) -> Iterator[tuple[int, dict]]:
        for number, dialogue in enumerate(dialogues):
            yield number, to_example(dialogue)


def to_example(dialogue: Dialogue) -> dict:
    """A dialogue as the example that `SpeechDST` writes."""

    def turn(t: Turn) -> dict:
        audio = t.audio or Audio(b"", 0)
        if not isinstance(audio, Audio):
            raise TypeError(f"{dialogue.id}: audio has not been read yet ({audio})")
        return {
            "speaker": t.speaker,
            "text": t.text,
            "words": json.dumps([[w.text, w.start, w.end] for w in t.words], ensure_ascii=False),
            "state": "" if t.state is None else json.dumps(t.state, ensure_ascii=False),
            "start": math.nan if t.start is None else t.start,
            "flac": audio.flac,
            "samples": audio.samples,
            "voice": audio.voice,
            "features": np.zeros((0, speech.MELS), np.float16)
            if t.features is None
            else t.features,
        }

    return {
        "id": dialogue.id,
        "corpus": dialogue.corpus,
        "split": dialogue.split,
        "about": json.dumps(about(dialogue), ensure_ascii=False),
        "turns": [turn(t) for t in dialogue.turns],
    }


def to_dialogue(example: Mapping) -> Dialogue:
    """Inverse of `to_example`, from an example as `tfds.data_source` gives it."""
    text = lambda x: x.decode() if isinstance(x, bytes) else str(x)
    turns = example["turns"]
    if isinstance(turns, Mapping):  # columns -> rows
        turns = [dict(zip(turns, row, strict=True)) for row in zip(*turns.values(), strict=True)]

    def turn(t: Mapping) -> Turn:
        start, state = float(t["start"]), text(t["state"])
        flac, features = bytes(t["flac"]), np.asarray(t["features"])
        return Turn(
            speaker=SPEAKERS[int(t["speaker"])],
            text=text(t["text"]),
            words=tuple(Word(*w) for w in json.loads(text(t["words"]))),
            audio=Audio(flac, int(t["samples"]), text(t["voice"])) if flac else None,
            state=json.loads(state) if state else None,
            features=features if len(features) else None,
            start=None if math.isnan(start) else start,
        )

    return Dialogue(
        text(example["id"]),
        text(example["corpus"]),
        text(example["split"]),
        tuple(turn(t) for t in turns),
        **from_about(json.loads(text(example["about"]))),
    )


class TfdsDialogues(Sequence):
    """A `tfds.data_source` of `SpeechDST` as the sequence of dialogues that the loader takes."""

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"dialogue {index} of {len(self)}")
        return to_dialogue(self.source[number])

    def __repr__(self) -> str:
        """Names the content, not the folder (Grain compares it when it restores a position)."""
        return f"TfdsDialogues({self.source.dataset_info.full_name}/{self.source.split})"
