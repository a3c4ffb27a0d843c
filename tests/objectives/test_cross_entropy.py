"""Losses: chunked equals plain, CTC equals Optax on one unpadded example, pairs merge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from speechdst.objectives.cross_entropy import cross_entropy, ctc

R, T, WIDTH, V = 2, 20, 6, 11


def example(seed=0):
    rng = np.random.default_rng(seed)
    weights = (rng.random((R, T)) < 0.4).astype(np.float32)
    weights[:, 8:16] = 0  # whole chunks without a target
    return (
        jnp.asarray(rng.standard_normal((R, T, WIDTH)), jnp.float32),
        jnp.asarray(rng.standard_normal((WIDTH, V)), jnp.float32),
        jnp.asarray(rng.integers(0, V, (R, T))),
        jnp.asarray(weights),
    )


def plain(hidden, head, targets, weights, cap=0.0):
    logits = cap * jnp.tanh(hidden @ head / cap) if cap else hidden @ head
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = logits.argmax(-1) == targets
    return (loss * weights).sum(), (right * weights).sum()


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_chunked_equals_plain(chunk):
    hidden, head, targets, weights = example()
    chunked = jax.jit(functools.partial(cross_entropy, chunk=chunk))(hidden, head, targets, weights)
    loss, right = plain(hidden, head, targets, weights)
    np.testing.assert_allclose(chunked["loss"][0], loss, rtol=1e-6)
    assert chunked["accuracy"][0] == right
    assert chunked["loss"][1] == chunked["accuracy"][1] == weights.sum()


def test_gradients_of_chunked_equal_plain():
    hidden, head, targets, weights = example(1)
    both = [
        jax.jit(jax.grad(f, (0, 1)))(hidden, head)
        for f in (
            lambda h, w: cross_entropy(h, w, targets, weights, chunk=4)["loss"][0],
            lambda h, w: plain(h, w, targets, weights)[0],
        )
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *both)


def test_capped_logits():
    hidden, head, targets, weights = example(3)
    run = lambda f, **more: jax.value_and_grad(
        lambda h, w: f(h, w, targets, weights, cap=1.5, **more), (0, 1))(hidden, head)
    loss, grads = run(lambda *x, **more: cross_entropy(*x, **more)["loss"][0], chunk=4)
    expected, expected_grads = run(lambda *x, cap: plain(*x, cap)[0])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, expected_grads)
    assert abs(loss - plain(hidden, head, targets, weights)[0]) > 1, "the cap is felt"


def test_nothing_to_predict_is_zero_of_zero():
    hidden, head, targets, weights = example()
    result = cross_entropy(hidden, head, targets, 0 * weights, chunk=4)
    assert [float(x) for pair in result.values() for x in pair] == [0, 0, 0, 0]


def test_no_program_holds_a_row_of_logits():
    hidden, head, targets, weights = example()
    step = jax.grad(lambda h: cross_entropy(h, head, targets, weights, chunk=4)["loss"][0])
    sizes = [v.aval.size for e in _equations(jax.make_jaxpr(step)(hidden).jaxpr) for v in e.outvars]
    assert max(sizes) < R * T * V


def _equations(jaxpr):
    for e in jaxpr.eqns:
        yield e
        for value in e.params.values():
            for sub in value if isinstance(value, (tuple, list)) else (value,):
                sub = getattr(sub, "jaxpr", sub)
                if hasattr(sub, "eqns"):
                    yield from _equations(sub)


def test_pairs_merge_over_parts():
    """The (sum, weight) pairs of the parts of a batch add up to the pair of the whole."""
    hidden, head, targets, weights = example(2)
    rows = lambda i: (hidden[i : i + 1], head, targets[i : i + 1], weights[i : i + 1])
    whole = cross_entropy(hidden, head, targets, weights)["loss"]
    parts = [cross_entropy(*rows(i))["loss"] for i in range(R)]
    np.testing.assert_allclose(whole, np.sum(parts, 0), rtol=1e-6)


class TestCTC:
    frames, labels, classes = 9, 4, 6
    compiled = staticmethod(
        jax.jit(jax.value_and_grad(ctc, has_aux=True), compiler_options=tiny.QUICK)
    )

    def run(self, logits, lengths, transcripts, transcript_lengths):
        (loss, weight), grad = self.compiled(
            jnp.asarray(logits, jnp.float32),
            np.array(lengths),
            np.array(transcripts),
            np.array(transcript_lengths),
        )
        return float(loss), float(weight), np.asarray(grad)

    def logits(self, seed=0, n=1):
        return np.random.default_rng(seed).standard_normal((n, self.frames, self.classes))

    @pytest.mark.parametrize("said", [[0, 1, 2], [3, 3], [4]])
    @pytest.mark.parametrize("length", [9, 5])
    def test_equals_optax_on_one_unpadded_example(self, said, length):
        logits = self.logits()
        expected = optax.ctc_loss(
            jnp.asarray(logits[:, :length]),
            jnp.zeros((1, length)),
            jnp.array([said]),
            jnp.zeros((1, len(said))),
            blank_id=self.classes - 1,
        )
        logits[:, length:] = 1e6  # padding
        padded = [*said, *[2] * (self.labels - len(said))]
        loss, weight, grad = self.run(logits, [length], [padded], [len(said)])
        np.testing.assert_allclose(loss, float(expected[0]), rtol=1e-5)
        assert weight == len(said)
        assert not grad[:, length:].any()

    def test_utterances_without_a_possible_transcript_count_nothing(self):
        loss, weight, grad = self.run(
            self.logits(n=4),
            [9, 2, 2, 0],
            [[1, 2, 3, 4], [1, 2, 3, 0], [1, 1, 0, 0], [1, 0, 0, 0]],
            # no transcript; longer than the frames; its repeat needs a blank; no frames
            [0, 3, 2, 1],
        )
        assert (loss, weight) == (0, 0) and not grad.any()

    def test_the_shortest_possible_is_counted(self):
        _, weight, grad = self.run(
            self.logits(n=4),
            [3, 2, 0, 0],
            [[1, 1, 0, 0], [1, 2, 2, 2], [0] * 4, [0] * 4],
            [2, 2, 0, 0],
        )
        assert weight == 4 and np.isfinite(grad).all()

    def test_tables_without_transcripts(self):
        loss, weight = ctc(
            jnp.zeros((2, 5, 3)),
            jnp.array([5, 0]),
            jnp.zeros((2, 0), jnp.int32),
            jnp.zeros(2, jnp.int32),
        )
        assert (float(loss), float(weight)) == (0, 0)
