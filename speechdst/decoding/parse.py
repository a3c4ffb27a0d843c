"""The target text of a turn and how a model's answer is read back.

One JSON object per user turn: `{"label": transcript, "domains": [...], "slots": {domain: {slot:
value}}}`, the target of joint speech-text dialogue state tracking (arXiv 2511.22503, section 2).
"""

import dataclasses
import json
import math
from typing import Any

import json_repair

from speechdst.data.dialogue import State


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one answer says; `readable` False: no state could be read and `slots` is empty."""

    label: str
    domains: list[str]
    slots: State
    readable: bool


def target(label: str, state: State) -> str:
    """The compact JSON text of a transcript and its state.

    Domains and slots are sorted, so that equal states give equal text. `domains` are the domains
    that have slots; a domain without slots is left out of both.
    """
    slots = {d: dict(sorted(state[d].items())) for d in sorted(state) if state[d]}
    answer = {"label": label, "domains": list(slots), "slots": slots}
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


def parse(text: str) -> Prediction:
    """Reads an answer, repairing broken JSON; never raises.

    Unreadable (and its state empty) is an answer that is no JSON object, has no `slots`, or has a
    part of the wrong type. A missing label or list of domains does not hurt the state. Numbers
    become text; a null or empty value means that the slot is not filled.
    """
    answer = load(text)
    if not isinstance(answer, dict):
        return Prediction("", [], {}, False)
    label = answer.get("label", "")
    label = _clean(label) if isinstance(label, str) else None
    slots = _slots(answer.get("slots"))
    domains = _domains(answer["domains"]) if "domains" in answer else sorted(slots or {})
    if label is None or domains is None or slots is None:
        return Prediction(label or "", domains or [], {}, False)
    return Prediction(label, domains, slots, True)


def load(text: str) -> Any:
    """The JSON value of an answer, repaired; None if nothing can be read."""
    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
        return None


def _clean(text: str) -> str:
    """Without lone surrogates (JSON can spell them, UTF-8 files cannot hold them)."""
    return text.encode("utf-8", "replace").decode()


def _domains(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not all(isinstance(d, str) for d in value):
        return None
    return [_clean(d) for d in value]


def _slots(value: Any) -> State | None:
    if not isinstance(value, dict):
        return None
    state: State = {}
    for domain, slots in value.items():
        if not isinstance(domain, str) or not isinstance(slots, dict):
            return None
        read = {}
        for slot, content in slots.items():
            if content is None or content == "":
                continue
            if isinstance(content, bool) or not isinstance(content, (str, int, float)):
                return None
            if isinstance(content, float) and not math.isfinite(content):
                return None
            if not isinstance(slot, str):
                return None
            try:
                read[_clean(slot)] = _clean(str(content))
            except ValueError:  # an integer too long to print
                return None
        if read:
            state[_clean(domain)] = read
    return state
