"""Makes tests/golden/qa.json: answers scored by the official scripts of DROP and SQuAD 1.1.

    pip install numpy scipy && pip install --no-deps allennlp-models==2.10.1
    python tests/golden/make_qa.py --squad=evaluate-v1.1.py            # write it
    python tests/golden/make_qa.py --squad=evaluate-v1.1.py --check    # compute anew and compare

DROP's script is `rc/tools/drop.py` of that package, read without the rest of it; SQuAD's is the one
that stands beside the data set on its site.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import random
import sys
from pathlib import Path

FILE = Path(__file__).parent / "qa.json"

# (predicted, gold answers); what each is there for.
DROP = [
    # Numbers: written otherwise, within words, wrong, missing, not numbers at first sight.
    ("7", ["7.0"]), ("1,000", ["1e3"]), ("$1,000", ["1000"]), ("1_000", ["1000"]),
    ("seven", ["7"]), ("7 yards", ["7"]), ("7 yards", ["8 yards"]), ("yards", ["7 yards"]),
    ("7 yards", ["yards"]), ("-5", ["5"]), ("3.50%", ["3.5"]), ("nan", ["NaN"]), ("inf", ["1"]),
    ("٣", ["3"]), ("½", ["0.5"]), ("1-0", ["1 0"]), (".5", ["0.5"]), ("1st", ["1"]),
    # Articles, case, punctuation, hyphens, white space.
    ("The cat", ["a cat"]), ("the", ["a"]), ("the", [""]), ("an-other", ["other"]),
    ("the-man", ["man"]), ("a.m.", ["am"]), ("A", ["a"]), ("panther", ["the panther"]),
    ("U.S.A.", ["usa"]), ("it's", ["its"]), ("a\tb", ["b"]), ("the\nend", ["end"]),
    ("well-known author", ["well known author"]), ("  spaces   in  ", ["spaces in"]),
    # Repetition does not count.
    ("very very good", ["very good"]), ("good", ["good good good"]),
    # Several spans: order, too few, too many, alignment that greed would miss, repeated spans.
    (["Paris", "London"], [["London", "Paris"]]), ("Paris London", [["London", "Paris"]]),
    (["Paris"], [["London", "Paris"]]), (["Paris", "London"], [["Paris"]]),
    (["a b", "a"], [["a b c", "b"]]), (["x y", "x z"], [["x", "x y"]]),
    (["red car", "red"], [["red", "red car fast"]]), (["Paris", "paris"], [["Paris"]]),
    (["Paris", "Paris"], [["Paris", "London"]]), (["1 yard", "2 yards"], [["2 yards", "3 yards"]]),
    (["", "Paris"], [["Paris"]]), (["Paris", ""], [["Paris", "the"]]),
    # Empty.
    ("", ["Paris"]), ("", [""]), ("...", ["Paris"]), ("Paris", [""]), ("Paris", ["...", "x"]),
    # Several gold answers, blank ones among them.
    ("Paris", ["London", "Paris, France"]), ("blue", [["", "blue"], "red"]),
    ("12 July 1999", ["12 July 1999", "July"]), ("July 1999", ["12 July 1999"]),
    # Beyond ASCII.
    ("café", ["cafe"]), ("Café", ["CAFÉ"]), ("“quoted”", ["quoted"]), ("naïve—man", ["naïve man"]),
    ("東京", ["東京 都"]), ("İstanbul", ["istanbul"]), ("straße", ["STRASSE"]), ("a\u00a0b", ["b"]),
    ("🎉 yes", ["yes"]), ("１２", ["12"]),
]
SQUAD = [(p, [g if isinstance(g, str) else " ".join(g) for g in gold]) for p, gold in
         ((p if isinstance(p, str) else " ".join(p), gold) for p, gold in DROP)] + [
    ("to be or not to be", ["to be to be"]), ("the the the", ["the"]), ("Denver Broncos",
     ["Denver Broncos", "The Denver Broncos!", "Broncos"]), ("an answer", ["answer a"]),
]
WORDS = ("the a an Paris paris. 3 3.0 three -3 1,000 1000 blue-green blue, green café CAFÉ É ß "
         "don't dont 50% no yes 東京 . - the-end 2nd")


def drawn(count: int = 150) -> list:
    """Answers of words at random, with one to three spans and one to three gold answers."""
    rng = random.Random(0)
    span = lambda: " ".join(rng.choices(WORDS.split(), k=rng.randint(0, 4)))
    spans = lambda: span() if rng.random() < 0.5 else [span() for _ in range(rng.randint(1, 3))]
    return [(spans(), [spans() for _ in range(rng.randint(1, 3))]) for _ in range(count)]


def script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drop_score(official, predicted, golds):
    """(exact match, F1) of one question, asked as a data set of one question."""
    answers = [{"number": "", "spans": [g] if isinstance(g, str) else g} for g in golds]
    pair = {"query_id": "q", "answer": answers[0], "validated_answers": answers[1:]}
    return [float(x) for x in official.evaluate_json({"p": {"qa_pairs": [pair]}}, {"q": predicted})]


def squad_score(official, predicted, golds):
    qa = {"id": "q", "answers": [{"text": g} for g in golds]}
    got = official.evaluate([{"paragraphs": [{"qas": [qa]}]}], {"q": predicted})
    return [got["exact_match"] / 100, got["f1"] / 100]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--squad", type=Path, default=Path("evaluate-v1.1.py"))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    package = importlib.metadata.distribution("allennlp-models")
    drop, squad = script(package.locate_file("allennlp_models/rc/tools/drop.py")), script(
        arguments.squad)
    more = drawn()
    flat = [(p, g) for p, g in more if isinstance(p, str) and all(isinstance(x, str) for x in g)]
    made = {
        "drop": [[p, g, *drop_score(drop, p, g)] for p, g in DROP + more],
        "squad": [[p, g, *squad_score(squad, p, g)] for p, g in SQUAD + flat],
    }
    if arguments.check:
        print("equal" if made == json.loads(FILE.read_text("utf-8")) else "DIFFERENT")
        sys.exit(made != json.loads(FILE.read_text("utf-8")))
    lines = ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]"
        for name, cases in made.items())
    FILE.write_text("{" + lines + "}\n", "utf-8")
    print({name: len(cases) for name, cases in made.items()})


if __name__ == "__main__":
    main()
