"""Makes the golden file of the multi-stream model with the reference (torch, transformers, CPU).

    python tests/golden/make_moshi.py            # write tests/golden/moshi.npz
    python tests/golden/make_moshi.py --check    # compute anew and compare with what is stored
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import MoshiConfig, MoshiForCausalLM
from transformers.models.moshi.modeling_moshi import MoshiDepthDecoder

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from golden import moshi as golden  # noqa: E402


def outputs() -> dict[str, np.ndarray]:
    g = golden
    config = MoshiConfig(
        vocab_size=g.VOCABULARY, hidden_size=g.WIDTH, num_hidden_layers=g.LAYERS,
        num_attention_heads=g.HEADS, ffn_dim=2 * g.MLP, audio_vocab_size=g.CARD,
        num_codebooks=g.CODEBOOKS, attn_implementation="eager",
        depth_decoder_config=dict(
            hidden_size=g.DEPTH_WIDTH, num_hidden_layers=g.DEPTH_LAYERS,
            num_attention_heads=g.DEPTH_HEADS, ffn_dim=2 * g.DEPTH_MLP, vocab_size=g.VOCABULARY,
            audio_vocab_size=g.CARD, input_size=g.WIDTH, num_codebooks=g.CODEBOOKS,
            max_position_embeddings=g.CODEBOOKS + 1))
    config.depth_decoder_config._attn_implementation = "eager"
    temporal = MoshiForCausalLM(config).eval()
    depth = MoshiDepthDecoder(config.depth_decoder_config).eval()
    for prefix, model in (("", temporal), ("depth_decoder.", depth)):
        for name, x in model.named_parameters():
            x.data = torch.from_numpy(g.draw(prefix + name, tuple(x.shape)))
    text, read, predicted = map(torch.from_numpy, g.tokens())
    with torch.no_grad():
        x = temporal.model.embed_tokens(text[:, :-1])
        for k in range(2 * g.CODEBOOKS):
            x = x + torch.from_numpy(g.stream_table(k))[read[..., k]]
        # Its causal masks are made of the mask that is given.
        hidden = temporal.model(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2]))[0]
        # One frame a row: its text token, then its codes but the last.
        ids = torch.cat([text[0, 1:, None], predicted[0, :, :-1]], 1)
        codes = depth(input_ids=ids, attention_mask=torch.ones(ids.shape),
                      last_hidden_state=hidden[0, :, None].expand(-1, g.CODEBOOKS, -1)).logits
        return {"hidden": hidden[0].numpy(), "text": temporal.lm_head(hidden)[0].numpy(),
                "audio": codes.numpy()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    path, made = HERE / "moshi.npz", outputs()
    if parser.parse_args().check:
        for name, x in np.load(path).items():
            np.testing.assert_allclose(made[name], x, atol=1e-6)
        print(f"{path.name}: as stored")
    else:
        np.savez_compressed(path, **made)
