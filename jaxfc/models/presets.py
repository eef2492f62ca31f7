"""Architectures by name: the sizes of Qwen2.5 that are trained, and a small one for benchmarks."""

from typing import Literal

from jaxfc.models.decoder import DecoderConfig

Name = Literal["small", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b"]


def preset(name: Name) -> DecoderConfig:
    """The architecture of that name, as in the `config.json` of Qwen/Qwen2.5-0.5B, -1.5B and -7B."""
    match name:
        case "small":
            return DecoderConfig(
                vocab_size=8192, width=256, hidden_width=1024, layers=4, heads=4, kv_heads=2, head_width=64
            )
        case "qwen2.5-0.5b":
            return _qwen2_5(151936, width=896, hidden_width=4864, layers=24, heads=14, kv_heads=2, head_width=64)
        case "qwen2.5-1.5b":
            return _qwen2_5(151936, width=1536, hidden_width=8960, layers=28, heads=12, kv_heads=2, head_width=128)
        case "qwen2.5-7b":
            return _qwen2_5(
                152064, width=3584, hidden_width=18944, layers=28, heads=28, kv_heads=4, head_width=128, tied=False
            )


def _qwen2_5(vocab_size: int, **sizes) -> DecoderConfig:
    return DecoderConfig(vocab_size=vocab_size, rope_theta=1_000_000.0, norm_epsilon=1e-6, **sizes)
