"""Makes tests/golden/preference.json with TRL's own trainers (torch, transformers, trl on a CPU).

    pip install trl
    python tests/golden/make_preference.py            # write it
    python tests/golden/make_preference.py --check    # compute anew, compare with what is stored

DPO and its kin are the loss of `trl.DPOTrainer` over a model that returns given log-probabilities;
SimPO is `cpo_loss` of TRL's experimental CPO trainer, over averaged log-probabilities as that
trainer takes them. Length-controlled APO-zero is not in TRL: it is its APO-zero of averages.
Numbers are multiples of 2^-8, which float32 holds, and are computed in float64.
"""

import argparse
import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace as Given

FILE = Path(__file__).parent / "preference.json"
NAMES = {"dpo_ln": "sigmoid_norm", "dpo": "sigmoid", "ipo": "ipo", "apo_zero": "apo_zero",
         "apo_zero_ln": "apo_zero", "simpo": "simpo"}
BETAS = (0.05, 0.3, 2.0)
GAMMA = 0.5


def drawn(count: int = 12) -> list[dict]:
    """Pairs: log p of every token, under policy and reference, of chosen and rejected."""
    import numpy as np

    rng, made = np.random.default_rng(0), []
    for i in range(count):
        tokens = [1, 1] if not i else rng.integers(1, 40, 2).tolist()
        base = [np.round(-256 * rng.gamma(1.0, 1.5, n)) / 256 for n in tokens]
        # From hardly moved to far apart, either way; and the policy that is its reference.
        moved = [np.round(256 * rng.normal(0, (0.0, 0.02, 0.3, 2.0)[i % 4], n)) / 256
                 for n in tokens]
        made.append({"reference": [x.tolist() for x in base],
                     "policy": [(x + d).tolist() for x, d in zip(base, moved, strict=True)]})
    return made


def dpo_loss(pair: dict, loss_type: str, beta: float) -> float:
    """The loss that `trl.DPOTrainer` has for one pair."""
    import torch
    from trl import DPOTrainer

    longest = max(map(len, pair["policy"]))
    pad = lambda x: torch.tensor([row + [0.0] * (longest - len(row)) for row in x],
                                 dtype=torch.float64)
    answers = pad(pair["policy"])
    # A prompt of one token stands before the answers.
    mask = torch.tensor([[0] + [1] * len(x) + [0] * (longest - len(x)) for x in pair["policy"]])
    none = torch.zeros_like(answers)
    chosen, rejected = pad(pair["reference"]).sum(1)
    trainer = Given(
        model=Given(training=True), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type],
        loss_weights=[1.0], beta=beta, label_smoothing=0.0, use_weighting=False,
        accelerator=Given(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1)
    model = lambda **_: Given(log_probs=answers, entropy=none, mean_logits=none,
                              is_top1=none.bool())
    inputs = {"input_ids": mask * 0, "attention_mask": mask * 0 + 1, "completion_mask": mask,
              "ref_chosen_logps": chosen[None], "ref_rejected_logps": rejected[None]}
    return DPOTrainer._compute_loss(trainer, model, inputs, False).item()


def simpo_loss(pair: dict, beta: float) -> float:
    import torch
    from trl.experimental.cpo import CPOTrainer

    trainer = Given(alpha=0.0, loss_type="simpo", simpo_gamma=GAMMA, beta=beta,
                    label_smoothing=0.0, accelerator=Given(device="cpu"))
    means = [torch.tensor(x, dtype=torch.float64).mean()[None] for x in pair["policy"]]
    return CPOTrainer.cpo_loss(trainer, *means)[0].item()


def loss(name: str, pair: dict, beta: float) -> float:
    if name == "simpo":
        return simpo_loss(pair, beta)
    if name == "apo_zero_ln":
        pair = {k: [[sum(row) / len(row)] for row in x] for k, x in pair.items()}
    return dpo_loss(pair, NAMES[name], beta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    checking = parser.parse_args().check
    if importlib.util.find_spec("trl") is None:
        print(f"{FILE.name}: skipped, trl is not installed (pip install trl)")
        return
    cases = [{"policy": [sum(x) for x in pair["policy"]],
              "reference": [sum(x) for x in pair["reference"]],
              "tokens": [len(x) for x in pair["policy"]],
              "losses": {name: [loss(name, pair, beta) for beta in BETAS] for name in NAMES}}
             for pair in drawn()]
    made = {"betas": list(BETAS), "gamma": GAMMA, "cases": cases}
    if not checking:
        lines = ",\n".join(json.dumps(case) for case in cases)
        FILE.write_text(f'{{"betas": {list(BETAS)}, "gamma": {GAMMA}, "cases": [\n{lines}\n]}}\n')
        print(f"{FILE.name}: {len(cases)} pairs, {FILE.stat().st_size} bytes")
        return
    same = made == json.loads(FILE.read_text())
    print(f"{FILE.name}: {len(cases)} pairs, {'equal' if same else 'DIFFERENT'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
