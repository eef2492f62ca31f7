"""The decoder against transformers' models: committed logits, and a live comparison where torch is installed."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.models.architecture import read_decoder_config
from jaxfc.models.decoder import Decoder
from jaxfc.models.weights import load_params, save_model
from jaxfc.sharding import make_mesh
from jaxfc.types import Prompts

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = ["qwen2_tied", "qwen2_untied", "qwen2_windows", "qwen3_tied", "qwen3_windows", "llama_scaled", "llama_tied"]


def load(folder: Path):
    decoder = Decoder(read_decoder_config(folder))
    return decoder, load_params(folder, decoder, make_mesh((1, 1, 1), jax.devices()[:1]))


@functools.cache
def compiled(config):
    decoder = Decoder(config)

    def logits(params, prompts, completions):
        hidden = decoder.extend(params, completions, decoder.encode(params, prompts))
        return hidden @ decoder.head(params).T

    return jax.jit(logits)


def logits_after(decoder: Decoder, params, tokens: np.ndarray, prompt_length: int) -> np.ndarray:
    """Logits from which tokens[:, prompt_length:] are predicted, with the rest of the row as their prompt."""
    # The padding of a prompt is what comes next, and that of a completion its prompt: a leak would show.
    completions = np.roll(tokens, -prompt_length, axis=1)
    prompts = Prompts(jnp.asarray(tokens), jnp.full(len(tokens), prompt_length))
    logits = compiled(decoder.config)(params, prompts, jnp.asarray(completions))
    return np.asarray(logits)[:, : tokens.shape[1] - prompt_length]


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_that_transformers_gave(case):
    golden = np.load(GOLDEN / f"{case}.npz")
    model = load(GOLDEN / case)
    for prompt_length in (1, 7, golden["tokens"].shape[1] - 2):
        ours = logits_after(*model, golden["tokens"], prompt_length)
        np.testing.assert_allclose(ours, golden["logits"][:, prompt_length - 1 : -1], atol=1e-4, rtol=0)


@pytest.fixture
def maker():
    pytest.importorskip("torch", reason="torch is not installed; jaxfc does not need it, the live comparison does")
    return runpy.run_path(str(GOLDEN / "make_models.py"))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers_now(case, maker, tmp_path):
    model = maker["make_model"](case, seed=1)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (4, 33))
    ours = logits_after(*load(tmp_path), tokens, 10)
    np.testing.assert_allclose(ours, maker["logits_of"](model, tokens)[:, 9:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_we_save(case, dtype, maker, tmp_path):
    from transformers import AutoModelForCausalLM

    source = GOLDEN / case
    decoder, params = load(source)
    save_model(tmp_path / "saved", params, decoder.config, source, dtype)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    assert str(model.dtype) == f"torch.{dtype}"
    golden = np.load(GOLDEN / f"{case}.npz")
    logits = maker["logits_of"](model.float().eval(), golden["tokens"])
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4, rtol=0)
