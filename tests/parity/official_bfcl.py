"""BFCL's own verdicts, over standard input and output, by an interpreter that has what bfcl-eval's checker needs.

A line {"language", "category", "functions", "answer", "output"} is answered by a line {"valid", "error"}. `error` is
the official type; `raised: ...` or `hangs` where the official run would have ended, which is no verdict. The decoder
evaluates Python's operators: send it no text with operators over anything but small literals.
"""

import json
import signal
import sys
import types

# The real module imports the clients of every vendor, for one boolean.
models = types.ModuleType("bfcl_eval.constants.model_config")
models.MODEL_CONFIG_MAPPING = {"local": types.SimpleNamespace(underscore_to_dot=False)}
sys.modules["bfcl_eval.constants.model_config"] = models

from bfcl_eval.constants.enums import Language, ReturnFormat  # noqa: E402
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # noqa: E402
from bfcl_eval.model_handler.utils import default_decode_ast_prompting  # noqa: E402
from bfcl_eval.utils import is_empty_output, is_function_calling_format_output  # noqa: E402

SECONDS = 10


def judge(row):
    """(valid, error) as `bfcl evaluate` reaches them for a model that is prompted."""
    relevance = "relevance" in row["category"]
    kind = "PYTHON" if relevance else row["language"].upper()
    try:
        calls = default_decode_ast_prompting(row["output"], ReturnFormat[kind])
    except Exception:
        calls = None
    if relevance:
        called = calls is not None and not is_empty_output(calls)
        return called != ("irrelevance" in row["category"]), "relevance"
    if calls is None:
        return False, "ast_decoder:decoder_failed"
    if not is_function_calling_format_output(calls):
        return False, "ast_decoder:decoder_wrong_output_format"
    try:
        found = ast_checker(row["functions"], calls, row["answer"], Language[kind], row["category"], "local")
    except TimeoutError:
        raise
    except Exception as error:
        return None, f"raised: {type(error).__name__}"
    return found["valid"], "" if found["valid"] else found["error_type"]


def give_up(*_):
    raise TimeoutError


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # The converter of JavaScript prints.
    signal.signal(signal.SIGALRM, give_up)
    for line in sys.stdin:
        signal.alarm(SECONDS)
        try:
            valid, error = judge(json.loads(line))
        except TimeoutError:
            valid, error = None, "hangs"
        signal.alarm(0)
        print(json.dumps({"valid": valid, "error": error}), file=answers, flush=True)
