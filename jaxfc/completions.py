"""Examples -> the texts of completions, greedy or sampled: the model's side of an evaluation."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh as DeviceMesh

from jaxfc.constraints import Constraints
from jaxfc.data.example import Example
from jaxfc.data.pipeline import bucket_of, pad_prompts
from jaxfc.data.prompts import Form, Tokenizer
from jaxfc.draws import make_sampling
from jaxfc.processes import deal, exchange
from jaxfc.sampler import Effort
from jaxfc.sharding import held, place_held, place_key, place_replicated, share_of
from jaxfc.types import Params, Rollouts

Texts = Sequence[str] | None
"""Completions of one example; None where its prompt is longer than the largest bucket."""


def make_greedy(
    sample: Callable[..., tuple[Rollouts, Effort]], tokenizer: Tokenizer, form: Form, mesh: DeviceMesh, **sizes: Any
) -> Callable[[Params, Sequence[Example]], list[str | None]]:
    """Make `(params, examples) -> texts`, one greedy completion each; arguments as of `make_completer`."""
    complete = make_completer(sample, tokenizer, form, mesh, **sizes)

    def generate(params: Params, examples: Sequence[Example]) -> list[str | None]:
        # Greedy decoding draws nothing, so that any key will do.
        return [texts and texts[0] for texts in complete(params, examples, jax.random.key(0))]

    return generate


def make_completer(
    sample: Callable[..., tuple[Rollouts, Effort]],
    tokenizer: Tokenizer,
    form: Form,
    mesh: DeviceMesh,
    *,
    buckets: Sequence[int],
    batch: int,
    max_tokens: int,
    group_size: int = 1,
    temperature: float = 0.0,
    constraints: Constraints | None = None,
) -> Callable[[Params, Sequence[Example], jax.Array], list[Texts]]:
    """Make `(params, examples, key) -> texts of each`. What is drawn depends on the key and on all these examples.

    Every call of `sample` has `batch` prompts of one bucket, so it compiles at most once per bucket.

    Args:
        sample: made by `make_sampler` of steps with this group size.
        tokenizer: the model's.
        form: how an example becomes a prompt.
        mesh: where the prompts are placed.
        buckets: rising lengths in tokens; a prompt longer than the last has no completion.
        batch: prompts decoded together.
        max_tokens: a completion is cut after this many.
        group_size: completions of each example (G).
        temperature: they are drawn at; 0 is greedy.
        constraints: hold the answers to calls of the offered tools; None leaves them free.
    """
    sampling = place_replicated(
        mesh, make_sampling(temperature=temperature, stop_tokens=(tokenizer.eos,), max_tokens=max_tokens)
    )
    share = share_of(mesh, batch)

    def complete(
        params: Params, examples: Sequence[Example], chosen: Sequence[int], tokens_of: Callable, bucket: int, key
    ) -> dict[int, list[str]]:
        """Texts of a batch of examples, chosen by index: of those that are this process's own."""
        mine = [chosen[row] if row < len(chosen) else None for row in share.held]
        prompts = pad_prompts([[] if index is None else tokens_of(index) for index in mine], bucket)
        held_to = constraints and constraints.begin(
            [None if index is None else examples[index] for index in mine], group_size=group_size
        )
        rollouts, _ = sample(params, place_held(mesh, prompts), place_key(mesh, key), sampling, constrained=held_to)
        tokens, lengths, ended = held((rollouts.tokens, rollouts.lengths, rollouts.ended))
        # The token that ends a completion is no part of its text.
        texts = [
            tokenizer.text(row[:n].tolist()) for row, n in zip(tokens, lengths - ended.astype(np.int32), strict=True)
        ]
        groups = [texts[start : start + group_size] for start in range(0, len(texts), group_size)]
        rows = zip(mine, share.own, groups, strict=True)
        return {index: group for index, own, group in rows if own and index is not None}

    def generate(params: Params, examples: Sequence[Example], key: jax.Array) -> list[Texts]:
        tokens_of = functools.cache(lambda index: form.tokens_of(examples[index], tokenizer))
        placed = deal(lambda index: bucket_of(len(tokens_of(index)), buckets), range(len(examples)))
        texts: dict[int, list[str]] = {}
        batches = itertools.count()
        for bucket in buckets:
            waiting = [index for index, its_bucket in enumerate(placed) if its_bucket == bucket]
            for start in range(0, len(waiting), batch):
                chosen, own_key = waiting[start : start + batch], jax.random.fold_in(key, next(batches))
                texts |= complete(params, examples, chosen, tokens_of, bucket, own_key)
        everywhere = {index: text for of_process in exchange(texts) for index, text in of_process.items()}
        return [everywhere.get(index) for index in range(len(examples))]

    return generate
