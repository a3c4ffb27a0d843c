"""Makes the golden files of the decoders with the reference (torch, transformers, CPU).

    python tests/golden/make_decoders.py            # write tests/golden/decoders_<family>.npz
    python tests/golden/make_decoders.py --check    # compute anew, compare with what is stored and
                                                    # with ours; and whether transformers and peft
                                                    # load what we export

Weights and inputs follow a rule (`decoders.py`), so the files hold outputs only.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from golden import decoders as golden  # noqa: E402


def reference(name: str):
    """The reference's model of a case, with the weights of the rule."""
    values = golden.values(name)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    # Gemma's caps exist in this attention only; what it computes is what all others approximate.
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for own, x in model.named_parameters():
        x.data = torch.from_numpy(golden.draw(own, tuple(x.shape)))
    return model.eval()


def run(model, **inputs) -> dict[str, np.ndarray]:
    """States behind every layer and after the final norm, and logits, where they are stored."""
    found = []
    take = lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out)
    inner = getattr(model, "get_base_model", lambda: model)().model  # under peft one step further
    hooks = [x.register_forward_hook(take) for x in (*inner.layers, inner.norm)]
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    for hook in hooks:
        hook.remove()
    *states, hidden = (x[0] for x in found)
    made = {"states": torch.stack(states), "hidden": hidden, "logits": logits}
    return {k: v.numpy()[..., golden.SHOWN, :] for k, v in made.items()}


def outputs(name: str) -> dict[str, np.ndarray]:
    model, ids = reference(name), torch.from_numpy(golden.tokens())
    made = run(model, input_ids=ids)
    if name.startswith("gemma"):
        # Transformers 4 scales everything that enters Gemma 2, transformers 5 only tokens; the
        # published models and ours are of the former kind. Gemma 3 leaves soft vectors alone.
        width = model.config.hidden_size
        version = int(transformers.__version__.split(".")[0])
        x = model.get_input_embeddings()(ids)
        soft = torch.from_numpy(golden.soft(width))
        if name.startswith("gemma2") and version >= 5:
            soft = soft * width**0.5
        x = torch.cat([x[:, :3], soft, x[:, 9:]], 1).detach()
        made["soft"] = run(model, inputs_embeds=x)["hidden"]
    return {f"{name}.{key}": value for key, value in made.items()}


def compare(what: str, found: dict, made: dict) -> bool:
    """Whether all outputs are the reference's, every layer to 1e-4 of its largest entry."""
    gone = set(found) ^ set(made)
    errors = {}
    for key in set(found) & set(made):
        pairs = zip(found[key], made[key], strict=True) if key.endswith("states") else (
            (found[key], made[key]),)
        errors[key] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    worst = max(errors, key=errors.get)
    print(f"{what}: {len(errors)} outputs, the farthest from the reference is {worst} with "
          f"{errors[worst]:.1e} relative" + f", missing or new: {sorted(gone)}" * bool(gone))
    return errors[worst] <= 1e-4 and not gone


def check_export(name: str, folder: Path) -> bool:
    """Import, export, load in transformers: the same tensors and logits."""
    from golden import decoders_ours as ours
    from safetensors.numpy import load_file

    from speechdst.hf import decoders as hf

    before = ours.write(folder / "in", name)
    _, config, params = ours.load(folder / "in")
    hf.save(folder / "out", params, config, golden.values(name), shard_bytes=9000)
    shards = sorted((folder / "out").glob("*.safetensors"))
    after = {k: v for shard in shards for k, v in load_file(shard).items()}
    same = set(before) == set(after) and all(np.array_equal(before[k], after[k]) for k in before)
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "out", attn_implementation="eager", output_loading_info=True)
    clean = not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.from_numpy(golden.tokens())
    if not same or not clean:
        print(f"{name}: tensors differ after a round trip, or transformers complains: {info}")
    return same and clean and compare(
        f"our export of {name} in {len(shards)} shards, in transformers",
        run(loaded.eval(), input_ids=ids), run(reference(name), input_ids=ids))


def check_adapter(name: str, folder: Path) -> bool:
    """Our adapter in peft, merged and not; peft's adapter in ours; our merged export."""
    import dataclasses

    import peft
    from golden import decoders_ours as ours

    from speechdst.hf import decoders as hf
    from speechdst.hf import lora
    from speechdst.models.lora import merge

    rank, alpha = 3, 5.0
    ours.write(folder / "in", name)
    _, base, params = ours.load(folder / "in")
    config = dataclasses.replace(base, transformer=dataclasses.replace(
        base.transformer, lora_rank=rank, lora_alpha=alpha))
    graph, shapes = ours.shapes(config)
    drawn = {p: golden.draw(p, x.shape) for p, x in shapes.items() if lora.is_lora(p)}
    lora.save(folder / "adapter", drawn, hf.table(base), rank, alpha, str(folder / "in"))
    theirs = peft.PeftModel.from_pretrained(reference(name), folder / "adapter").eval()
    ids = torch.from_numpy(golden.tokens())
    ok = compare(f"our adapter for {name}: ours", ours.run(graph, params | drawn),
                 run(theirs, input_ids=ids))
    theirs.save_pretrained(folder / "again")
    template = {p: shapes[p] for p in drawn}
    again = lora.load(folder / "again", template, hf.table(base), rank, alpha)
    if not all(np.array_equal(again[p], drawn[p]) for p in drawn):
        print(f"{name}: the adapter that peft wrote is another")
        ok = False
    merged = merge(params | drawn, rank, alpha)
    hf.save(folder / "merged", merged, base, golden.values(name))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "merged", attn_implementation="eager")
    return ok & compare(f"our merged export of {name}, and what peft merges",
                        run(loaded.eval(), input_ids=ids),
                        run(theirs.merge_and_unload(), input_ids=ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    checking, ok = parser.parse_args().check, True
    for family, cases in golden.CASES.items():
        path, names = HERE / f"decoders_{family}.npz", [f"{family}{i}" for i in range(len(cases))]
        made = {k: v for name in names for k, v in outputs(name).items()}
        if not checking:
            np.savez_compressed(path, **made)
            print(f"{path.name}: {len(made)} outputs, {path.stat().st_size} bytes")
            continue
        from golden import decoders_ours as ours

        with np.load(path) as stored, tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            ok &= compare(path.name, dict(stored), made)
            own = {k: v for name in names for k, v in ours.outputs(name, at / name).items()}
            ok &= compare(f"our {family}", own, made)
            for name in names:
                ok &= check_export(name, at / f"{name}_export")
            ok &= check_adapter(names[0], at / "adapter")
    sys.exit(not ok)


if __name__ == "__main__":
    main()
