"""A sample of rollouts on disk, one file a step, for people to read."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfc.calls.schema import signature
from jaxfc.data.example import Example
from jaxfc.data.prompts import Tokenizer
from jaxfc.files import write_atomically
from jaxfc.rewards import Judged
from jaxfc.types import Rollouts


def write_transcripts(
    folder: Path,
    step: int,
    examples: Sequence[Example],
    rollouts: Rollouts,
    judged: Judged,
    advantages: np.ndarray,
    tokenizer: Tokenizer,
):
    """Write the whole groups of these examples, the first of the batch, to `step_<step>.jsonl.gz`.

    Args:
        folder: made if need be.
        step: for the file's name and its rows.
        examples: as many as are to be written.
        rollouts: of the batch, as NumPy arrays.
        judged: of the batch.
        advantages: [B] of the batch.
        tokenizer: tokens -> text.
    """
    group = judged.rewards.shape[1]
    lines = []
    for row in range(len(examples) * group):
        example, length = examples[row // group], int(rollouts.lengths[row])
        pieces = tokenizer.pieces(rollouts.tokens[row, :length].tolist())
        verdict = judged.verdicts[row]
        document = {
            "step": step,
            "prompt_id": example.id,
            "query": str(example.messages[-1]["content"]),
            "tools": [signature(tool) for tool in example.tools],
            "reward": float(judged.rewards[row // group, row % group]),
            "reason": verdict.reason,
            "detail": verdict.detail,
            "text": b"".join(pieces).decode(errors="replace"),
            "tokens": [piece.decode(errors="replace") for piece in pieces],
            "logprobs": _rounded(rollouts.scores.logprobs[row, :length]),
            "entropies": _rounded(rollouts.scores.entropies[row, :length]),
            "cot": judged.cot_mask[row, :length].tolist(),
            "advantage": float(advantages[row]),
        }
        lines.append(json.dumps(document) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    data = gzip.compress("".join(lines).encode(), mtime=0)
    write_atomically(folder / f"step_{step:06}.jsonl.gz", data)


def groups_of(
    groups: np.ndarray, examples: Sequence[Example], rollouts: Rollouts, judged: Judged
) -> tuple[list[Example], Rollouts, Judged]:
    """Some groups of a batch, on the host, in the order given.

    Args:
        groups: their indices.
        examples: of the batch.
        rollouts: of the batch, as NumPy arrays.
        judged: of the batch.
    """
    size = judged.rewards.shape[1]
    taken = (groups[:, None] * size + np.arange(size)).reshape(-1)
    verdicts = [judged.verdicts[row] for row in taken]
    kept = Judged(judged.rewards[groups], judged.cot_mask[taken], verdicts)
    return [examples[at] for at in groups], rollouts.of_groups(groups), kept


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
