"""Make the adapters of tests/golden: PEFT's directories for a model that is there, with its logits by peft and torch.

python tests/golden/make_adapters.py     (needs torch and peft, which jaxfc itself does not)
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
CASES = {
    "peft_qwen2": ("qwen2_tied", {"r": 3, "lora_alpha": 6, "target_modules": "all-linear"}),
    "peft_llama": (
        "llama_scaled",
        {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    ),
}
"""Case -> the model that it adapts, and its LoraConfig."""


def load_base(case: str):
    """The model that a case adapts."""
    import torch
    import transformers

    folder = GOLDEN / CASES[case][0]
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def make_adapted(case: str, seed: int = 0):
    """The model of a case under random adapters that matter: neither of their factors is 0."""
    import peft
    import torch

    base, settings = CASES[case]
    torch.manual_seed(seed)
    model = peft.get_peft_model(load_base(case), peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.peft_config["default"].base_model_name_or_path = base
    return model


def logits_of(model, tokens: np.ndarray) -> np.ndarray:
    """[rows, length] tokens -> [rows, length, vocabulary] logits in float32."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def main():
    """Write the files."""
    for case in CASES:
        model = make_adapted(case)
        tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 24))
        np.savez_compressed(GOLDEN / f"{case}.npz", tokens=tokens, logits=logits_of(model, tokens))
        model.save_pretrained(GOLDEN / case)
        (GOLDEN / case / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
