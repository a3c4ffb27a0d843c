"""The benchmarks of the auxiliary tasks, at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from speechdst.data.dialogue import BadInput


@pytest.mark.slow
def test_a_task_tree_and_its_examples_train_alike_and_are_timed(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import auxiliary_tree, step_time

    found = json.loads(json.dumps(auxiliary_tree.measure(
        16, 1, auxiliary_tree.QUICK, 4, repeats=1, options=step_time.quick_options(),
        say=lambda line: None)))
    assert found["loss_error"] < 1e-5 and 0 < found["gradient_error"] < 1e-4
    assert found["positions"]["tree"] < found["positions"]["separate"]
    assert found["ratio"] > 0 and {len(s) for s in found["seconds"].values()} == {1}


@pytest.mark.slow
def test_arms_that_differ_are_refused(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import auxiliary_tree, step_time

    monkeypatch.setattr(step_time, "differ", lambda found, expected: 0.01)
    monkeypatch.setattr(auxiliary_tree.Arm, "step", lambda self: dict.fromkeys(
        auxiliary_tree.TASKS, 1.0))
    with pytest.raises(AssertionError, match="gradients by 1"):
        auxiliary_tree.measure(16, 1, auxiliary_tree.QUICK, 4, repeats=1, say=lambda line: None)


@pytest.mark.slow
def test_cells_of_both_arms_go_on_where_they_were_stopped(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.chdir(Path(__file__).parents[1])
    from benchmarks import auxiliary_tasks as benchmark

    def command(name, *arguments):
        subprocess.run([sys.executable, "-m", f"speechdst.{name}",
                        "--config=configs/auxiliary.py:tiny", f"--config.data_dir={tmp_path}/data",
                        *arguments], check=True, capture_output=True)

    command("prepare")
    command("train", "--config.order=('text',)", f"--workdir={tmp_path}/run",
            "--config.stages.text.steps=1")
    options = (f"{tmp_path}/data", f"{tmp_path}/run/text", "tiny")
    cells = benchmark.Cells(tmp_path / "out", *options, steps=1, limit=2)
    found = benchmark.measure(cells, [10.0, 100.0], 1)
    assert list(found["rows"]) == [
        "three tasks, 10 %", "replies alone, 10 %", "three tasks, 100 %",
        "three tasks, hears silence", "as drawn", "replies alone, 100 %",
        "the base, before this stage"]
    assert list(found["gains"]) == ["10 %", "100 %"]
    assert all(rates["F1"].count == 2 for rates in found["gains"].values())
    # One program for all shares of an arm: the second cell compiles no train step.
    compiled = [p.name for p in (tmp_path / "out/compiled").glob("*train_step*-cache")]
    assert len(compiled) == len(benchmark.ARMS)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/tasks/steps/*")}
    assert benchmark.measure(cells, [10.0, 100.0], 1) == found
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(BadInput, match="cells made with"):
        benchmark.Cells(tmp_path / "out", *options, steps=2, limit=2)
    table = benchmark.table("gains", found["gains"])
    assert table.row_count == 2 and json.dumps(benchmark.plain(found["rows"]))
