"""A model from nothing: random weights, and a tokenizer trained on the texts that it will see."""

from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxfc.models.decoder import Decoder
from jaxfc.models.network import DecoderConfig
from jaxfc.types import Params

END, PAD = "<|end|>", "<|endoftext|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = """\
{% for message in messages %}<|{{ message.role }}|>{{ message.content or '' }}\
{% for call in message.tool_calls or [] %}{{ (call.function or call) | tojson }}{% endfor %}<|end|>{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
PIECES = r"[A-Za-z]+|[0-9]|\s|[^A-Za-z0-9\s]+"
"""Tokens never cross from one of these to the next: a name has the same tokens in a schema, a query and a call."""


def make_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int):
    """Train a byte-level BPE on the texts and save it with a chat template; every byte has a token.

    Args:
        folder: where tokenizer.json and tokenizer_config.json go.
        texts: what merges are learned from.
        vocabulary: tokens in all, the special ones and the 256 bytes included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES, *TAGS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE
    ).save_pretrained(str(folder))


def mimetic_params(decoder: Decoder, key: jax.Array) -> Params:
    """Random parameters whose attention starts out near to copying.

    Queries resemble their keys, and each output projection resembles the transpose of its values. Copying then forms
    in a fraction of the steps. Mimetic initialisation, arXiv:2305.09828.
    """
    config = decoder.config
    params = decoder.init(key)
    blocks = params["blocks"]
    group = config.heads // config.kv_heads

    def per_query_head(kernel):
        heads = kernel.reshape(*kernel.shape[:-1], config.kv_heads, config.head_width)
        return jnp.repeat(heads, group, axis=-2).reshape(*kernel.shape[:-1], -1)

    keys, values = (per_query_head(blocks[name]["kernel"]) for name in ("k", "v"))
    blocks["q"]["kernel"] = 0.7 * keys + 0.7 * blocks["q"]["kernel"]
    blocks["o"]["kernel"] = jnp.swapaxes(values, 1, 2) / group + 0.3 * blocks["o"]["kernel"]
    return params


def make_config(*, vocabulary: int, width: int, hidden_width: int, layers: int, heads: int, kv_heads: int):
    """A Qwen2 architecture with a tied head."""
    return DecoderConfig(
        vocab_size=vocabulary,
        width=width,
        hidden_width=hidden_width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
    )
