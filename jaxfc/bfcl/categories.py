"""The categories of the Berkeley Function-Calling Leaderboard, single turn."""

NON_LIVE_AST = ("simple_python", "multiple", "parallel", "parallel_multiple")
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
IRRELEVANCE = ("irrelevance", "live_irrelevance")
RELEVANCE = ("live_relevance",)

CATEGORIES = (*NON_LIVE_AST, "irrelevance", *LIVE_AST, "live_irrelevance", "live_relevance")
"""The categories that are evaluated, in the order of BFCL's tables."""
NOT_EVALUATED = ("simple_java", "simple_javascript")
"""Single-turn categories whose answers are Java and JavaScript, which are not parsed."""
