"""Difficulty: every setting of measuring how hard examples are for a model."""

import dataclasses
from typing import Literal

from jaxfc.config import Mesh, Model, Prompt
from jaxfc.data.judging.endpoint import Endpoint
from jaxfc.variants import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A dataset, and the model that its examples are put to."""

    data: str
    """A folder made by scripts/prepare_data.py."""
    splits: tuple[str, ...] = ("train",)
    """Splits that are measured; the others are copied as they are."""
    model: Model | None = None
    """A model directory, which is sampled here."""
    endpoint: Endpoint | None = None
    """Instead of that: a model behind an OpenAI-protocol endpoint. It is shown the same prompt."""
    prompt: Prompt | None = None
    """null: the one saved with the model (`prompt.yaml`), else the paper's."""
    samples: int = 8
    """Completions of each example; the pass rate is the part of them that is right."""
    temperature: float = 0.7
    """They are drawn at; the endpoint's own is not used, unless it is null."""
    verdict: Literal["reward", "evaluation"] | None = None
    """`reward`: right is what training rewards, the form of the reply included; null is that for a model directory.
    `evaluation`: the form does not count, and answers are read as BFCL does it; null is that for an endpoint, since
    servers take the reasoning out of replies."""
    seed: int = 0
    """Of the completions of a model directory."""
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    """Devices that a model directory is on."""
    prompt_buckets: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    """Lengths that its prompts are padded to, in tokens. An example with a longer prompt has no pass rate."""
    completion_length: int = 256
    """Tokens after which its completions are cut; an endpoint's are after endpoint.most_tokens."""
    batch: int = 16
    """Its prompts decoded together, each with all its completions."""
    output: str
    """A new folder for the dataset with the pass rates."""

    def __post_init__(self):
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("difficulty needs either --model (a directory) or --endpoint (a URL), and not both.")
        if self.model is not None and self.model.path is None:
            raise ValueError("model.create makes an untrained model; give --model, the directory of a trained one.")
        require(
            "difficulty",
            samples=(self.samples, self.samples >= 1, "at least 1"),
            temperature=(self.temperature, self.temperature > 0, "above 0: at 0 all completions are equal"),
            completion_length=(self.completion_length, self.completion_length >= 2, "at least 2 tokens"),
        )
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits is {list(self.splits)}; name at least one, and each once.")
        if self.endpoint is not None:
            self._check_endpoint(self.endpoint)
        shards = self.mesh.data * self.mesh.fsdp
        if self.batch < 1 or self.batch % shards:
            raise ValueError(f"batch is {self.batch} prompts; data x fsdp needs a multiple of {shards}.")
        if list(self.prompt_buckets) != sorted(set(self.prompt_buckets)) or min(self.prompt_buckets, default=0) < 2:
            raise ValueError(f"prompt_buckets is {self.prompt_buckets}; give rising lengths such as [512, 1024].")

    def _check_endpoint(self, endpoint: Endpoint):
        if self.prompt is not None and self.prompt.opens_think:
            raise ValueError("prompt.opens_think begins the reply, which an endpoint cannot be made to go on with.")
        if self.verdict == "reward":
            raise ValueError("verdict is reward, but the form of a reply is not seen through an endpoint; evaluation.")
        if endpoint.response_format != "text":
            raise ValueError(f"endpoint.response_format is {endpoint.response_format}, but replies are no JSON; text.")

    @property
    def judged_by(self) -> Literal["reward", "evaluation"]:
        """The verdict that is meant."""
        return self.verdict or ("reward" if self.endpoint is None else "evaluation")

    @property
    def asked(self) -> Endpoint:
        """The endpoint at the temperature of the completions."""
        temperature = None if self.endpoint.temperature is None else self.temperature
        return dataclasses.replace(self.endpoint, temperature=temperature)
