"""Frames as trees: delays over forks; a tree trains as its sequences would one by one."""

import dataclasses

import numpy as np
import pytest
import tiny
import tiny_streams
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data import frames
from speechdst.data.batch import stack
from speechdst.data.dialogue import BadInput
from speechdst.data.tree import pack_layouts


def whole(tree: frames.FrameTree, branch: frames.FrameBranch) -> dict:
    """One branch with its prefix as a plain sequence, in a row of its own; scored are the codes
    of the branch's frames."""
    streams = tiny_streams.streams()
    sequence = np.concatenate([tree.trunk[: branch.after], branch.frames])
    flat = frames.layout(frames.FrameTree(sequence, loss=True), streams)
    at = np.arange(len(sequence))
    late = at[:, None] - np.array(tiny_streams.DELAYS) >= branch.after
    flat = dataclasses.replace(flat, loss_weight=flat.loss_weight * (at >= branch.after),
                               code_weight=flat.code_weight * late)
    return pack_layouts([flat], [[]], 64, 16)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(0, 14), st.lists(
    st.tuples(st.integers(0, 14), st.integers(1, 12)), min_size=1, max_size=3))
def test_tree_equals_its_sequences_one_by_one(seed, trunk, branches):
    rng = np.random.default_rng(seed)
    tree = frames.FrameTree(tiny_streams.drawn(rng, trunk), tuple(
        frames.FrameBranch(min(after, trunk), tiny_streams.drawn(rng, n)) for after, n in branches))
    run = tiny_streams.gradient(tiny_streams.config())
    (loss, pairs), grads = run(tiny_streams.row([tree]), 1.0, 1.0)
    parts = [run(stack([whole(tree, b)]), 1.0, 1.0) for b in tree.branches]
    np.testing.assert_allclose(loss, sum(p[0][0] for p in parts), rtol=1e-5)
    for name, pair in pairs.items():
        np.testing.assert_allclose(pair, np.sum([p[0][1][name] for p in parts], 0), rtol=1e-5,
                                   err_msg=name)
    summed = {path: sum(np.asarray(p[1][path]) for p in parts) for path in grads}
    tiny.assert_same_gradients(grads, summed)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(0, 9), st.integers(0, 9), st.integers(1, 5))
def test_a_branch_reads_and_predicts_what_its_sequence_would(seed, trunk, after, n):
    rng = np.random.default_rng(seed)
    streams, after = tiny_streams.streams(), min(after, trunk)
    tree = frames.FrameTree(tiny_streams.drawn(rng, trunk),
                            (frames.FrameBranch(after, tiny_streams.drawn(rng, n)),), loss=True)
    flat = frames.layout(tree, streams)
    assert len(flat) == frames.length(tree) == trunk + n
    sequence = np.concatenate([tree.trunk[:after], tree.branches[0].frames])
    # V by its definition, frame by frame.
    v = [[sequence[s - d, k] if s >= d else streams.initial[k]
          for k, d in enumerate(streams.delays)] for s in range(len(sequence))]
    read = np.array([streams.initial, *v])[after:-1]
    own = flat.branch == 0
    np.testing.assert_array_equal(flat.tokens[own], read[:, 0])
    np.testing.assert_array_equal(flat.codes[own], read[:, 1:])
    np.testing.assert_array_equal(flat.code_targets[own], np.array(v)[after:, 1:4])
    # Every known own code of the tree is scored once, unless its place is behind an end.
    for stream, weight in ((0, flat.loss_weight), *(
            (1 + q, flat.code_weight[:, q]) for q in range(streams.own))):
        late = streams.delays[stream]
        kept = [part[: max(len(part) - late, 0), stream]
                for part in (tree.trunk, tree.branches[0].frames)]
        assert weight.sum() == sum((k != frames.ZERO).sum() for k in kept)


def test_bad_frames_are_named():
    rng = np.random.default_rng(0)
    trunk, streams = tiny_streams.drawn(rng, 4), tiny_streams.streams()
    high = trunk.copy()
    high[2, 3] = 11
    for tree, text in (
            (frames.FrameTree(high), r"id 11 in frame 2, expected 0 to 10.*|stream 3"),
            (frames.FrameTree(trunk[:, :5]), r"expected int32 \[frames, 7\]"),
            (frames.FrameTree(trunk, (frames.FrameBranch(2, trunk[:0]),)), "0 frames"),
            (frames.FrameTree(trunk, (frames.FrameBranch(5, trunk),)), "within a trunk of 4")):
        with pytest.raises(BadInput, match=text):
            frames.layout(tree, streams)
    with pytest.raises(ValueError, match="does not fit"):
        frames.pack([frames.FrameTree(trunk)] * 5, streams, 16, 16)
