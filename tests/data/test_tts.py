import itertools

import numpy as np
import pytest

from speechdst.data import tts
from speechdst.data.dialogue import SAMPLE_RATE, BadInput
from speechdst.data.tts import Voice, espeak, synthesize_all, voices

TEXT = "i am looking for a cheap chinese restaurant in the north"


def tone(text: str, voice: Voice) -> np.ndarray:
    """A stand-in synthesiser, found by its name "test_tts:tone"."""
    if text == "nothing":
        raise BadInput("nothing to say")
    return np.full(100 * len(text), voice.pitch, np.int16)


def floats(text: str, voice: Voice) -> np.ndarray:
    return np.zeros(10, np.float32)


@pytest.mark.parametrize("name", ["en-us+f2", "en-029+m3", "en-gb-x-rp+whisper"])
def test_the_same_request_gives_the_same_samples_whatever_was_said_before(name):
    voice = Voice(name)
    first = espeak(TEXT, voice)
    espeak("something else", Voice("en+m1", 150, 30))
    np.testing.assert_array_equal(first, espeak(TEXT, voice))
    assert first.dtype == np.int16 and 1.5 < len(first) / 16000 < 6 and np.abs(first).max() > 3000


def test_long_speech_repeats_at_another_time_and_address():
    voice, text = (
        Voice("en-029+Alicia", 195, 63),
        "thanks and can you find a hotel in the riverside",
    )
    first = espeak(text, voice)
    for size in range(1000, 200_000, 20_000):
        held = np.full(size, 3.0, np.float32)  # moves what is allocated next
        np.testing.assert_array_equal(first, espeak(text, voice))
        del held


def test_rate_and_pitch_and_voice_are_heard():
    slow, fast = (espeak(TEXT, Voice(rate=r)) for r in (120, 220))
    assert len(slow) > 1.3 * len(fast)
    assert not np.array_equal(espeak(TEXT, Voice(pitch=20)), espeak(TEXT, Voice(pitch=80)))


def test_number_of_processes_and_cache_change_nothing(tmp_path):
    requests = [(f"turn number {w}", v) for w in ("one", "two") for v in voices(0, 20)]
    requests.insert(3, ("", Voice()))
    one = list(synthesize_all(requests))
    two = list(synthesize_all(requests, tmp_path, processes=2))
    cached = list(synthesize_all(requests[::-1], tmp_path))[::-1]
    assert isinstance(one[3], BadInput) and isinstance(two[3], BadInput)
    for a, b, c in zip(one, two, cached, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
    assert len(list(tmp_path.rglob("*.flac"))) == 40 and not list(tmp_path.rglob("*.tmp"))


def test_a_broken_cache_file_is_made_anew(tmp_path):
    request = [("hello", Voice(pitch=7))]
    (first,) = synthesize_all(request, tmp_path, "test_tts:tone")
    (path,) = tmp_path.rglob("*.flac")
    path.write_bytes(path.read_bytes()[:20])
    (again,) = synthesize_all(request, tmp_path, "test_tts:tone")
    np.testing.assert_array_equal(first, again)


def test_other_synthesisers_plug_in_by_name():
    out = list(
        synthesize_all([("ab", Voice(pitch=3)), ("nothing", Voice())], None, "test_tts:tone")
    )
    assert len(out[0]) == 200 and set(out[0]) == {3} and isinstance(out[1], BadInput)
    with pytest.raises(TypeError, match="int16"):
        list(synthesize_all([("a", Voice())], None, "test_tts:floats"))
    for name in ("test_tts:none", "no_such_module:f", "noname"):
        with pytest.raises(BadInput, match="no synthesiser"):
            tts.synthesizer(name)


def test_bad_requests():
    with pytest.raises(BadInput, match="no voice 'xx-nowhere'"):
        espeak("hello", Voice("xx-nowhere"))
    with pytest.raises(BadInput, match="no variant 'nobody'"):
        espeak("hello", Voice("en-us+nobody"))
    with pytest.raises(BadInput, match="no text"):
        espeak("  ")
    assert len(espeak("hello")) > 0  # and the library is released after an error


def test_voices_are_distinct_repeatable_and_held_out():
    seen, unseen = voices(0, 300), voices(0, 30, held_out=True)
    assert len(set(seen)) == 300 and voices(0, 300) == seen and voices(1, 5) != seen[:5]
    variants = [{v.name.split("+")[1] for v in vs} for vs in (seen, unseen)]
    assert not variants[0] & variants[1] and len(variants[1]) > 4
    assert len({v.label for v in seen}) == 300
    one = voices(0, 40, accents=("en-us",))
    assert len(set(one)) == 40 and {v.name.split("+")[0] for v in one} == {"en-us"}
    assert len({v.name for v in one}) == 16, "every variant speaks before one speaks twice"


def test_every_listed_voice_speaks():
    for variant in tts.VARIANTS + tts.HELD_OUT_VARIANTS:
        assert len(espeak("yes", Voice(f"en-us+{variant}"))) > 2000
    for accent in tts.ACCENTS:
        assert len(espeak("yes", Voice(accent))) > 2000


def test_words_are_timed_where_they_sound():
    text = "yes please, a cheap hotel in the north of the city"
    samples, words = tts.espeak_timed(text)
    np.testing.assert_array_equal(samples, tts.espeak(text))
    assert [w.text for w in words] == text.split()
    assert all(a.start < a.end == b.start for a, b in itertools.pairwise(words))
    assert words[0].start == 0 and 0 < len(samples) / SAMPLE_RATE - words[-1].end < 0.5
    # Words said on their own last about as long as within the sentence.
    for word in (words[3], words[4], words[10]):
        alone = tts.espeak_timed(word.text)[1][0].end
        assert 0.5 * alone < word.end - word.start < 1.5 * alone, word
