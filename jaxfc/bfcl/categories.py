"""The categories of the Berkeley Function-Calling Leaderboard."""

SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE_AST = (*SIMPLE, "multiple", "parallel", "parallel_multiple")
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
IRRELEVANCE = ("irrelevance", "live_irrelevance")
RELEVANCE = ("live_relevance",)

CATEGORIES = (*NON_LIVE_AST, "irrelevance", *LIVE_AST, "live_irrelevance", "live_relevance")
"""Those of a single turn, in the order of BFCL's tables."""
LANGUAGE_OF = {"simple_java": "java", "simple_javascript": "javascript"}
"""Category -> the language of its tools and answers, where it is not Python."""
PYTHON_AST = tuple(category for category in (*NON_LIVE_AST, *LIVE_AST) if category not in LANGUAGE_OF)
"""Those with an answer of calls in Python."""

MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
WEB_SEARCH = ("web_search_base", "web_search_no_snippet")
MEMORY = ("memory_kv", "memory_vector", "memory_rec_sum")

LIVE_ENTRIES = {
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "live_irrelevance": 884,
    "live_relevance": 16,
}
"""Live category -> how many entries v4's data has of it: what it weighs where it was not run."""
