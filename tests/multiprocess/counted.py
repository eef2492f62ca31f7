"""scripts/train_rl.py, which then says on standard output how many examples this process tokenised and judged."""

import collections
import json
import runpy
import sys
from pathlib import Path

import jaxfc.data.pipeline
import jaxfc.rewards

counts = collections.Counter()


def counted(name: str, function):
    """The function, each call of which counts."""

    def call(*arguments):
        counts[name] += 1
        return function(*arguments)

    return call


if __name__ == "__main__":
    jaxfc.data.pipeline.prompt_tokens = counted("tokenised", jaxfc.data.pipeline.prompt_tokens)
    jaxfc.rewards.Judge.__call__ = counted("judged", jaxfc.rewards.Judge.__call__)
    try:
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_rl.py"), run_name="__main__")
    finally:
        print(json.dumps(counts), file=sys.stdout, flush=True)
