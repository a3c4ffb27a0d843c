"""Common Voice (Ardila et al. 2020): train.tsv, dev.tsv, test.tsv beside clips/."""

import csv
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
    """Yields the utterances of `<split>.tsv`; rows without a clip or text as `BadInput`.

    Args:
      root: the folder of one language, which holds `clips`.
      normalise: lower case, no punctuation but apostrophes (`common.transcript`).
    """
    path = root / f"{split}.tsv"
    if not path.is_file():
        raise BadInput("the file is missing", file=path, mend="the folder of one language")
    with open(path, encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if missing := {"client_id", "path", "sentence"} - set(rows.fieldnames or ()):
            raise BadInput(f"columns {sorted(missing)} are missing", file=path)
        for row in rows:
            where = f"{path}:{rows.line_num}"
            try:
                if not row["path"] or not row["sentence"]:
                    raise BadInput("the row is cut off: no path or no sentence", file=where)
                name = row["path"] if row["path"].endswith(".mp3") else f"{row['path']}.mp3"
                clip = common.inside(root / "clips", name, file=where, field="path")
                ref = AudioRef(str(clip), voice=row["client_id"])
                yield utterance(clip.stem, "common_voice", split, row["sentence"], ref, normalise)
            except BadInput as error:
                yield error
