import numpy as np
import pytest

from speechdst.data import augment
from speechdst.data.augment import Augment, mask_features, warp_features
from speechdst.data.dialogue import BadInput


def tone(hz=200.0, seconds=1.0, level=0.3):
    t = np.arange(int(16_000 * seconds)) / 16_000
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


def power(x):
    return np.mean(np.square(x, dtype=np.float64))


def peak_hz(x):
    return np.abs(np.fft.rfft(x)).argmax() * 16_000 / len(x)


@pytest.mark.parametrize("color", ["white", "pink"])
@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_its_level_and_color(color, snr):
    clean = tone()
    added = augment.noise(clean, snr, rng(), color) - clean
    assert 10 * np.log10(power(clean) / power(added)) == pytest.approx(snr, abs=0.2)
    spectrum = np.abs(np.fft.rfft(added)) ** 2
    ratio = spectrum[100:200].mean() / spectrum[4000:8000].mean()
    assert ratio > 20 if color == "pink" else 0.5 < ratio < 2


def test_telephone_keeps_its_band_only():
    for hz, kept in ((60, False), (1000, True), (2500, True), (6000, False)):
        out = augment.telephone(tone(hz))
        assert len(out) == 16_000
        assert (
            (power(out) > 0.8 * power(tone(hz))) if kept else (power(out) < 0.02 * power(tone(hz)))
        )
    assert len(augment.telephone(tone(seconds=0.01))) == 160


def test_speed_tempo_and_pitch():
    fast = augment.speed(tone(), 1.25)
    assert len(fast) == 12_800 and peak_hz(fast) == pytest.approx(250, abs=3)
    stretched = augment.tempo(tone(), 1.25)
    assert len(stretched) == 12_800 and peak_hz(stretched) == pytest.approx(200, abs=3)
    high = augment.pitch(tone(), 12)
    assert len(high) == 16_000 and peak_hz(high) == pytest.approx(400, abs=6)


def test_gain_clips():
    assert power(augment.gain(tone(), -6)) == pytest.approx(power(tone()) / 3.98, rel=0.01)
    assert np.abs(augment.gain(tone(), 40)).max() == 1.0


def test_reverberation_rings_and_keeps_the_power():
    short = np.concatenate([tone(seconds=0.2), np.zeros(16_000, np.float32)])
    out = augment.reverberation(short, 0.5, rng())
    assert out.shape == short.shape and power(out) == pytest.approx(power(short), rel=1e-3)
    early, late = power(out[3500:5000]), power(out[9000:10_500])
    assert early > 1e-6 and late < early / 100


def test_augment_is_repeatable_and_off_when_empty():
    every = Augment({name: 1.0 for name in augment._KINDS})
    one, two = every(tone(), rng(3)), every(tone(), rng(3))
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32 and np.isfinite(one).all()
    assert not np.array_equal(one, every(tone(), rng(4))[: len(one)])
    np.testing.assert_array_equal(Augment({})(tone(), rng()), tone())
    np.testing.assert_array_equal(Augment({"noise": 0.0})(tone(), rng()), tone())


def test_probabilities_and_ranges_hold():
    half = Augment({"gain": {"probability": 0.5, "decibels": (-20, -10)}})
    factors = [np.abs(half(tone(seconds=0.1), rng(i))).max() / 0.3 for i in range(200)]
    changed = [f for f in factors if f < 0.99]
    assert 70 < len(changed) < 130
    assert min(changed) >= 0.099 and max(changed) <= 0.32


def test_order_in_the_configuration_does_not_matter():
    config = {"noise": {"snr": 5, "color": "pink"}, "gain": -3}
    with pytest.raises(BadInput, match="no probability"):
        Augment(config)
    config["gain"] = {"decibels": -3}
    turned = dict(reversed(config.items()))
    np.testing.assert_array_equal(Augment(config)(tone(), rng()), Augment(turned)(tone(), rng()))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"echo": 1.0}, "unknown augmentations"),
        ({"noise": 1.5}, "no probability"),
        ({"noise": {"level": 3}}, "unknown settings"),
        ({"noise": {"snr": (20, 5)}}, "no range"),
        ({"noise": {"snr": "loud"}}, "neither a number nor a pair"),
        ({"noise": {"color": "blue"}}, "not among"),
        ({"speed": {"factor": (0, 1)}}, "above 0"),
    ],
)
def test_a_bad_configuration_is_named(config, match):
    with pytest.raises(BadInput, match=match):
        Augment(config)


def test_mask_features():
    features = rng(1).normal(size=(200, 80)).astype(np.float16)
    kept = features.copy()
    shares = []
    for seed in range(20):
        masked = mask_features(features, rng(seed))
        assert masked.dtype == np.float16
        changed = masked != features
        rows, columns = changed.all(1), changed.all(0)
        assert rows.sum() <= 80 and columns.sum() <= 30
        assert not changed[~rows][:, ~columns].any()
        shares.append(changed.mean())
    assert 0.05 < np.mean(shares) < 0.6
    np.testing.assert_array_equal(features, kept)
    np.testing.assert_array_equal(mask_features(features, rng(5)), mask_features(features, rng(5)))
    short = mask_features(features[:3], rng(), channel_masks=0)
    np.testing.assert_array_equal(short, features[:3])


def test_warped_features_are_another_speaker_s():
    """A tone moves with the vocal tract, an event with the pace, and neither where it is not asked
    for; nothing is lost at the ends."""
    features = np.zeros((300, 40), np.float16)
    features[:, 20] = 1
    features[150] = 2
    moved = [warp_features(features, rng(i), vocal_tract=0.2) for i in range(8)]
    tones = {int(m[10].argmax()) for m in moved}
    assert len(tones) > 2 and tones <= set(range(16, 26))
    assert all((m[150] == 2).all() for m in moved)
    paced = [warp_features(features, rng(i), time_warp=0.3) for i in range(8)]
    events = {int(m[:, 0].argmax()) for m in paced}
    assert len(events) > 2 and events <= set(range(110, 190))
    assert all((np.delete(m[:, 20], range(100, 200)) == 1).all() for m in paced)
    for options in (dict(colour=0.5), dict(floor=0.9), dict(colour=0.2, floor=0.3, time_warp=0.1)):
        made = [warp_features(features, rng(i), **options) for i in range(6)]
        assert all(m.shape == features.shape and m.dtype == features.dtype for m in made)
        assert any((m != features).any() for m in made)
        assert np.isfinite(np.stack(made)).all()
    assert (warp_features(features, rng(0)) == features).all()
    assert warp_features(features[:0], rng(0), time_warp=0.1).shape == (0, 40)
    masked = mask_features(features, rng(3), time_masks=0, channel_masks=0, vocal_tract=0.2)
    assert (masked == warp_features(features, rng(3), vocal_tract=0.2)).all()
