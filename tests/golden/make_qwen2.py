"""Make tests/golden/qwen2_*: small random Qwen2 models and their logits, by transformers and torch.

python tests/golden/make_qwen2.py     (needs torch, which jaxfc itself does not)
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
CASES = {
    "tied": {"tie_word_embeddings": True, "rope_theta": 10_000.0},
    "untied": {"tie_word_embeddings": False, "rope_theta": 1_000.0, "head_dim": 12, "rms_norm_eps": 1e-5},
}


def make_model(case: str, seed: int = 0):
    """A random Qwen2 in which every parameter matters: no bias is 0, no norm is 1, and scores are far from flat."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=160,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        attn_implementation="eager",
        **CASES[case],
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            value = 1 + 0.3 * noise if "norm" in name else 0.5 * noise if name.endswith("bias") else 0.2 * noise
            # Rounded once, the weights are the same numbers in a bfloat16 file and in a float32 model. (The model as
            # a whole is not cast: that would round its rotary frequencies too.)
            parameter.copy_(value.bfloat16().float())
    return model


def logits_of(model, tokens: np.ndarray) -> np.ndarray:
    """[rows, length] tokens -> [rows, length, vocabulary] logits in float32."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def main():
    """Write the files."""
    import torch

    for case in CASES:
        folder = GOLDEN / f"qwen2_{case}"
        model = make_model(case)
        tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, 20))
        np.savez_compressed(GOLDEN / f"qwen2_{case}.npz", tokens=tokens, logits=logits_of(model, tokens))
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
