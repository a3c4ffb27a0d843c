"""Transcribed speech as `manifest.jsonl`: {"id", "audio", "text", "speaker"?, "split"?} a line.

Each utterance is a dialogue of one user turn without a state. Without `split` a record belongs to
train.
"""

from collections.abc import Iterator
from pathlib import Path

from speechdst.data.corpora import common
from speechdst.data.dialogue import AudioRef, BadInput, Dialogue, Turn

SPLITS = ("train", "dev", "test")


def schema(root: Path) -> None:
    """None: utterances carry no state."""
    return None


def read(
    root: Path, split: str, *, normalise: bool = True, dev_speakers: float = 0.0
) -> Iterator[Dialogue | BadInput]:
    """Yields the utterances of `split`; lines that cannot be used as `BadInput` with file:line.

    Lines that are not JSON belong to no split and are reported with each.

    Args:
      root: the folder of `manifest.jsonl`, or a manifest of another name.
      normalise: lower case, no punctuation but apostrophes (`common.transcript`).
      dev_speakers: for manifests without a dev split, this share of the speakers of train, by the
        hash of their names, is dev.
    """
    path = root if root.suffix == ".jsonl" else root / "manifest.jsonl"

    def make(where: str, id: str, raw: dict) -> Dialogue:
        audio = common.want(raw, "audio", str, file=where, id=id)
        text = common.want(raw, "text", str, file=where, id=id)
        voice = common.want(raw, "speaker", (str, type(None)), file=where, id=id) or ""
        ref = AudioRef(str(common.inside(path.parent, audio, file=where, id=id)), voice=voice)
        return utterance(id, "asr_manifest", split, text, ref, normalise)

    if not dev_speakers:
        yield from common.records(path, split, make)
        return
    for record in common.records(path, "test" if split == "test" else "train", make):
        held_out = isinstance(record, Dialogue) and split != "test" and (
            _place(record.turns[0].audio.voice) < dev_speakers) != (split == "dev")
        if not held_out:
            yield record


def _place(speaker: str) -> float:
    """Where a speaker stands between 0 and 1, by the hash of the name."""
    return int(common.by_hash(speaker)[:12], 16) / 16**12


def utterance(
    id: str, corpus: str, split: str, text: str, audio: AudioRef, normalise: bool
) -> Dialogue:
    """A transcribed recording as a dialogue of one turn; raises `BadInput` if no text is left."""
    spoken = common.transcript(text) if normalise else " ".join(text.split())
    if not spoken:
        raise BadInput(f"the transcript {text!r} has no words", record=id, field="text")
    return Dialogue(id, corpus, split, (Turn("user", spoken, audio=audio),))
