import base64
import html.parser
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from speechdst import report, report_charts
from speechdst.data.dialogue import Audio, BadInput, Dialogue, Turn
from speechdst.metrics import jga, transfer
from speechdst.metrics.scores import Rate

HOSTILE = (
    "</script><script>alert(1)</script> \"x\" 'y' & <img src=x onerror=alert(2)> {{ 7*7 }} $a$"
)


def tone(seconds=0.5, hertz=300):
    t = np.arange(int(16000 * seconds)) / 16000
    coded = io.BytesIO()
    wave = 0.2 * np.sin(2 * np.pi * hertz * t)
    soundfile.write(coded, wave, 16000, format="FLAC", subtype="PCM_16")
    return Audio(coded.getvalue(), len(t))


def dialogue(name, *, audio=None, text="I want the east", value="east", turns=2):
    made = []
    for i in range(turns):
        state = {"hotel": {"area": value}} if i else {}
        made.append(Turn("user", text, audio=audio, state=state))
        made.append(Turn("agent", f"anything else {i}?", audio=audio))
    return Dialogue(name, "demo", "test", tuple(made))


def evaluation(dialogues, predictions, name="test"):
    scores = [jga.score(jga.references(dialogues), predictions, resamples=20)]
    return report.Evaluation(name, scores, predictions)


def empty(dialogues):
    return jga.always_empty(jga.references(dialogues))


def written(tmp_path, dialogues=(), evaluations=(), curves=(), **options):
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "report.html"
    report.write(path, title=options.pop("title", "demo"), curves=curves,
                 evaluations=evaluations, dialogues=dialogues, **options)  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


class Tags(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts, self.text = [], 0, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.scripts += tag == "script"

    def handle_data(self, data):
        self.text.append(data)


def test_every_turn_is_on_the_page_with_its_audio_and_marks(tmp_path):
    one = dialogue("MUL1", audio=tone(), turns=3)
    predictions = {
        "MUL1": [
            {"state": {}, "label": "i want east", "text": '{"raw"', "readable": False},
            {"state": {"hotel": {"area": "west", "stars": "4"}}},
        ]
    }
    data = data_of(written(tmp_path, [one], [evaluation([one], predictions)]))
    first, second, third = data["cards"]
    assert first["right"] and first["unreadable"] and first["answer"] == '{"raw"'
    assert first["said"] == [[False, "I want"], [True, "the"], [False, "east"]]
    assert first["own"] == [[False, "i want"], [False, "east"]]
    assert not second["right"]
    assert second["slots"] == [["hotel", "area", "east", "west", "wrong"],
                               ["hotel", "stars", None, "4", "extra"]]  # fmt: skip
    assert third["missing"] and third["slots"] == [["hotel", "area", "east", None, "missing"]]
    lines = [t for c in data["cards"] for t in [*c["before"], c["turn"], *c["after"]]]
    assert [t["text"] for t in lines] == [t.text for t in one.turns]
    assert [t["clip"] for t in lines] == list(range(6)) and len(data["clips"]) == 6


def test_words_are_marked_where_something_was_written_down():
    assert report.word_differences("A cheap hotel.", "a cheap inn") == (
        [[False, "A cheap"], [True, "hotel."]], [[False, "a cheap"], [True, "inn"]])
    assert report.word_differences("a", "") == ([[True, "a"]], [])
    assert report.word_differences("", "a cheap inn") == ([], [[False, "a cheap inn"]])
    assert report.word_differences("", "") == ([], [])


def test_audio_is_small_opus_of_the_right_length():
    uri = report.data_uri(tone(1.3))
    kind, coded = uri.split(",", 1)
    coded = base64.b64decode(coded)
    samples, rate = soundfile.read(io.BytesIO(coded))
    assert kind == "data:audio/ogg;base64" and len(coded) < 9000
    assert len(samples) / rate == pytest.approx(1.3, abs=0.05)
    assert np.abs(samples).max() == pytest.approx(0.2, abs=0.06)


def test_what_comes_from_data_cannot_become_markup(tmp_path):
    one = dialogue(HOSTILE, text=HOSTILE, value=HOSTILE)
    state = {"hotel": {"area": HOSTILE + "!"}, HOSTILE: {HOSTILE: HOSTILE}}
    wrong = {HOSTILE: [{"state": {}, "label": HOSTILE, "text": HOSTILE}, {"state": state}]}
    curves = [{"stage": HOSTILE, "step": i, HOSTILE: 1.0 * i} for i in range(3)]
    runs = [evaluation([one], wrong, HOSTILE), evaluation([one], wrong, "b")]
    page = written(tmp_path, [one], runs, curves, title=HOSTILE)
    seen = Tags(page)
    assert seen.scripts == 2  # the data and the page's own
    assert not any(tag == "img" for tag, _ in seen.tags)
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert "alert(1)</script>" not in page and "49" not in "".join(seen.text)[:200]
    data = data_of(page)
    assert data["cards"][0]["dialogue"] == HOSTILE
    assert data["cards"][1]["slots"][0][:2] == [HOSTILE, HOSTILE]
    assert any(HOSTILE in text for text in seen.text)  # shown as text all the same


def test_the_page_loads_nothing(tmp_path):
    one = dialogue("a", audio=tone())
    curves = [{"stage": "asr", "step": 1, "loss": 1.0}, {"stage": "asr", "step": 2, "loss": 0.5}]
    page = written(tmp_path, [one], [evaluation([one], empty([one]))], curves)
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "iframe", "object", "img")
        assert not attributes.get("src") and attributes.get("href", "#").startswith("#")
    addresses = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page and "url(http" not in page


