"""Examples -> several completions of each, from a model here or from one behind an endpoint."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from jaxfc.config import Prompt
from jaxfc.data.dataset import Split
from jaxfc.data.example import Example
from jaxfc.data.judging.background import Background, in_order
from jaxfc.data.judging.client import Client, Reply
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.data.prompts import prompt_messages

_AHEAD = 2
"""Examples under way for each request that may be."""


class Completed(NamedTuple):
    """The completions of one example."""

    index: int
    """Of the example in its split."""
    example: Example
    texts: Sequence[str] | None
    """None: the model cannot be asked, the prompt being too long for it, or refused."""


Complete = Callable[[Split, Sequence[int]], Iterator[list[Completed]]]
"""(split, indices to complete) -> their completions, a few examples at a time; it may give others of the split too."""


def by_batches(sample: Callable[[Sequence[Example], int], Sequence[Sequence[str] | None]], batch: int) -> Complete:
    """Complete fixed parts of a split, so that what is drawn does not depend on what was interrupted before.

    Args:
        sample: (examples, number of the part) -> the texts of each; made by a sampler.
        batch: examples of a part.
    """

    def complete(split: Split, waiting: Sequence[int]) -> Iterator[list[Completed]]:
        for part in sorted({index // batch for index in waiting}):
            indices = range(part * batch, min((part + 1) * batch, len(split)))
            examples = [split[index] for index in indices]
            yield list(map(Completed, indices, examples, sample(examples, part)))

    return complete


@contextlib.contextmanager
def endpoint_completer(endpoint: Endpoint, prompt: Prompt, samples: int) -> Iterator[Complete]:
    """Complete by an endpoint, within the block; one request for each completion.

    The completer raises InputError when the endpoint is down or refuses requests.

    Args:
        endpoint: settings.
        prompt: how an example becomes messages.
        samples: completions of each example.

    Raises:
        InputError: the environment lacks the key.
    """
    client, background = Client(endpoint, random.Random(0)), Background("endpoint")

    async def ask(index: int, example: Example) -> list[Completed]:
        body = endpoint.body(prompt_messages(example, prompt), {})
        about = f"{example.id} ({example.origin})" if example.origin else example.id
        replies = await asyncio.gather(*(client.ask(body, about) for _ in range(samples)))
        return [Completed(index, example, _texts(replies))]

    def complete(split: Split, waiting: Sequence[int]) -> Iterator[list[Completed]]:
        def start(index: int) -> Future[list[Completed]]:
            return background.start(ask(index, split[index]))

        with contextlib.closing(in_order(waiting, start, _AHEAD * endpoint.concurrency)) as futures:
            yield from (future.result() for future in futures)

    try:
        yield complete
    finally:
        background.cancel()
        background.start(client.close()).result()
        background.close()


def _texts(replies: Sequence[Reply]) -> list[str] | None:
    """What the replies say: one that is empty or was cut short is wrong, and one that was refused is no completion."""
    return None if any(reply.problem == "refused" for reply in replies) else [reply.text for reply in replies]
