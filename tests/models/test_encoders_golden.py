"""The speech encoders against the reference's outputs, layer by layer (see tests/golden)."""

from pathlib import Path

import numpy as np
import pytest
from golden import encoders, encoders_ours

GOLDEN = Path(__file__).parent.parent / "golden"


# The large ones differ from the base ones in their norms alone: one by default.
@pytest.mark.parametrize(("family", "name"), [
    *(pytest.param("wavlm", n, marks=pytest.mark.slow if n in ("large0", "large1") else [])
      for n in encoders.WAVLM), *(("whisper", n) for n in encoders.WHISPER)])
def test_outputs_are_the_references(family, name):
    found = getattr(encoders_ours, family)(name)
    with np.load(GOLDEN / f"{family}.npz") as stored:
        expected = {k: stored[k] for k in stored.files if k.startswith(f"{name}.")}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        for i, (a, b) in enumerate(zip(found[key], value, strict=True)):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max(), err_msg=f"{i}")


def test_a_groupnorm_over_the_padding_is_felt_and_ours_is_not():
    name = "base1"
    ours = encoders_ours.wavlm(name)
    far = np.abs(ours[f"{name}.alone1"] - ours[f"{name}.batched1"]).max()
    assert far > 0.05 * np.abs(ours[f"{name}.alone1"]).max()
