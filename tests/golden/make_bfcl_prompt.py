#!/usr/bin/env python3
"""Write jaxfc/assets/bfcl_system.txt, and the digest of BFCL's messages, by BFCL's own code.

Run by an interpreter that has bfcl-eval 2026.3.23 (its checker's needs are enough):

    python tests/golden/make_bfcl_prompt.py
"""

import hashlib
import json
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = (
    "simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple", "irrelevance",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance", "live_relevance",
)  # fmt: skip

# The real module imports the clients of every vendor.
models = types.ModuleType("bfcl_eval.constants.model_config")
models.MODEL_CONFIG_MAPPING = {}
sys.modules["bfcl_eval.constants.model_config"] = models

from bfcl_eval.model_handler.utils import system_prompt_pre_processing_chat_model  # noqa: E402
from bfcl_eval.utils import load_dataset_entry  # noqa: E402


def messages_of(entry):
    """What the client sends for an entry."""
    return system_prompt_pre_processing_chat_model(entry["question"][0], entry["function"], entry["id"])


def digests():
    """Category -> sha256 of its entries' ids and messages, each a line of JSON."""
    found = {}
    for category in CATEGORIES:
        rows = [[entry["id"], messages_of(entry)] for entry in load_dataset_entry(category)]
        found[category] = hashlib.sha256("".join(json.dumps(row) + "\n" for row in rows).encode()).hexdigest()
    return found


if __name__ == "__main__":
    [empty] = system_prompt_pre_processing_chat_model([{"role": "system", "content": ""}], [], "simple_python_0")
    (ROOT / "jaxfc" / "assets" / "bfcl_system.txt").write_text(empty["content"].removesuffix("\n\n"), encoding="utf-8")
    (ROOT / "tests" / "golden" / "bfcl_prompt.json").write_text(json.dumps(digests(), indent=2) + "\n")
