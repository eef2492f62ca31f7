"""A model, a tokenizer and batches small enough to compile in seconds, for the tests of several modules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfc.calls.schema import Tool, accepted_from_bfcl
from jaxfc.config import Prompt
from jaxfc.data.example import Example
from jaxfc.data.prompts import Tokenizer, completion_text, prompt_messages
from jaxfc.data.tasks import generate
from jaxfc.models.create import make_config, make_tokenizer
from jaxfc.models.decoder import Decoder
from jaxfc.sharding import make_mesh
from jaxfc.types import Prompts

VOCABULARY = 37
DECODER = Decoder(make_config(vocabulary=40, width=32, hidden_width=48, layers=2, heads=4, kv_heads=2))
"""Its last three vocabulary rows only pad."""
GROUPED = Decoder(make_config(vocabulary=40, width=32, hidden_width=48, layers=2, heads=8, kv_heads=2))
"""It can be cut into 8, of which each has one query head and a quarter of a key-value head."""
MESHES = {name: tuple(map(int, name.split("x"))) for name in ("8x1x1", "2x2x2", "1x4x2", "1x1x8")}
"""Eight devices as data x fsdp x tensor."""
SEED_PROMPT = Prompt(system="{tools}", tools="signatures")
"""The prompt of configs/seed.yaml."""


def seed_tokenizer(folder) -> Tokenizer:
    """A tokenizer made the way the seed model's is, of fewer tasks."""
    examples = [generate(1, "train", index) for index in range(400)]
    texts = (message["content"] for example in examples for message in prompt_messages(example, SEED_PROMPT))
    make_tokenizer(folder, [*texts, *(completion_text(example, SEED_PROMPT) for example in examples)], 512)
    return Tokenizer(folder)


def weather_example(city: str = "Paris", *, calls: bool = True) -> Example:
    """A query with one tool, which serves it or does not."""
    tool = Tool("weather", "", {"city": {"type": "string"}, "days": {"type": "integer"}}, ("city",))
    accepted = accepted_from_bfcl([{"weather": {"city": [city], "days": [3]}}] if calls else [])
    query = {"role": "user", "content": f"Three days of weather in {city}?"}
    return Example(id=city, messages=(query,), tools=(tool,), accepted=accepted, thought="weather: weather")


def one_device():
    """The mesh of the first device alone."""
    return make_mesh((1, 1, 1), jax.devices()[:1])


@functools.cache
def tiny_params(decoder=DECODER):
    """Parameters in which biases and norms matter too, and whose distributions are neither flat nor certain."""
    leaves, structure = jax.tree.flatten(decoder.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten([a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


def ragged_prompts(lengths, room: int, *, padding: int = 0) -> Prompts:
    """Random prompts of these lengths, the same whatever the room and the padding."""
    tokens = np.full((len(lengths), room), padding, np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = np.random.default_rng((7, row)).integers(0, VOCABULARY, length)
    return Prompts(jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32))


@jax.jit
def _extend_alone(params, tokens):
    """Hidden states that predict tokens[1:], [N - 1, D], of one row that attends to nothing but itself."""
    first = DECODER.encode(params, Prompts(tokens[None, :1], jnp.ones(1, jnp.int32)))
    return DECODER.extend(params, tokens[None, 1:], first)[0]


def plain_hidden(params, prompts: Prompts, completions):
    """What `extend` gives over a shared prefix, [B, T, D], from each row's prompt + completion by itself."""
    group = completions.shape[0] // prompts.lengths.shape[0]
    room, length = prompts.tokens.shape[1], completions.shape[1]
    columns = np.arange(room + length)

    def alone(prompt, prompt_length, completion):
        own = completion[jnp.clip(columns - prompt_length, 0, length - 1)]
        row = jnp.where(columns < prompt_length, prompt[np.minimum(columns, room - 1)], own)
        # Prompt token n predicts column n + 1, which is row n of the hidden states.
        return _extend_alone(params, row)[prompt_length - 1 + np.arange(length)]

    repeated = jax.tree.map(lambda a: jnp.repeat(a, group, axis=0), prompts)
    return jax.vmap(alone)(repeated.tokens, repeated.lengths, completions)


def device_bytes(tree) -> set[int]:
    """How many bytes of these arrays each device has."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return set(held.values())


def equations(jaxpr):
    """Every equation of a jaxpr, those of its inner jaxprs included."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                yield from equations(value)


def array_shapes(jaxpr) -> set[tuple[int, ...]]:
    """The shapes of all arrays that a traced function makes."""
    return {tuple(out.aval.shape) for equation in equations(jaxpr) for out in equation.outvars}
