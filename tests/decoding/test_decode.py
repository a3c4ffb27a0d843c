"""Cached decoding equals the full forward pass over the answer laid out as a branch."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from speechdst.data.batch import stack
from speechdst.data.tree import Branch, Tokens, layout, pack
from speechdst.decoding.decode import decode
from speechdst.training import state

MAX_NEW = 7
EOS = tiny.tokenizer().eos
MODEL = tiny.config(ctc=False)
SHAPE = tiny.shape(model=MODEL, positions=256, block=64)
KINDS = ("spoken_history", "text_history")


# The same function, compiled in a hurry.
quick_decode = jax.jit(
    decode.__wrapped__,
    static_argnames=("graph", "beam", "max_new", "eos"),
    compiler_options=tiny.QUICK,
)


@functools.cache
def params(decoder="plain"):
    """Sharpened, so that answers vary and end at different lengths."""
    p = dict(tiny.parameters(tiny.config(ctc=False, decoder=decoder)))
    p["decoder/embedding"] = p["decoder/embedding"] * 2
    return p


@functools.cache
def prompts(kind):
    """Two rows of prompt trees: for a spoken history with 3 and with 2 branches."""
    rng = np.random.default_rng(4)
    build = tiny.builder(kind, model=MODEL)
    dialogues = [tiny.dialogue(rng, n) for n in (3, 2)]
    return [build.prompt(d.turns) for d in dialogues]


def rows(trees):
    """The batch of `trees`, one a row, and where their branches start."""
    starts = np.full((len(trees), 3), -1, np.int32)
    for i, tree in enumerate(trees):
        flat = layout(tree)
        for b in range(len(tree.branches)):
            starts[i, b] = np.flatnonzero(flat.branch == b)[0]
    return stack([pack([t], SHAPE) for t in trees]), starts


@functools.cache
def decoded(kind, beam, eos, decoder="plain"):
    batch, starts = rows(prompts(kind))
    tokens, logps = quick_decode(
        params(decoder),
        jax.device_put(batch),
        starts,
        graph=state.abstract(tiny.config(ctc=False, decoder=decoder))[0],
        beam=beam,
        max_new=MAX_NEW,
        eos=eos,
    )
    return np.asarray(tokens), np.asarray(logps)


@functools.cache
def full(decoder="plain"):
    """Compiled full forward pass: (params, batch) -> log-probabilities [R, T, vocabulary]."""
    graph, _ = state.abstract(tiny.config(ctc=False, decoder=decoder))

    def run(params, batch):
        model = state.model_of(graph, params)
        return jax.nn.log_softmax(model.decoder.logits(model(batch)))

    return jax.jit(run, compiler_options=tiny.QUICK)


def forced(trees, answers, decoder="plain"):
    """Log-probabilities [answer, MAX_NEW, vocabulary] along given answers, in branches: `answers`
    are [(tree, branch, tokens)], each hung on its tree in place of the empty one."""
    hung = []
    for i, tree in enumerate(trees):
        branches = []
        for b, branch in enumerate(tree.branches):
            mine = [a for j, k, a in answers if (j, k) == (i, b)]
            # The last token of a branch takes no position, so one is added that is never read.
            branches += [Branch(branch.after, (branch.segments[0], Tokens([*a, 0]))) for a in mine]
        hung.append(dataclasses.replace(tree, branches=tuple(branches)))
    batch = stack([pack([t], SHAPE) for t in hung])
    logp = np.asarray(full(decoder)(params(decoder), batch))
    result, seen = [], {}
    for j, k, a in sorted(answers, key=lambda x: x[:2]):
        index = seen[j] = seen.get(j, -1) + 1
        at = np.flatnonzero(batch.branch[j] == index)[0]
        result.append((j, k, a, logp[j, at : at + len(a) + 1]))
    return result


def every(tokens, kind):
    return [
        (i, b, tokens[i, b].tolist())
        for i, tree in enumerate(prompts(kind))
        for b in range(len(tree.branches))
    ]


def common_token(kind):
    """A token within a greedy answer: taken for the end, that answer ends early."""
    tokens, _ = decoded(kind, 1, EOS)
    return int(tokens[0, 0, 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("early", [False, True], ids=["to the limit", "ends early"])
def test_greedy_is_the_argmax_of_the_full_pass(kind, early):
    eos = common_token(kind) if early else EOS
    tokens, logps = decoded(kind, 1, eos)
    lengths = set()
    for i, b, answer, full_logp in forced(prompts(kind), every(tokens, kind)):
        n = min(answer.index(eos) + 1 if eos in answer else MAX_NEW, MAX_NEW)
        lengths.add(n)
        assert full_logp[:n].argmax(-1).tolist() == answer[:n]
        np.testing.assert_allclose(logps[i, b, :n], full_logp[range(n), answer[:n]], atol=1e-4)
        assert set(answer[n:]) <= {eos} and not logps[i, b, n:].any()
    assert (min(lengths) < MAX_NEW) == early
    absent = [(i, b) for i, t in enumerate(prompts(kind)) for b in range(len(t.branches), 3)]
    for i, b in absent:
        assert set(tokens[i, b].tolist()) == {eos} and not logps[i, b].any()


@pytest.mark.parametrize("decoder", tiny.FAMILIES)
def test_every_decoder_decodes_as_its_full_pass(decoder):
    """Windows reach over the fork into the trunk; caps are of scores and of logits."""
    kind = "spoken_history"
    tokens, logps = decoded(kind, 2, EOS, decoder)
    answers = set()
    for i, b, answer, full_logp in forced(prompts(kind), every(tokens, kind), decoder):
        n = answer.index(EOS) + 1 if EOS in answer else MAX_NEW
        answers.add(tuple(answer))
        np.testing.assert_allclose(logps[i, b, :n], full_logp[range(n), answer[:n]], atol=1e-4)
    assert len(answers) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_beam_has_the_log_probabilities_of_the_full_pass(kind):
    eos = common_token(kind)
    tokens, logps = decoded(kind, 3, eos)
    for i, b, answer, full_logp in forced(prompts(kind), every(tokens, kind)):
        n = answer.index(eos) + 1 if eos in answer else MAX_NEW
        np.testing.assert_allclose(logps[i, b, :n], full_logp[range(n), answer[:n]], atol=1e-4)
        assert not logps[i, b, n:].any()


def search(tree, branch, width, eos):
    """Beam search written plainly: every hypothesis is scored by a full pass of its own branch."""
    beams = [([], 0.0)]
    for _ in range(MAX_NEW):
        grown = [(answer, score) for answer, score in beams if answer and answer[-1] == eos]
        open_beams = [x for x in beams if not (x[0] and x[0][-1] == eos)]
        if not open_beams:
            break
        scored = forced([tree, tree], [(0, branch, a) for a, _ in open_beams])
        for (answer, score), (*_, logp) in zip(open_beams, scored, strict=True):
            last = logp[len(answer)]
            grown += [
                ([*answer, int(v)], score + float(last[v])) for v in np.argsort(-last)[:width]
            ]
        beams = sorted(grown, key=lambda x: -x[1])[:width]
    return max(beams, key=lambda x: x[1] / len(x[0]))


@pytest.mark.parametrize("branch", [0, 2])
def test_beam_search_is_what_it_says(branch):
    kind = "spoken_history"
    eos = common_token(kind)
    tokens, logps = decoded(kind, 3, eos)
    answer, score = search(prompts(kind)[0], branch, 3, eos)
    padded = answer + [eos] * (MAX_NEW - len(answer))
    assert tokens[0, branch].tolist() == padded
    np.testing.assert_allclose(logps[0, branch].sum(), score, atol=1e-3)


def test_branches_do_not_hear_one_another():
    """An answer is the same whether its siblings are decoded with it or not."""
    kind = "spoken_history"
    tree, other = prompts(kind)
    alone = dataclasses.replace(tree, branches=tree.branches[1:2])
    batch, starts = rows([other, alone])
    tokens, logps = quick_decode(
        params(),
        jax.device_put(batch),
        starts,
        graph=state.abstract(MODEL)[0],
        beam=1,
        max_new=MAX_NEW,
        eos=EOS,
    )
    expected, expected_logps = decoded(kind, 1, EOS)
    assert np.asarray(tokens)[1, 0].tolist() == expected[0, 1].tolist()
    np.testing.assert_allclose(logps[1, 0], expected_logps[0, 1], atol=1e-4)
