"""Answers to questions: DROP's F1 and SQuAD's, as the official scripts count them.

DROP (Dua et al. 2019, section 5): answers are sets of spans, spans are bags of words without
repetition; spans are aligned one to one as is best, and a gold span with numbers gains nothing from
a span without any of them. SQuAD (Rajpurkar et al. 2016, section 6.1): one span, a multiset of
words. Both take the best over several gold answers. Scores are from 0 to 1.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import scipy

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

Spans = str | Sequence[str]
"""An answer to DROP: a span, or several."""


def squad(predicted: str, gold: Iterable[str]) -> tuple[float, float]:
    """(exact match, F1), each the best over the `gold` answers; 0 where there are none.

    As with the official script of version 1.1, an answer without a word matches another exactly
    and has no F1 with it.
    """
    own = words(predicted)
    pairs = [(float(own == right), _f1(own, right)) for right in map(words, gold)]
    return max((e for e, _ in pairs), default=0.0), max((f for _, f in pairs), default=0.0)


def words(text: str) -> list[str]:
    """Lower case, without articles and punctuation, as SQuAD compares."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(predicted: list[str], gold: list[str]) -> float:
    shared = (Counter(predicted) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def drop(predicted: Spans, gold: Iterable[Spans]) -> tuple[float, float]:
    """(exact match, F1), each the best over the `gold` answers; 0 where there are none.

    A gold answer whose first span is blank counts as none, as in the official script, which also
    rounds F1 to two digits.
    """
    golds = [_spans(g) for g in gold]
    pairs = [drop_pair(predicted, g) for g in golds if g and g[0].strip()]
    return max((e for e, _ in pairs), default=0.0), max((f for _, f in pairs), default=0.0)


def drop_pair(predicted: Spans, gold: Spans) -> tuple[float, float]:
    """(exact match, F1 rounded to two digits) against one gold answer."""
    own, golden = ([normal_span(s) for s in _spans(x)] for x in (predicted, gold))
    exact = set(own) == set(golden) and len(own) == len(golden)
    if not own or not golden:
        return float(exact), float(exact)
    bags, gold_bags = ([frozenset(s.split()) for s in side] for side in (own, golden))
    scores = np.array([[_bag_f1(p, g) for p in bags] for g in gold_bags])
    aligned = scores[scipy.optimize.linear_sum_assignment(scores, maximize=True)]
    return float(exact), round(float(aligned.sum()) / max(len(bags), len(gold_bags)), 2)


def normal_span(span: str) -> str:
    """A span as DROP compares it: lower case, no articles, no punctuation except in numbers, which
    are all written alike ("1,000" and "1e3" -> "1000.0"); hyphens and spaces separate words."""
    return " ".join(filter(None, map(_token, re.split("[ -]", span))))


def _token(token: str) -> str:
    token = token.lower()
    if not _is_number(token):
        token = token.translate(_PUNCTUATION)
    if _is_number(token):
        token = str(float(token))
    return " ".join(_ARTICLES.sub(" ", token).split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bag_f1(predicted: frozenset[str], gold: frozenset[str]) -> float:
    numbers = set(filter(_is_number, gold))
    if numbers and not numbers & predicted:
        return 0.0
    shared = len(predicted & gold)
    precision = shared / len(predicted) if predicted else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _spans(answer: Spans) -> Sequence[str]:
    return [answer] if isinstance(answer, str) else answer
