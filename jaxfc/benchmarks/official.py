"""BFCL's own checker as a program that times itself; an interpreter with bfcl-eval runs it, perhaps without jaxfc."""

import importlib.metadata
import json
import os
import platform
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MODEL = "any"


def make_judge() -> Callable[[Mapping[str, Any]], bool]:
    """BFCL's decoder and checker as `row -> right`, in prompt mode."""
    # The checker looks up one boolean in a module that imports the packages of every vendor.
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {MODEL: types.SimpleNamespace(underscore_to_dot=False)}
    sys.modules[models.__name__] = models
    from bfcl_eval.constants.enums import Language, ReturnFormat
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    from bfcl_eval.model_handler.utils import default_decode_ast_prompting
    from bfcl_eval.utils import is_function_calling_format_output

    def judge(row: Mapping[str, Any]) -> bool:
        try:
            calls = default_decode_ast_prompting(row["text"], ReturnFormat.PYTHON)
        except Exception:
            # As BFCL's own program has it: whatever the decoder raises, the answer is wrong.
            return False
        if not is_function_calling_format_output(calls):
            return False
        found = ast_checker(row["functions"], calls, row["answer"], Language.PYTHON, row["category"], MODEL)
        return found["valid"]

    return judge


def judge_all(judge: Callable[[Mapping[str, Any]], bool], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judge every row: `wall` and `cpu` seconds, and the verdicts."""
    wall, cpu = time.perf_counter(), time.process_time()
    right = [judge(row) for row in rows]
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "right": right}


def main():
    """Rows come as one line of JSON, then a line for each run; the versions go out, then the findings of each run."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What the package prints is no reply.
    judge, rows = make_judge(), json.loads(sys.stdin.readline())
    versions = {"bfcl-eval": importlib.metadata.version("bfcl-eval"), "python": platform.python_version()}
    print(json.dumps(versions), file=replies, flush=True)
    for _ in sys.stdin:
        print(json.dumps(judge_all(judge, rows)), file=replies, flush=True)


if __name__ == "__main__":
    main()
