"""Makes the golden files of the speech encoders with the reference (torch, transformers, CPU).

    python tests/golden/make_encoders.py            # write tests/golden/{wavlm,whisper}.npz
    python tests/golden/make_encoders.py --check    # compute anew, compare with what is stored,
                                                    # and with ours where JAX is installed too

Weights and clips follow a rule (`encoders.py`), so the files hold outputs only.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from golden import encoders  # noqa: E402


def fill(module: torch.nn.Module) -> torch.nn.Module:
    """The module with the weights of the rule, ready to be asked."""
    state = module.state_dict()
    drawn = {name: torch.from_numpy(encoders.draw(name, tuple(x.shape)))
             for name, x in state.items()}
    module.load_state_dict(drawn)
    return module.eval()


def states(module, layers, *inputs, **options):
    """The last hidden state and every layer's output, float32 [layers + 1, N, T, width]."""
    found = []
    take = lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out)
    hooks = [layer.register_forward_hook(take) for layer in layers]
    with torch.no_grad():
        last = module(*inputs, **options).last_hidden_state
    for hook in hooks:
        hook.remove()
    return torch.stack([*found, last]).numpy()


def wavlm() -> dict[str, np.ndarray]:
    """Per config: two clips, each alone, and in one batch with its mask (padded: as is)."""
    result = {}
    for i, (name, values) in enumerate(encoders.WAVLM.items()):
        config = transformers.WavLMConfig(
            **{k: v for k, v in values.items() if k != "model_type"}, mask_time_prob=0.0)
        model = fill(transformers.WavLMModel(config))
        normalize = values["feat_extract_norm"] == "layer"
        extract = transformers.Wav2Vec2FeatureExtractor(
            do_normalize=normalize, return_attention_mask=True)
        clips = [encoders.clip(n, j) for j, n in enumerate(encoders.SIZES[i % 3])]
        ask = lambda wave, model=model, extract=extract: states(
            model, model.encoder.layers, **extract(
                wave, sampling_rate=16_000, padding=True, return_tensors="pt"))
        for j, wave in enumerate(clips):
            alone = ask([wave])[:, 0]
            result[f"{name}.alone{j}"] = encoders.some(alone)
        result[f"{name}.batched1"] = encoders.some(ask(clips)[:, 1, : alone.shape[1]])
    return result


def whisper() -> dict[str, np.ndarray]:
    """Per config: a clip with silence to the window's end, and features as long as the window."""
    result = {}
    for name, values in encoders.WHISPER.items():
        given = {k: v for k, v in values.items() if k != "model_type"}
        positions, mels = values["max_source_positions"], values["num_mel_bins"]
        model = fill(WhisperEncoder(transformers.WhisperConfig(**given)))
        extract = transformers.WhisperFeatureExtractor(mels, chunk_length=positions // 50)
        features = extract(encoders.clip(encoders.CLIP), sampling_rate=16_000,
                           return_tensors="pt").input_features
        # Silence follows upon the clip's end, which the frames around it show.
        result[f"{name}.features"] = features[0].T.numpy()[[0, 20, 61, 62, 63, 64, 99]]
        heard = states(model, model.layers, features)[:, 0]
        result[f"{name}.pad30"] = np.concatenate(
            [encoders.some(heard[:, :32]), heard[:, -1:]], 1)
        # "short": the same model with no more positions than the clip has.
        frames = 46
        short = fill(WhisperEncoder(transformers.WhisperConfig(
            **given | dict(max_source_positions=frames // 2))))
        short.embed_positions.weight.data = model.embed_positions.weight.data[: frames // 2]
        drawn = torch.from_numpy(encoders.features(frames, mels).T[None])
        result[f"{name}.short"] = encoders.some(
            states(short, short.layers, drawn)[:, 0])
    return result


def compare(what: str, found: dict, made: dict[str, np.ndarray]) -> bool:
    """Whether all layers of all outputs are the reference's, to 1e-4 of their largest entry."""
    gone = set(found) ^ set(made)
    errors = {k: max(np.abs(a - b).max() / np.abs(b).max()
                     for a, b in zip(found[k], made[k], strict=True)) for k in made if k in found}
    worst = max(errors, key=errors.get)
    print(f"{what}: {len(errors)} outputs, the farthest from the reference is {worst} with "
          f"{errors[worst]:.1e} relative" + (f", missing or new: {sorted(gone)}" if gone else ""))
    return errors[worst] <= 1e-4 and not gone


def loads_our_export(name: str) -> bool:
    """Whether the reference finds in our export just its own tensors, bit for bit."""
    from golden import encoders_ours

    from speechdst.hf import encoders as encoder_files
    from speechdst.hf import wavlm as hf_wavlm
    from speechdst.models.audio_encoder.wavlm import WavLM

    values = encoders.WAVLM[name]
    config = hf_wavlm.config(values)
    params = encoders_ours.drawn(hf_wavlm.table(config), encoders_ours.shapes(WavLM, config)[1])
    with tempfile.TemporaryDirectory() as folder:
        encoder_files.save(folder, params, config, values)
        model, told = transformers.WavLMModel.from_pretrained(folder, output_loading_info=True)
    odd = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    differ = [n for n, x in model.state_dict().items()
              if not np.array_equal(x.numpy(), encoders.draw(n, tuple(x.shape)))]
    print(f"our export of {name} in transformers: {len(model.state_dict())} tensors, "
          f"{len(odd)} missing, unexpected or misshapen, {len(differ)} differ")
    return not odd and not differ


def check(path: Path, made: dict[str, np.ndarray], cases) -> bool:
    with np.load(path) as stored:
        ok = compare(path.name, dict(stored), made)
    if not importlib.util.find_spec("jax"):
        print("JAX is not installed here: the stored outputs only")
        return ok
    from golden import encoders_ours

    if path.stem == "wavlm":
        ok &= loads_our_export(next(iter(cases)))
    ours = [getattr(encoders_ours, path.stem)(name) for name in cases]
    return compare(f"our {path.stem}", {k: v for o in ours for k, v in o.items()}, made) and ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    checking = parser.parse_args().check
    torch.manual_seed(0)
    ok = True
    for name, make, cases in (("wavlm", wavlm, encoders.WAVLM),
                              ("whisper", whisper, encoders.WHISPER)):
        path, made = HERE / f"{name}.npz", make()
        if checking:
            ok &= check(path, made, cases)
        else:
            np.savez_compressed(path, **made)
            print(f"{path.name}: {len(made)} outputs, {path.stat().st_size} bytes")
    sys.exit(not ok)


if __name__ == "__main__":
    main()
