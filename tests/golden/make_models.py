"""Make the models of tests/golden: small, random, one of each family, with their logits by transformers and torch.

python tests/golden/make_models.py [NAME ...]     (needs torch, which jaxfc itself does not)
"""

import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 0.5,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}
"""Rows are longer than the original context, and of the six frequencies some are kept, some blended, some slowed."""
WINDOWS = {"use_sliding_window": True, "sliding_window": 5}
CASES = {
    "qwen2_tied": {"tie_word_embeddings": True, "rope_theta": 10_000.0},
    "qwen2_untied": {"tie_word_embeddings": False, "rope_theta": 1_000.0, "head_dim": 12, "rms_norm_eps": 1e-5},
    "qwen2_windows": {"tie_word_embeddings": True, "max_window_layers": 1, **WINDOWS},
    "qwen3_tied": {"tie_word_embeddings": True, "head_dim": 12, "rope_theta": 1_000_000.0},
    "qwen3_windows": {"tie_word_embeddings": False, "head_dim": 8, "max_window_layers": 2, **WINDOWS},
    "llama_scaled": {"tie_word_embeddings": False, "rope_theta": 500.0, "head_dim": 12, "rope_scaling": LLAMA3},
    "llama_tied": {"tie_word_embeddings": True, "rope_theta": 10_000.0},
}


def make_model(case: str, seed: int = 0):
    """A random model in which every parameter matters: no bias is 0, no norm is 1, and scores are far from flat."""
    import torch
    import transformers

    family = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[case.split("_")[0]]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(
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
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
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

    for case in sys.argv[1:] or CASES:
        folder = GOLDEN / case
        model = make_model(case)
        tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, 40))
        np.savez_compressed(GOLDEN / f"{case}.npz", tokens=tokens, logits=logits_of(model, tokens))
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
