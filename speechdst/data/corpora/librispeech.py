"""LibriSpeech (Panayotov et al. 2015): <split>/<speaker>/<chapter>/<utterance>.flac + .trans.txt.

`split` is a folder ("train-clean-100"), or "train", "dev", "test" for all folders of that name.
"""

from collections.abc import Iterator
from pathlib import Path

from speechdst.data.corpora import common
from speechdst.data.corpora.asr_manifest import utterance
from speechdst.data.dialogue import AudioRef, BadInput, Dialogue

SPLITS = ("train", "dev", "test")


def schema(root: Path) -> None:
    """None: utterances carry no state."""
    return None


def read(root: Path, split: str, *, normalise: bool = True) -> Iterator[Dialogue | BadInput]:
    """Yields the utterances of `split` by id.

    As `BadInput` come transcripts without a recording, recordings without a transcript and
    malformed lines.

    Args:
      root: the folder `LibriSpeech`, or the one that holds it.
      normalise: lower case, no punctuation but apostrophes (`common.transcript`).
    """
    root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    folders = [root / split] if (root / split).is_dir() else common.listed(root, f"{split}-*")
    chapters = [c for folder in folders for c in common.listed(folder, "*/*") if c.is_dir()]
    if not chapters:
        raise BadInput(
            f"no folder {split} or {split}-* with <speaker>/<chapter> in it",
            file=root,
            mend="extract the archives of LibriSpeech below one folder",
        )
    for chapter in chapters:
        heard = {p.stem: p for p in common.listed(chapter, "*.flac")}
        for path in common.listed(chapter, "*.trans.txt"):
            with open(path, encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    id, _, text = line.strip().partition(" ")
                    try:
                        if not text:
                            raise BadInput("expected an id and a text", file=f"{path}:{number}")
                        if id not in heard:
                            raise BadInput("the recording is missing", file=path, record=id)
                        ref = AudioRef(str(heard.pop(id)), voice=id.split("-")[0])
                        yield utterance(id, "librispeech", split, text, ref, normalise)
                    except BadInput as error:
                        yield error
        for id, path in heard.items():
            yield BadInput("the recording has no transcript", file=path, record=id)
