"""A model behind the server: prompts by its template, completions by a thread that keeps its slots full."""

import collections
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from jaxfc.calls.grammar import can_be_called
from jaxfc.calls.schema import Tool
from jaxfc.command import InputError
from jaxfc.constraints import Constrained, Constraints
from jaxfc.data.example import Example
from jaxfc.data.pipeline import bucket_of
from jaxfc.data.prompts import THINK, prompt_tokens
from jaxfc.engine import CACHE_TYPES
from jaxfc.programs import Programs
from jaxfc.server.pool import Completion, Pool
from jaxfc.server.protocol import Broken, Busy, NotReady, Order, PromptError, State, Stream
from jaxfc.server.requests import MOST_LIKELIEST
from jaxfc.server.settings import Sizes
from jaxfc.serving import compile_serving, make_weights
from jaxfc.workspace import Workspace

_CLOSE_SECONDS = 10
LOG = logging.getLogger("jaxfc.server")


class Model:
    """A `Backend` over a workspace."""

    def __init__(self, work: Workspace, name: str, sizes: Sizes, programs: Programs):
        """Read the tokenizer; `start` does the rest.

        Args:
            work: the model.
            name: by which requests call it.
            sizes: room for prompts and completions.
            programs: compiles.
        """
        self.name, self.created, self.prompt, self.vocabulary = name, int(time.time()), work.prompt, work.vocabulary
        self.most_prompt_tokens, self.most_completion_tokens = sizes.prompt_buckets[-1], sizes.completion_length
        self._work, self._sizes, self._programs = work, sizes, programs
        self._constraints = _constraints_of(work)
        self.can_constrain = self._constraints is not None
        self._pools: dict[int, Pool] = {}
        self._incoming: list[tuple[int, Completion]] = []
        self._changed = threading.Condition()
        self._ready, self._closing, self._problem = False, False, ""
        self._made, self._compiles_after = 0, 0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self):
        """Compile and serve, in a thread of its own."""
        self._thread.start()

    def wait_until_ready(self):
        """Wait for the compiler.

        Raises:
            Broken: it failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._problem)
            if self._problem:
                raise Broken(self._problem)

    def close(self):
        """End that thread; what is under way is given up. A compiler at work is not waited for."""
        with self._changed:
            self._closing, self._ready = True, False
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    # Asked by the HTTP side

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[int]:
        """See `Backend.chat`. Without tools the conversation is written as it is, without the prompt of training."""
        try:
            if tools:
                return prompt_tokens(_example(tools, messages), self._work.tokenizer, self.prompt)
            text = self._work.tokenizer.chat(list(map(dict, messages)))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise PromptError(f"the model's chat template does not take these messages: {error}") from error
        return self.encode(text + (THINK if self.prompt.opens_think else ""))

    def encode(self, text: str) -> list[int]:
        """See `Backend.encode`."""
        return self._work.tokenizer.encode(text)

    def check_calls(self, tools: Sequence[Tool]):
        """See `Backend.check_calls`; what is compiled here is kept."""
        if not any(map(can_be_called, tools)):
            raise PromptError(
                "none of the tools can be called: a name or a required parameter is no Python identifier."
            )
        if self._hold(tools).refused.any():
            raise PromptError("the tools have too large a grammar to hold answers to; offer fewer, or smaller ones.")

    def submit(self, orders: Sequence[Order]) -> Stream:
        """See `Backend.submit`."""
        each = [(order, choice) for order in orders for choice in range(order.choices)]
        stream = Stream(len(each))
        with self._changed:
            if not self._ready:
                raise NotReady(self._problem or "the model is starting or stopping; come again.")
            buckets = [bucket_of(len(order.prompt), self._sizes.prompt_buckets) for order, _ in each]
            self._check_queue(buckets)
            for number, (bucket, (order, choice)) in enumerate(zip(buckets, each, strict=True)):
                held = None if order.draw.must_call is None else self._hold(order.draw.must_call)
                completion = Completion(order.prompt, order.draw, stream, number, choice, held)
                self._incoming.append((bucket, completion))
            self._changed.notify_all()
        return stream

    def _check_queue(self, buckets: Sequence[int]):
        """Refuse completions of prompts of these buckets, if too many would then wait."""
        new = collections.Counter([*buckets, *(bucket for bucket, _ in self._incoming)])
        would = sum(max(0, pool.waiting + new[bucket] - pool.free) for bucket, pool in self._pools.items())
        if would > self._sizes.queue:
            raise Busy(f"{would} completions would wait for a slot; no more than {self._sizes.queue} may.")

    def state(self) -> State:
        """See `Backend.state`."""
        pools = list(self._pools.values())
        return State(
            ready=self._ready,
            problem=self._problem,
            slots=self._sizes.slots * len(self._sizes.prompt_buckets),
            slots_in_use=sum(pool.in_use for pool in pools),
            waiting=len(self._incoming) + sum(pool.waiting for pool in pools),
            programs=self._made,
            compiles_after=self._compiles_after,
        )

    def _hold(self, tools: Sequence[Tool]) -> Constrained:
        return self._constraints.begin([_example(tools)], group_size=1, must_call=True)

    # The model's thread

    def _run(self):
        try:
            self._pools = self._compile()
            with self._changed:
                self._ready = not self._closing
                self._changed.notify_all()
            while self._wait_for_work():
                for pool in self._pools.values():
                    if pool.has_work:
                        pool.step(self._sizes.ticks)
                self._compiles_after += self._programs.compiles()
            self._abandon(NotReady("the server stops."))
        # Whatever goes wrong here, those who wait are told and /health says so; it is logged, and nothing goes on.
        except Exception as error:
            LOG.exception("the model failed")
            with self._changed:
                self._ready, self._problem = False, f"{type(error).__name__}: {error}"
                self._changed.notify_all()
            self._abandon(Broken(self._problem))

    def _wait_for_work(self) -> bool:
        """Wait until there is some, and take in what is new; false: it is time to end."""

        def is_there():
            return self._closing or self._incoming or any(pool.has_work for pool in self._pools.values())

        with self._changed:
            self._changed.wait_for(is_there)
            self._take_in()
            return not self._closing

    def _take_in(self):
        for bucket, completion in self._incoming:
            self._pools[bucket].add(completion)
        self._incoming.clear()

    def _abandon(self, error: Exception):
        with self._changed:
            self._take_in()
        for pool in self._pools.values():
            pool.abandon(error)

    def _compile(self) -> dict[int, Pool]:
        """All programs and empty slots, by bucket."""
        work, sizes = self._work, self._sizes
        weights = make_weights(work.decoder, work.mesh, work.params)
        # Once the weights are as decoding reads them, the parameters only take memory.
        self._work = work = work._replace(params=None)
        servings = {
            bucket: compile_serving(
                self._programs,
                work.decoder,
                work.mesh,
                weights,
                bucket=bucket,
                prefills=sizes.prefills,
                slots=sizes.slots,
                widths=sizes.widths,
                length=sizes.completion_length,
                vocabulary=work.vocabulary,
                stop_tokens=(work.tokenizer.eos,),
                likeliest=MOST_LIKELIEST,
                cache=CACHE_TYPES[sizes.cache],
            )
            for bucket in sizes.prompt_buckets
        }
        self._programs.finish()
        pieces = work.tokenizer.table
        sized = {"prefills": sizes.prefills, "pieces": pieces}
        pools = {
            bucket: Pool(serving, weights, work.mesh, bucket=bucket, **sized) for bucket, serving in servings.items()
        }
        LOG.info("ready: %s", self._programs.listing())
        self._made = len(self._programs.seconds)
        self._programs.compiles()
        return pools


def _constraints_of(work: Workspace) -> Constraints | None:
    """What holds answers to calls; None where llguidance is not installed or the tokenizer lacks a byte."""
    try:
        return Constraints(work.tokenizer, work.prompt)
    except InputError as error:
        LOG.info("tool_choice is auto or none: %s", error)
        return None


def _example(tools: Sequence[Tool], messages: Sequence[Mapping[str, Any]] = ()) -> Example:
    return Example(id="request", messages=tuple(messages), tools=tuple(tools), accepted=())
