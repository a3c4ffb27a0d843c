"""Similarity of meaning: cosines of sentence vectors (Reimers and Gurevych 2019, SBERT).

The published figures on Abg-CoQA are of all-mpnet-base-v2. The model is read from a local folder;
the library for it is not installed with the rest.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechdst.data.dialogue import BadInput


class Similarity:
    """Call it with pairs of texts."""

    def __init__(self, folder: str | Path):
        """Reads the model in `folder`; raises `BadInput` if it or the library is not there."""
        if not (Path(folder) / "modules.json").is_file():
            raise BadInput("no sentence-transformers model there", file=folder,
                           mend="name a folder that was saved by that library")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise BadInput(f"similarity needs another library ({error})", field="similarity",
                           mend="pip install sentence-transformers") from error
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The cosine of each pair, 0 where it is negative."""
        texts = list(dict.fromkeys(t for pair in pairs for t in pair))
        if not texts:
            return []
        vectors = np.asarray(self._model.encode(texts, normalize_embeddings=True), np.float64)
        of = dict(zip(texts, vectors, strict=True))
        return [float(np.clip(of[a] @ of[b], 0.0, 1.0)) for a, b in pairs]
