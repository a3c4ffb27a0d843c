"""Frame by frame over caches equals the whole sequence at once."""

import functools

import jax
import numpy as np
import pytest
import tiny
import tiny_streams

from speechdst.data.frames import FrameTree, delayed
from speechdst.decoding import frames as decoding
from speechdst.models.depth import UNGENERATED
from speechdst.training import state

N, SLOTS = 24, 16
STEPS = len(tiny_streams.DELAYS)


@functools.cache
def decoder(model):
    """Compiled (user, forced, pad_bonus) -> (state, frames) of two conversations."""
    graph, _ = state.abstract(model)
    run = functools.partial(decoding.run.__wrapped__, graph=graph,
                            sampling=decoding.Sampling(text_top_k=9, audio_top_k=5))
    run = jax.jit(run, donate_argnums=1, compiler_options=tiny.QUICK)
    return lambda user, forced, bonus=0.0: run(
        tiny.parameters(model), decoding.start(model, len(user), SLOTS, seed=3), user, forced,
        bonus)


def before(user):
    """The user's frames by the step that hears them: each one step later."""
    return np.concatenate([np.full_like(user[:, :1], 7), user[:, :-1]], 1)


def drawn_user(rows=2):
    return np.random.default_rng(1).integers(0, 11, (rows, N, STEPS)).astype(np.int32)


def by_frame(placed):
    """Own codes [n, Q] by frame of what stands at positions; 0 where they are behind the end."""
    codes = np.zeros((len(placed), STEPS), np.int32)
    for q, delay in enumerate(tiny_streams.DELAYS):
        codes[: len(placed) - delay, q] = placed[delay:, 1 + q]
    return codes


@pytest.mark.parametrize("steps", [STEPS, 0])
def test_cached_decoding_equals_the_full_forward(steps):
    """Also when the ring of the cache has gone round: no layer sees further than it is long."""
    model = tiny_streams.config(steps, (12, SLOTS))
    graph, _ = state.abstract(model)
    user = drawn_user()
    forced = np.array(decoding.free(2, STEPS, N))
    forced[:, 4, 0] = model.epad
    last, found = decoder(model)(before(user), forced)
    found = jax.tree.map(np.asarray, found)
    assert last.step == N and (found.placed[:, 4, 0] == model.epad).all()

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def whole(params, batch):
        m = state.model_of(graph, params)
        hidden = m(batch)
        log = jax.nn.log_softmax
        return (log(m.decoder.logits(hidden)),
                log(m.depth.logits(m.code_vectors(batch, hidden))))

    for placed, logp, codes, theirs in zip(found.placed, found.logp, found.codes, user,
                                           strict=True):
        own = by_frame(placed)
        sequence = np.concatenate([placed[:, :1], own, theirs], 1).astype(np.int32)
        v = delayed(sequence, tiny_streams.streams())
        np.testing.assert_array_equal(v[:, : 1 + STEPS], placed)
        longest = max(tiny_streams.DELAYS)
        assert (codes[:longest] == UNGENERATED).all()
        np.testing.assert_array_equal(codes[longest:], own[: N - longest])
        text, audio = whole(tiny.parameters(model), tiny_streams.row([FrameTree(sequence)], 32, 32))
        expected = np.take_along_axis(text[0, :N], placed[:, :1], 1)[:, 0]
        np.testing.assert_allclose(logp[:, 0], expected, atol=1e-4)
        for q, delay in enumerate(tiny_streams.DELAYS):
            expected = np.take_along_axis(audio[0, delay:N, q], placed[delay:, 1 + q : 2 + q], 1)
            np.testing.assert_allclose(logp[delay:, 1 + q], expected[:, 0], atol=1e-4)
            assert not logp[:delay, 1 + q].any()


def test_what_is_forced_is_said_and_padding_can_be_asked_for():
    model = tiny_streams.config(STEPS, (12, SLOTS))
    run, user = decoder(model), drawn_user()
    forced = np.array(decoding.free(2, STEPS, N))
    _, once = run(before(user), forced)
    _, again = run(before(user), forced)
    np.testing.assert_array_equal(once.placed, again.placed)
    # What one conversation is made to say changes nothing in the other, nor anything before.
    forced[0, 10] = [5, 6, 7, 8]
    _, other = run(before(user), forced)
    np.testing.assert_array_equal(other.placed[0, 10], forced[0, 10])
    np.testing.assert_array_equal(other.placed[0, :10], once.placed[0, :10])
    np.testing.assert_array_equal(other.placed[1], once.placed[1])
    assert (other.placed[0, 11:] != once.placed[0, 11:]).any()
    # Nor does a frame that is not yet heard.
    late = user.copy()
    late[:, 12:] = (late[:, 12:] + 1) % 11
    _, heard = run(before(late), np.array(decoding.free(2, STEPS, N)))
    np.testing.assert_array_equal(heard.placed[:, :13], once.placed[:, :13])
    assert (heard.logp[:, 13:] != once.logp[:, 13:]).any()
    assert (once.placed[..., 0] != model.pad).any()
    _, silent = run(before(user), np.array(decoding.free(2, STEPS, N)), 1e9)
    assert (np.asarray(silent.placed[..., 0]) == model.pad).all()


def test_sampling_keeps_to_the_best():
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]] * 2000, np.float32))
    key = jax.random.key(0)
    assert set(decoding.sample(logits, key, 0.0, 0).tolist()) == {3}
    assert set(decoding.sample(logits, key, 1.0, 1).tolist()) == {3}
    drawn = np.asarray(decoding.sample(logits, key, 1.0, 2))
    assert set(drawn.tolist()) == {2, 3}
    assert abs((drawn == 3).mean() - 4 / 7) < 0.05
    sharp = np.asarray(decoding.sample(logits, key, 0.5, 0))
    assert abs((sharp == 3).mean() - 16 / 30) < 0.05
