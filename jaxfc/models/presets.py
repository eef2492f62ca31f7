"""Architectures by name: those of published models, as their `config.json` has them, and a small one for benchmarks."""

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Literal

from jaxfc.command import InputError
from jaxfc.config import Model
from jaxfc.models.architecture import read_decoder_config
from jaxfc.models.network import DecoderConfig, RopeScaling

Name = Literal[
    "small",
    "qwen2.5-0.5b",
    "qwen2.5-1.5b",
    "qwen2.5-3b",
    "qwen2.5-7b",
    "qwen2.5-14b",
    "qwen2.5-32b",
    "qwen2.5-coder-0.5b",
    "qwen2.5-coder-1.5b",
    "qwen2.5-coder-3b",
    "qwen2.5-coder-7b",
    "qwen2.5-coder-14b",
    "qwen2.5-coder-32b",
    "qwen3-0.6b",
    "qwen3-1.7b",
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-14b",
    "qwen3-32b",
    "llama-3.2-1b",
    "llama-3.2-3b",
    "llama-3.1-8b",
]


def _qwen2_5(
    vocabulary: int, width: int, hidden: int, layers: int, heads: tuple[int, int], tied: bool
) -> DecoderConfig:
    query, key_value = heads
    return DecoderConfig(
        vocab_size=vocabulary,
        width=width,
        hidden_width=hidden,
        layers=layers,
        heads=query,
        kv_heads=key_value,
        head_width=width // query,
        rope_theta=1_000_000.0,
        tied=tied,
    )


def _qwen3(width: int, hidden: int, layers: int, heads: tuple[int, int], tied: bool) -> DecoderConfig:
    query, key_value = heads
    return DecoderConfig(
        vocab_size=151_936,
        width=width,
        hidden_width=hidden,
        layers=layers,
        heads=query,
        kv_heads=key_value,
        head_width=128,
        rope_theta=1_000_000.0,
        tied=tied,
        qkv_bias=False,
        qk_norm=True,
    )


def _llama3(width: int, hidden: int, layers: int, heads: tuple[int, int], tied: bool, factor: float) -> DecoderConfig:
    query, key_value = heads
    return DecoderConfig(
        vocab_size=128_256,
        width=width,
        hidden_width=hidden,
        layers=layers,
        heads=query,
        kv_heads=key_value,
        head_width=width // query,
        rope_theta=500_000.0,
        norm_epsilon=1e-5,
        tied=tied,
        qkv_bias=False,
        rope_scaling=RopeScaling(factor=factor, low_frequency=1.0, high_frequency=4.0, original_length=8192),
    )


PRESETS = {
    "small": DecoderConfig(vocab_size=8192, width=256, hidden_width=1024, layers=4, heads=4, kv_heads=2, head_width=64),
    "qwen2.5-0.5b": _qwen2_5(151_936, 896, 4864, 24, (14, 2), tied=True),
    "qwen2.5-1.5b": _qwen2_5(151_936, 1536, 8960, 28, (12, 2), tied=True),
    "qwen2.5-3b": _qwen2_5(151_936, 2048, 11_008, 36, (16, 2), tied=True),
    "qwen2.5-7b": _qwen2_5(152_064, 3584, 18_944, 28, (28, 4), tied=False),
    "qwen2.5-14b": _qwen2_5(152_064, 5120, 13_824, 48, (40, 8), tied=False),
    "qwen2.5-32b": _qwen2_5(152_064, 5120, 27_648, 64, (40, 8), tied=False),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, (16, 8), tied=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, (16, 8), tied=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, (32, 8), tied=True),
    "qwen3-8b": _qwen3(4096, 12_288, 36, (32, 8), tied=False),
    "qwen3-14b": _qwen3(5120, 17_408, 40, (40, 8), tied=False),
    "qwen3-32b": _qwen3(5120, 25_600, 64, (64, 8), tied=False),
    "llama-3.2-1b": _llama3(2048, 8192, 16, (32, 8), tied=True, factor=32.0),
    "llama-3.2-3b": _llama3(3072, 8192, 28, (24, 8), tied=True, factor=32.0),
    "llama-3.1-8b": _llama3(4096, 14_336, 32, (32, 8), tied=False, factor=8.0),
}


def preset(name: Name) -> DecoderConfig:
    """The architecture of that name. The Coder models have the sizes of the plain ones."""
    return PRESETS[name.replace("-coder", "")]


def architecture_of(model: Model) -> DecoderConfig:
    """The architecture that the settings mean: of the directory where it is at hand, else the one that they name.

    Raises:
        InputError: there is neither; the name is not known; or the directory has another architecture than that.
    """
    folder, name = Path(model.path or ""), model.architecture
    if name is not None and name.replace("-coder", "") not in PRESETS:
        close = difflib.get_close_matches(name, typing.get_args(Name), 1)
        known = f"did you mean {close[0]}?" if close else f"known are {', '.join(typing.get_args(Name))}."
        raise InputError(f"model.architecture {name}: no such architecture; {known}")
    if not folder.is_dir() and name is None:
        raise InputError(f"model.path {folder}: no such directory; without one, model.architecture must name a model.")
    found = read_decoder_config(folder) if folder.is_dir() and model.path else None
    if found is None or name is None:
        return found or preset(name)
    wanted, given = dataclasses.asdict(preset(name)), dataclasses.asdict(found)
    if wanted != given:
        other = ", ".join(f"{key} {given[key]} (not {wanted[key]})" for key in given if given[key] != wanted[key])
        raise InputError(f"{folder}: is no {name}, as model.architecture says: its config.json has {other}.")
    return found
