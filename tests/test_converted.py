"""Models between formats: what goes in comes out, bit for bit, and memory stays near what is kept."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import one_device

from jaxfc.checkpoint import Checkpoints
from jaxfc.command import InputError
from jaxfc.config import Mesh, Model, Optimizer
from jaxfc.learner import make_optimizer, make_state
from jaxfc.models.architecture import read_decoder_config
from jaxfc.models.converted import restore_params, save_params
from jaxfc.models.decoder import Decoder
from jaxfc.models.tensors import contents_digest
from jaxfc.models.weights import load_params, params_digest
from jaxfc.workspace import open_workspace

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SEED_MODEL = ROOT / "jaxfc" / "assets" / "seed"
FAMILIES = ["qwen2_untied", "qwen3_tied", "llama_scaled"]


def convert(*arguments) -> str:
    """Run the script; what it printed."""
    command = [sys.executable, str(ROOT / "scripts" / "convert.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("case", FAMILIES)
def test_there_and_back_every_tensor_is_the_same(case, tmp_path):
    digests = {
        convert("--source", GOLDEN / case),
        convert("--source", GOLDEN / case, "--output", tmp_path / "orbax", "to=orbax"),
        convert("--source", tmp_path / "orbax", "--output", tmp_path / "back"),
        contents_digest(GOLDEN / case),
        contents_digest(tmp_path / "back"),
    }
    assert len(digests) == 1
    one, other = (load_file(folder / "model.safetensors") for folder in (GOLDEN / case, tmp_path / "back"))
    assert one.keys() == other.keys() and all(one[name].dtype == other[name].dtype for name in one)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_digest_tells_numbers_and_types_apart(tmp_path):
    decoder = Decoder(read_decoder_config(GOLDEN / "qwen2_tied"))
    params = load_params(GOLDEN / "qwen2_tied", decoder, one_device())
    plain = params_digest(params, decoder.config, "bfloat16")
    assert plain == contents_digest(GOLDEN / "qwen2_tied") != params_digest(params, decoder.config, "float32")
    params["norm"]["scale"] = params["norm"]["scale"].at[0].multiply(1.5)
    assert params_digest(params, decoder.config, "bfloat16") != plain


def test_a_run_starts_from_a_converted_model_as_from_its_source(tmp_path):
    convert("--source", SEED_MODEL, "--output", tmp_path / "orbax", "to=orbax")
    mesh = Mesh(data=2, fsdp=2, tensor=2)
    one, other = (open_workspace(Model(path=str(path)), mesh, None) for path in (SEED_MODEL, tmp_path / "orbax"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert jax.tree.map(lambda a: a.sharding, one.params) == jax.tree.map(lambda a: a.sharding, other.params)
    assert one.decoder.config == other.decoder.config and one.prompt == other.prompt
    assert len(other.digest) == 64 and one.digest != other.digest


def test_a_model_is_taken_out_of_the_checkpoint_of_a_run(tmp_path):
    source = GOLDEN / "qwen2_tied"
    decoder = Decoder(read_decoder_config(source))
    params = load_params(source, decoder, one_device())
    state = make_state(decoder, params, make_optimizer(Optimizer()), one_device())
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, meta={})
    checkpoints.save(7, state, {"notes": {}})
    checkpoints.finish()
    found = convert("--source", tmp_path / "checkpoints" / "7", f"like={source}", "--output", tmp_path / "model")
    assert found == contents_digest(source) == contents_digest(tmp_path / "model")


def test_parameters_of_another_architecture_are_refused(tmp_path):
    source = GOLDEN / "qwen2_tied"
    decoder = Decoder(read_decoder_config(source))
    save_params(tmp_path / "m", load_params(source, decoder, one_device()), decoder.config, source, "float32")
    other = Decoder(read_decoder_config(GOLDEN / "qwen3_tied"))
    with pytest.raises(InputError, match=r"params: does not hold the parameters of this architecture"):
        restore_params(tmp_path / "m", other, one_device())
    with pytest.raises(InputError, match="is there already; give a path that is free"):
        save_params(tmp_path / "m", {}, decoder.config, source, "float32")


HALF_A_BILLION = """
import json, sys
from pathlib import Path
import jax, numpy as np, ml_dtypes
from safetensors.numpy import save_file
from jaxfc.models.decoder import Decoder
from jaxfc.models.architecture import config_fields
from jaxfc.models.presets import preset
from jaxfc.models.tensors import stored_tensors, tensor_shapes

folder, config = Path(sys.argv[1]), preset("qwen2.5-0.5b")
folder.mkdir()
shapes = tensor_shapes(stored_tensors(config), jax.eval_shape(Decoder(config).init, jax.random.key(0)))
names, places, rng = list(shapes), {}, np.random.default_rng(0)
for part in range(4):
    file = f"model-{part + 1:05}-of-00004.safetensors"
    tensors = {n: rng.standard_normal(shapes[n], np.float32).astype(ml_dtypes.bfloat16) for n in names[part::4]}
    save_file(tensors, folder / file)
    places |= dict.fromkeys(tensors, file)
(folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
(folder / "config.json").write_text(json.dumps(config_fields(config) | {"torch_dtype": "bfloat16"}))
"""
LOAD_AND_SAVE = """
import resource, sys
from pathlib import Path
import jax
from jaxfc.models.architecture import read_decoder_config
from jaxfc.models.decoder import Decoder
from jaxfc.models.weights import load_params, save_model
from jaxfc.sharding import make_mesh

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

source, target = map(Path, sys.argv[1:])
decoder, mesh = Decoder(read_decoder_config(source)), make_mesh((1, 1, 1))
peaks = [peak()]
params = load_params(source, decoder, mesh)
peaks.append(peak())
save_model(target, params, decoder.config, source, "bfloat16")
print(*peaks, peak())
"""


@pytest.mark.slow
def test_half_a_billion_parameters_pass_through_little_more_memory_than_they_take(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}

    def run(program, *arguments):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    run(HALF_A_BILLION, tmp_path / "hf")
    before, loaded, saved = map(int, run(LOAD_AND_SAVE, tmp_path / "hf", tmp_path / "back").split())
    held, largest = 494_032_768 * 4, 151_936 * 896 * 4
    print(f"loading {loaded - before}, saving {saved - before}, bound {held + 1.2 * largest:.0f}")
    assert loaded - before < held + 1.2 * largest
    assert saved - before < held + 1.2 * largest
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) == 5
    digests = [contents_digest(tmp_path / folder) for folder in ("hf", "back")]
    digests.append(convert("--source", tmp_path / "hf", "--output", tmp_path / "orbax", "to=orbax"))
    digests.append(convert("--source", tmp_path / "orbax", "--output", tmp_path / "again"))
    assert len({*digests, contents_digest(tmp_path / "again")}) == 1
