"""How a recording becomes turns: at pauses, or as one utterance freed of its silence."""

import numpy as np
import pytest
import soundfile
import tiny

from speechdst import api
from speechdst.data.contexts import Context
from speechdst.decoding.track import Tracker


@pytest.fixture
def recording(tmp_path):
    """Two words with a second of silence between them, and long silence around both."""
    samples = np.random.default_rng(0).normal(0, 1e-4, 96_000)
    samples[32_000:40_000] += np.random.default_rng(1).normal(0, 0.1, 8_000)
    samples[56_000:64_000] += np.random.default_rng(2).normal(0, 0.1, 8_000)
    soundfile.write(tmp_path / "order.wav", samples, 16_000)
    return tmp_path / "order.wav"


@pytest.mark.parametrize("pause, seconds", [(0.7, [0.62, 0.62]), (1.5, [2.1]), (0.0, [2.3])])
def test_turns_of_a_recording(recording, pause, seconds):
    found = [t.audio.seconds for t in api.turns_of(recording, pause)]
    assert found == pytest.approx(seconds, abs=0.05)


def test_a_tracker_of_single_utterances_cuts_off_silence_however_it_is_given(recording):
    heard = []

    class Deaf(Tracker):
        def track(self, dialogues):
            heard.append(dialogues[0].turns[0].audio)
            return ()

    model = tiny.config()
    track = lambda pause: api.DialogueTracker(Deaf({}, model, tiny.tokenizer(), Context("single"),
                                                   pause=pause))
    assert Tracker.pause == 0.7
    track(0.0)(recording)
    track(0.0)([{"speaker": "user", "audio": recording}])
    track(0.7)([{"speaker": "user", "audio": recording}])
    assert heard[0] == heard[1] and heard[2].seconds == 6.0
