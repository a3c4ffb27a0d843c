"""Where wall time goes, with devices and a clock that do what the test says."""

import threading

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data.dialogue import BadInput
from speechdst.training import accounting
from speechdst.training.accounting import KINDS, Clock
from speechdst.training.profile import Profile


class Values:
    """What a step returns; there when `finish` was called."""

    def __init__(self):
        self.there = threading.Event()
        self.error = None

    def block_until_ready(self):
        assert self.there.wait(10)
        if self.error:
            raise self.error
        return self


class Scene:
    """A loop, its devices and its clock."""

    def __init__(self):
        self.time = 0.0
        self.clock = Clock(lambda: self.time)
        self.values = []

    def pass_(self, seconds):
        self.time += seconds

    def spend(self, kind, seconds):
        with self.clock.span(kind):
            self.pass_(seconds)

    def dispatch(self, seconds=0.0):
        """The call of a step takes so long."""
        self.clock.step(self.call, seconds)

    def call(self, seconds):
        self.pass_(seconds)
        self.values.append(Values())
        return None, self.values[-1]

    def finish(self, error=None):
        """The oldest step that is under way ends now."""
        values = self.values.pop(0)
        pending = next(f for _, f in self.clock.running if not f.done())
        values.error = error
        values.there.set()
        pending.exception(timeout=10)


def test_input_behind_a_step_is_hidden_and_input_after_it_is_not():
    scene = Scene()
    scene.clock.compiled = scene.call
    scene.dispatch()
    with scene.clock.span("input"):
        scene.pass_(3)
        scene.finish()  # three of five seconds of waiting were the devices' own
        scene.pass_(2)
    scene.dispatch()
    scene.pass_(4)
    scene.finish()
    scene.pass_(1)
    assert scene.clock.take() == {"step": 7, "input": 2, "checkpoint": 0, "compile": 0, "other": 1}


def test_steps_in_a_queue_are_counted_once():
    scene = Scene()
    scene.clock.compiled = scene.call
    for _ in range(3):
        scene.dispatch(1.0)
    for _ in range(3):
        scene.pass_(5)
        scene.finish()
    found = scene.clock.take()
    assert found["step"] == scene.time == 18 and sum(found.values()) == 18
    scene.pass_(2)  # a window begins where the one before ended
    assert scene.clock.take()["other"] == 2
    assert scene.clock.summary() == "20 s: step 90.0%, other 10.0%"


def test_the_first_call_of_a_stage_compiles():
    scene = Scene()
    calls = [scene.call, lambda seconds: scene.call(seconds)]
    for call in calls:
        for seconds in (30.0, 0.0):
            scene.clock.step(call, seconds)
            scene.pass_(2)
            scene.finish()
    scene.spend("checkpoint", 6)
    found = scene.clock.take()
    assert found == {"step": 8, "input": 0, "checkpoint": 6, "compile": 60, "other": 0}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(("input", "checkpoint", "dispatch", "finish", "pass")),
                          st.integers(0, 5)), max_size=25))
def test_every_second_is_counted_once(events):
    scene = Scene()
    for kind, seconds in events:
        if kind == "dispatch":
            scene.dispatch(seconds)
        elif kind == "pass":
            scene.pass_(seconds)
        elif kind == "finish":
            scene.pass_(seconds)
            if scene.values:
                scene.finish()
        else:
            scene.spend(kind, seconds)
    while scene.values:
        scene.finish()
    found = scene.clock.take()
    assert tuple(found) == KINDS and min(found.values()) >= 0
    assert sum(found.values()) == pytest.approx(scene.time)


def test_a_step_that_failed_says_so():
    scene = Scene()
    scene.dispatch()
    scene.finish(FloatingPointError("the device"))
    with pytest.raises(FloatingPointError, match="the device"):
        scene.clock.take()


def test_mfu_by_hand_and_none_without_a_peak(monkeypatch):
    seconds = {"step": 4.0, "input": 1.0, "checkpoint": 0.0, "compile": 0.0, "other": 3.0}
    found = accounting.rates(seconds, 8e12)
    assert found["goodput"] == 0.5 and found["model TFLOP/s"] == 2 and "mfu" not in found
    assert {f"time/{k}": v for k, v in seconds.items()}.items() <= found.items()
    monkeypatch.setattr(accounting, "chip_of", lambda kind: "v5e")
    peak = jax.device_count() * accounting.CHIPS["v5e"].flops
    assert accounting.rates(seconds, 8e12)["mfu"] == pytest.approx(2e12 / peak)
    idle = dict.fromkeys(seconds, 0.0)
    assert accounting.rates(idle, 0.0) == {f"time/{kind}": 0.0 for kind in idle}


def test_only_the_chosen_steps_are_traced(monkeypatch, tmp_path):
    seen, step = [], 0
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: seen.append(("start", step)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append(("stop", step)))

    def stage(bounds, steps):
        nonlocal step
        profile, step = Profile(bounds, tmp_path), 0
        seen.clear()
        while step < steps:
            profile.before(step)
            step += 1
            profile.after(step, (), last=step == steps)
        return list(seen)

    assert stage("", 4) == []
    assert stage("1:3", 4) == [("start", 1), ("stop", 3)]
    assert stage("2:9", 4) == [("start", 2), ("stop", 4)]
    assert stage("7:9", 4) == []
    for bounds in ("3", "4:4", "a:b", "3:1"):
        with pytest.raises(BadInput, match="START:STOP"):
            Profile(bounds, tmp_path)
