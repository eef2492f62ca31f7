import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfc.programs import Programs, abstract
from jaxfc.types import Prompts

ROOT = Path(__file__).parents[1]


class Planted:
    """A function whose compilation is `work`."""

    def __init__(self, work):
        self.compile = work

    def __call__(self):
        raise NotImplementedError

    def lower(self, *_):
        return self


def test_a_compiled_function_says_what_the_function_says():
    programs = Programs()
    x = jnp.arange(6.0).reshape(2, 3)
    function = jax.jit(lambda x, y: (x @ y.T, x.sum()))
    compiled = programs.compile("product", function, *abstract((x, x)))
    for got, expected in zip(compiled(x, x), function(x, x), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(TypeError, match="compiled"):
        compiled(x[:1], x)


class Batch(NamedTuple):
    prompts: Prompts


def test_a_call_goes_to_the_program_of_its_bucket():
    def prompts_of(bucket):
        return Prompts(jnp.ones((2, bucket), jnp.int32), jnp.full(2, bucket, jnp.int32))

    programs = Programs()
    function = jax.jit(lambda scale, prompts: scale * prompts.tokens.sum())
    call = programs.by_bucket("sum", function, (4, 8), lambda bucket: (2, abstract(prompts_of(bucket))))
    inside = programs.by_bucket(
        "inside", jax.jit(lambda scale, batch: scale), (4,), lambda _: (2, Batch(abstract(prompts_of(4))))
    )
    programs.finish()
    programs.compiles()
    assert [int(call(3, prompts_of(bucket))) for bucket in (4, 8)] == [24, 48]
    assert int(inside(7, Batch(prompts_of(4)))) == 7
    assert list(programs.seconds) == ["sum/4", "sum/8", "inside/4"] and min(programs.seconds.values()) > 0
    with pytest.raises(KeyError):
        call(3, prompts_of(16))


def test_compilations_run_side_by_side_and_beside_the_caller():
    programs, met = Programs(), threading.Barrier(3, timeout=30)

    def work():
        met.wait()
        return lambda x: x + 1

    calls = [programs.compile(name, Planted(work)) for name in ("a", "b")]
    met.wait()  # Reached only if neither waits for the other, nor we for them.
    assert [call(1) for call in calls] == [2, 2]
    assert programs.listing().startswith("2 programs, 2 compiled and 0 from the cache: a 0.")


def test_what_the_compiler_raises_is_raised():
    def work():
        raise ValueError("no such instruction")

    programs = Programs()
    call = programs.compile("broken", Planted(work))
    for use in (programs.finish, programs.listing, call):
        with pytest.raises(ValueError, match="no such instruction"):
            use()


def test_every_program_that_is_made_is_counted_and_none_that_is_there():
    programs, x = Programs(), jnp.ones(3)
    programs.compiles()
    calls = [programs.compile(str(n), jax.jit(lambda x, n=n: x * n + x), x) for n in range(5)]
    programs.finish()
    assert programs.compiles() == 5 and programs.compiles() == 0
    assert [np.asarray(call(x))[0] for call in calls] == [1, 2, 3, 4, 5]
    assert programs.compiles() == 0
    jax.jit(lambda x: x * 6 - x)(x)
    assert programs.compiles() == 1


SCRIPT = """
import hashlib, json, sys
import jax, jax.numpy as jnp
from jaxfc.programs import Programs

def function(x):
    for _ in range(96):
        x = jnp.sin(x @ x) + jax.nn.softmax(x)
    return x

programs = Programs(sys.argv[1] if sys.argv[1:] else None)
x = jax.random.normal(jax.random.key(0), (64, 64))
programs.compiles()
compiled = programs.compile("chain", jax.jit(function, donate_argnums=0), x)
programs.finish()
count, listing = programs.compiles(), programs.listing()
digest = hashlib.sha256(jax.device_get(compiled(x + 0)).tobytes()).hexdigest()
programs.compiles()
jax.jit(lambda x: 2 * function(x))(x)
print(json.dumps([count, listing.split(" s")[0].rsplit(" ", 1)[0], "(cache)" in listing, digest, programs.compiles()]))
"""


def run(tmp_path, *arguments, **environment):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    ours = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    ours |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "JAX_NUM_CPU_DEVICES": "1"} | environment
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, env=ours, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_second_run_reads_its_programs_from_the_cache_and_computes_the_same(tmp_path):
    first, second = (run(tmp_path, "~/kept") for _ in range(2))
    assert first[:3] == [1, "1 programs, 1 compiled and 0 from the cache: chain", False]
    assert second[:3] == [1, "1 programs, 0 compiled and 1 from the cache: chain", True]
    assert first[3] == second[3]
    # A program that is new to the run counts as one after warm-up, even if the cache has it.
    assert first[4] == second[4] == 1
    assert list((tmp_path / "kept").iterdir())


def test_without_a_folder_nothing_is_kept_and_jaxs_own_goes_before_ours(tmp_path):
    assert run(tmp_path)[2] is False and sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]
    theirs = tmp_path / "theirs"
    environment = {"JAX_COMPILATION_CACHE_DIR": str(theirs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    run(tmp_path, str(tmp_path / "ours"), **environment)
    assert any(theirs.iterdir()) and not (tmp_path / "ours").exists()