def test_says_how_many_are_shown(tmp_path):
    clip = tone(0.1)
    many = [dialogue(f"d{i:02d}", audio=clip) for i in range(12)]
    page = written(tmp_path, many, [evaluation(many, empty(many))], audio_dialogues=2,
                   max_dialogues=6)  # fmt: skip
    assert "6 of 12 evaluated dialogues are on this page, 2 of them with audio" in page
    data = data_of(page)
    assert sorted({c["dialogue"] for c in data["cards"]}) == [
        "d00",
        "d02",
        "d04",
        "d06",
        "d08",
        "d10",
    ]
    assert len(data["clips"]) == 2 * 4


def test_audio_is_shared_between_evaluations(tmp_path):
    one = dialogue("a", audio=tone(0.1))
    runs = [evaluation([one], empty([one]), "x"), evaluation([one], empty([one]), "y")]
    data = data_of(written(tmp_path, [one], runs))
    assert len(data["clips"]) == 4 and {c["evaluation"] for c in data["cards"]} == {0, 1}


def test_dialogues_are_looked_at_in_evaluations_of_theirs(tmp_path):
    here, other = dialogue("a"), dialogue("b")
    runs = [evaluation([d], empty([d]), n) for d, n in ((other, "x"), (here, "y"), (here, "z"))]
    page = written(tmp_path, [here], runs)
    assert all(f'id="evaluation-{i}"' in page for i in (1, 2, 3))
    assert re.findall(r'<option value="(\d)">(\w)<', page) == [("0", "y"), ("1", "z")]
    assert {c["evaluation"] for c in data_of(page)["cards"]} == {0, 1}
    assert "f-evaluation" not in written(tmp_path / "one", [here], runs[:2]).split("<script")[0]


def test_without_scores_dialogues_or_audio(tmp_path):
    page = written(tmp_path)
    assert "No dialogues" in page
    (tmp_path / "report.html").unlink()
    one = dialogue("a")
    page = written(tmp_path, [one], [report.Evaluation("raw", [], empty([one]))])
    assert "No scores were found" in page and data_of(page)["clips"] == []


def test_predictions_that_do_not_fit(tmp_path):
    one = dialogue("a", turns=1)
    with pytest.raises(BadInput, match="2 predictions for 1"):
        written(tmp_path, [one], [report.Evaluation("x", [], {"a": [{"state": {}}] * 2})])
    assert not list(tmp_path.iterdir())


def test_curves_skip_what_cannot_be_drawn_and_keep_the_later_of_a_repeated_step():
    rows = [
        {"stage": "a", "step": 1, "loss": 9.0, "note": "text"},
        {"stage": "a", "step": 1, "loss": 1.0},
        {"stage": "a", "step": 2, "loss": float("nan"), "only": True},
        {"stage": "b", "step": 1, "lr": 1e-4, "loss": 2.0},
    ]
    stages, charts = report_charts.curves(rows)
    assert stages == ["a", "b"] and [name for name, _ in charts] == ["loss", "lr"]
    loss = charts[0][1]
    assert loss.startswith("<svg role=") and "var(--series-1)" in loss and "var(--series-2)" in loss
    assert "#0102" not in loss
    assert report_charts.curves([]) == ([], [])


