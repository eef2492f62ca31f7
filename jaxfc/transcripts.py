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
from jaxfc.metrics import is_writer
from jaxfc.processes import exchange
from jaxfc.rewards import Judged
from jaxfc.types import Rollouts


def write_transcripts(
    folder: Path,
    step: int,
    groups: Sequence[int] | np.ndarray,
    examples: Sequence[Example],
    rollouts: Rollouts,
    judged: Judged,
    advantages: np.ndarray,
    tokenizer: Tokenizer,
):
    """Write some whole groups of a batch, on whichever process, to `step_<step>.jsonl.gz`.

    Args:
        folder: made if need be.
        step: for the file's name and its rows.
        groups: which of the batch, in the order to be written.
        examples: of the prompts that this process holds.
        rollouts: those that it holds, as NumPy arrays.
        judged: the same.
        advantages: of the completions of `groups`, in their order, and perhaps of more.
        tokenizer: tokens -> text.
    """
    share, size = judged.share, judged.rewards.shape[1]
    places = {int(group): place for place, group in enumerate(share.held) if share.own[place]}
    mine = {}
    for at, group in enumerate(groups):
        if (place := places.get(int(group))) is not None:
            credited = advantages[at * size : (at + 1) * size]
            mine[at] = _group(step, examples[place], place, rollouts, judged, credited, tokenizer)
    texts = {at: text for of_process in exchange(mine) for at, text in of_process.items()}
    if is_writer():
        data = gzip.compress("".join(texts[at] for at in sorted(texts)).encode(), mtime=0)
        write_atomically(folder / f"step_{step:06}.jsonl.gz", data)


def _group(
    step: int,
    example: Example,
    place: int,
    rollouts: Rollouts,
    judged: Judged,
    advantages: np.ndarray,
    tokenizer: Tokenizer,
) -> str:
    """The lines of one group, at a place among those that this process holds; `advantages` are its own."""
    lines = []
    for number, advantage in enumerate(advantages):
        row = place * len(advantages) + number
        length, verdict = int(rollouts.lengths[row]), judged.verdicts[row]
        pieces = tokenizer.pieces(rollouts.tokens[row, :length].tolist())
        document = {
            "step": step,
            "prompt_id": example.id,
            "query": str(example.messages[-1]["content"]),
            "tools": [signature(tool) for tool in example.tools],
            "reward": float(judged.rewards[place, number]),
            "reason": verdict.reason,
            "detail": verdict.detail,
            "text": b"".join(pieces).decode(errors="replace"),
            "tokens": [piece.decode(errors="replace") for piece in pieces],
            "logprobs": _rounded(rollouts.scores.logprobs[row, :length]),
            "entropies": _rounded(rollouts.scores.entropies[row, :length]),
            "cot": judged.cot_mask[row, :length].tolist(),
            "advantage": float(advantage),
        }
        lines.append(json.dumps(document) + "\n")
    return "".join(lines)


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
