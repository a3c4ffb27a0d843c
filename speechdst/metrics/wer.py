"""Word error rate of transcripts, with its counts (jiwer's alignment, corpus level)."""

import dataclasses
from collections.abc import Iterable

import jiwer

from speechdst.metrics.normalize import transcript


@dataclasses.dataclass(frozen=True)
class WordErrors:
    """Word counts summed over utterances; `words` are those of the references."""

    utterances: int = 0
    words: int = 0
    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def rate(self) -> float | None:
        """Percent; above 100 with many insertions; None without reference words."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100 * errors / self.words if self.words else None


def word_errors(pairs: Iterable[tuple[str, str]]) -> WordErrors:
    """Counts over (reference, hypothesis) pairs, both normalised by `normalize.transcript`.

    The words said against an empty reference are insertions (jiwer takes no empty reference).
    """
    references, hypotheses, utterances, spare = [], [], 0, 0
    for reference, hypothesis in pairs:
        utterances += 1
        reference, hypothesis = transcript(reference), transcript(hypothesis)
        if reference:
            references.append(reference)
            hypotheses.append(hypothesis)
        else:
            spare += len(hypothesis.split())
    if not references:
        return WordErrors(utterances=utterances, insertions=spare)
    out = jiwer.process_words(references, hypotheses)
    return WordErrors(
        utterances,
        sum(len(r.split()) for r in references),
        out.hits,
        out.substitutions,
        out.deletions,
        out.insertions + spare,
    )


def word_errors_by(triples: Iterable[tuple[str, str, str]]) -> dict[str, WordErrors]:
    """The same per group, from (group, reference, hypothesis); groups sorted by name."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for group, reference, hypothesis in triples:
        groups.setdefault(group, []).append((reference, hypothesis))
    return {group: word_errors(groups[group]) for group in sorted(groups)}
