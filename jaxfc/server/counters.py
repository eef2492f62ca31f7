"""What has happened so far, in the text format of Prometheus."""

import collections
from collections.abc import Mapping

from jaxfc.server.protocol import State


class Counters:
    """Counts of the HTTP side. Used in the event loop only."""

    def __init__(self):
        self.requests = collections.Counter[tuple[str, int]]()
        """(path, status) -> replies."""
        self.seconds = collections.Counter[str]()
        """Path -> seconds that its requests took, added up."""
        self.under_way = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.first_token_seconds = 0.0
        self.first_tokens = 0

    def text(self, state: State) -> str:
        """All figures, with those of the model side."""
        requests = {f'path="{path}",status="{status}"': count for (path, status), count in self.requests.items()}
        seconds = {f'path="{path}"': value for path, value in self.seconds.items()}
        taken = collections.Counter[str]()
        for (path, _), count in self.requests.items():
            taken[f'path="{path}"'] += count
        return "".join(
            (
                _family("jaxfc_requests_total", "counter", "Replies by path and status.", requests),
                _family("jaxfc_request_seconds_sum", "counter", "Seconds that requests took.", seconds),
                _family("jaxfc_request_seconds_count", "counter", "Requests that took them.", taken),
                _one("jaxfc_requests_under_way", "gauge", "Requests without a whole reply.", self.under_way),
                _one("jaxfc_first_token_seconds_sum", "counter", "Seconds to first tokens.", self.first_token_seconds),
                _one("jaxfc_first_token_seconds_count", "counter", "Requests with a first token.", self.first_tokens),
                _one("jaxfc_prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
                _one("jaxfc_completion_tokens_total", "counter", "Tokens drawn.", self.completion_tokens),
                _one("jaxfc_ready", "gauge", "1: the model takes requests.", int(state.ready)),
                _one("jaxfc_slots", "gauge", "Completions that can be decoded at once.", state.slots),
                _one("jaxfc_slots_in_use", "gauge", "Completions being decoded.", state.slots_in_use),
                _one("jaxfc_queue_length", "gauge", "Completions that wait for a slot.", state.waiting),
                _one("jaxfc_programs", "gauge", "Programs compiled at start-up.", state.programs),
                _one("jaxfc_compiles_after_start_total", "counter", "Programs compiled later.", state.compiles_after),
            )
        )


def _family(name: str, kind: str, explanation: str, values: Mapping[str, float | int]) -> str:
    lines = [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in values.items()]
    return "\n".join([f"# HELP {name} {explanation}", f"# TYPE {name} {kind}", *lines]) + "\n"


def _one(name: str, kind: str, explanation: str, value: float | int) -> str:
    return _family(name, kind, explanation, {"": value})