def test_charts_follow_the_numbers():
    rates = {
        1: Rate(90.0, 80.0, 95.0, 10),
        2: Rate(None, None, None, 0),
        3: Rate(5.0, None, None, 1),
    }
    assert "user turn number" in report_charts.by_turn(rates)
    svg = report_charts.by_domain({"hotel <b>": rates[1], "taxi": rates[3], "none": rates[2]})
    assert (
        "hotel &lt;b&gt; (10)" in svg
        and ">90.0<" in svg
        and "none" not in re.findall(r">([^<]+)<", svg)
    )
    assert report_charts.by_domain({}) and report_charts.by_turn({})


def run_folder(tmp_path):
    run = tmp_path / "run"
    one = dialogue("a")
    made = evaluation([one], empty([one]))
    folder = run / "evaluation" / "test"
    folder.mkdir(parents=True)
    (folder / "predictions.json").write_text(json.dumps(made.predictions))
    (folder / "scores.json").write_text(made.scores[0].to_json())
    (run / "metrics.jsonl").write_text('{"stage": "asr", "step": 1, "loss": 2.5}\n{"stage": "as')
    return run, made


def test_a_run_folder(tmp_path):
    run, made = run_folder(tmp_path)
    curves, (got,), none, live = report.read_run(run)
    assert not none and not live
    assert curves == [{"stage": "asr", "step": 1, "loss": 2.5}] and got == made
    scores = run / "evaluation" / "test" / "scores.json"
    scores.write_text(f"[{made.scores[0].to_json()}, {made.scores[0].to_json()}]")
    assert len(report.read_run(run)[1][0].scores) == 2
    scores.write_text("{")
    with pytest.raises(BadInput, match=r"scores\.json"):
        report.read_run(run)
    scores.write_text("[]")
    (scores.parent / "predictions.json").write_text("[]")
    with pytest.raises(BadInput, match=r"predictions\.json"):
        report.read_run(run)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"stage": "asr", "step": 2}\n')
    with pytest.raises(BadInput, match="line 1"):
        report.read_run(run)
    with pytest.raises(BadInput, match="neither"):
        report.read_run(tmp_path / "nothing")


def test_the_command(tmp_path):
    run, _ = run_folder(tmp_path)
    out = tmp_path / "page.html"

    def command(*arguments):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.run([sys.executable, "-m", "speechdst.report", *arguments],
                              capture_output=True, text=True, env=environment)  # fmt: skip

    done = command(f"--run={run}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "Training curves" in out.read_text() and "page.html" in done.stdout
    failed = command(f"--run={tmp_path / 'no'}", f"--out={out}")
    assert failed.returncode != 0 and "error: " in failed.stderr
    assert "Traceback" not in failed.stderr


def test_where_the_time_went(tmp_path):
    row = lambda stage, step, **more: {
        "stage": stage, "step": step, "loss": 1.0, "time/step": 30.0, "time/input": 20.0,
        "time/other": 10.0, "model TFLOP/s": 2.0, **more}
    curves = [row("text", 10), row("text", 10), row("text", 20, **{"time/step": 90.0,
              "model TFLOP/s": 4.0}), row("joint", 10, mfu=0.5), {"stage": "old", "step": 1}]
    page = written(tmp_path, curves=curves)
    (table,) = re.findall(r'id="time".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    cells = [re.findall(r">([^<>\s]+)</t[hd]>", line) for line in table.split("</tr>")[:-1]]
    assert cells == [["text", "3.0", "66.7", "22.2", "11.1", "3.5", "-"],
                     ["joint", "1.0", "50.0", "33.3", "16.7", "2", "50.0"]]
    assert "Shares of wall time" in page and "time/step by step" not in page
    assert 'id="time"' not in written(tmp_path, curves=[{"stage": "a", "step": 1, "loss": 1.0}])


def test_amounts_have_points_intervals_and_a_curve():
    points = {0: (10.0, 8.0, 12.0), 15: (30.0, None, None), 300: (60.0, 55.0, 65.0)}
    svg = report_charts.amounts({"text <b>": (points, transfer.Curve(10.0, 70.0, 40.0)),
                                 "recorded": (points, None)}, "dialogues")
    assert "text &lt;b&gt;" in svg and "var(--series-2)" in svg and "dialogues" in svg
    assert all(f">{amount}<" in svg for amount in points) and "$" not in svg
    page = report_charts.page("How <much>", {"a & b": svg}, ["x < y"])
    assert "How &lt;much&gt;" in page and "a &amp; b" in page and "x &lt; y" in page
    assert page.count("<svg") == 1 and "--series-1: #1f5fa8;" in page
