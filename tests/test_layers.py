"""The map of the code, held to what the modules really import."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxfc"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

LAYERS = [
    # 0 vocabulary
    {
        "algorithm",
        "calls",
        "command",
        "config",
        "files",
        "metrics",
        "outputs",
        "processes",
        "settings",
        "sharding",
        "types",
        "variants",
        "workers",
    },
    # 1 parts
    {
        "advantages",
        "aggregation",
        "data",
        "drafts",
        "draws",
        "importance",
        "kl",
        "logprobs",
        "losses",
        "models",
        "moments",
        "rewards",
        "selection",
        "slots",
        "tiles",
        "truncation",
    },
    # 2 engines
    {
        "checkpoint",
        "completions",
        "constraints",
        "credit",
        "decoding",
        "engine",
        "learner",
        "objective",
        "programs",
        "records",
        "sampler",
        "serving",
        "transcripts",
        "workspace",
    },
    # 3 evaluation and views
    {"bfcl", "curves", "evaluate", "plan", "report", "server"},
    # 4 programs
    {"benchmarks", "difficulty", "prepare", "run", "sft", "train"},
]
"""What stands where: modules, and folders whose modules may import each other."""

WITHIN_A_LAYER = {
    "command": {"files", "settings"},
    "algorithm": {"variants"},
    "config": {"algorithm", "variants"},
    "metrics": {"command", "files"},
    "outputs": {"command", "files"},
    "processes": {"command", "files"},
    "sharding": {"command", "processes"},
    "logprobs": {"tiles", "truncation"},
    "losses": {"aggregation", "kl"},
    "rewards": {"data"},
    "tiles": {"truncation"},
    "benchmarks": {"run"},
    "completions": {"constraints", "sampler"},
    "learner": {"objective"},
    "engine": {"constraints", "credit", "decoding", "learner", "programs", "sampler", "workspace"},
    "sampler": {"constraints", "decoding", "programs"},
    "serving": {"programs"},
    "report": {"curves"},
    "bfcl": {"evaluate"},
    "sft": {"run"},
    "train": {"run"},
}
"""The only imports between modules of one layer."""

LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def name_of(path: Path) -> str:
    """`jaxfc/calls/parse.py` -> `jaxfc.calls.parse`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def unit_of(module: str) -> str:
    """`jaxfc.calls.parse` -> `calls`: what stands in a layer."""
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module, names, level):
                package = name_of(path).split(".")[:-level] if level else []
                base = ".".join([*package, *([module] if module else [])])
                inner = {f"{base}.{alias.name}" for alias in names}
                # `from jaxfc.calls import parse` imports a module, `from jaxfc.files import sha256_of` does not.
                modules = {name for name in inner if is_ours(name)}
                found |= modules | ({base} if modules != inner else set())
    return found


def is_ours(module: str) -> bool:
    path = ROOT / Path(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


OURS = {name_of(path): {name for name in imports_of(path) if name.split(".")[0] == "jaxfc"} for path in MODULES}


def is_allowed(importer: str, imported: str) -> bool:
    importer, imported = unit_of(importer), unit_of(imported)
    if importer == imported or LAYER_OF[imported] < LAYER_OF[importer]:
        return True
    return LAYER_OF[imported] == LAYER_OF[importer] and imported in WITHIN_A_LAYER.get(importer, ())


def test_every_module_stands_in_a_layer():
    assert {unit_of(module) for module in OURS} - set(LAYER_OF) == set()


def test_a_module_imports_only_from_below_itself():
    wrong = [f"{a} imports {b}" for a, imported in OURS.items() for b in imported if not is_allowed(a, b)]
    assert sorted(wrong) == []


def test_the_rule_tells_upward_and_sideways_imports_from_downward_ones():
    assert is_allowed("jaxfc.train", "jaxfc.types")
    assert is_allowed("jaxfc.data.tasks", "jaxfc.data.words")
    assert is_allowed("jaxfc.command", "jaxfc.files")
    assert not is_allowed("jaxfc.files", "jaxfc.command")
    assert not is_allowed("jaxfc.losses", "jaxfc.train")
    assert not is_allowed("jaxfc.losses", "jaxfc.advantages")


def test_imports_are_seen_in_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "jaxfc" / "calls").mkdir(parents=True)
    for name in ("__init__.py", "files.py", "types.py", "calls/__init__.py", "calls/parse.py"):
        (tmp_path / "jaxfc" / name).touch()
    path = tmp_path / "jaxfc" / "calls" / "match.py"
    path.write_text(
        "import os.path, jaxfc.files\n"
        "from jaxfc.types import Prompts\n"
        "from . import parse\n"
        "def f():\n    from ..calls.parse import Syntax\n    import torch\n"
    )
    assert imports_of(path) == {"os.path", "jaxfc.files", "jaxfc.types", "jaxfc.calls.parse", "torch"}


def test_imports_make_no_cycle():
    graphlib.TopologicalSorter(OURS).prepare()


def test_every_import_between_modules_of_a_layer_is_still_there():
    units = {}
    for module, imported in OURS.items():
        units.setdefault(unit_of(module), set()).update(map(unit_of, imported))
    stale = {name: allowed - units[name] for name, allowed in WITHIN_A_LAYER.items() if name in units}
    assert {name: unused for name, unused in stale.items() if unused} == {}


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_an_init_file_is_empty(path):
    assert path.read_bytes() == b""


def test_the_language_of_calls_needs_nothing_but_python():
    outside = {"jax", "jaxlib", "flax", "numpy", "jaxtyping"}
    for path in (PACKAGE / "calls").glob("*.py"):
        imported = imports_of(path)
        assert {name.split(".")[0] for name in imported} & outside == set(), path
        assert {name for name in imported if name.startswith("jaxfc") and unit_of(name) != "calls"} == set(), path


PEERS = PACKAGE / "benchmarks" / "peers.py"
"""The one module that runs other stacks, to compare with them."""


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_but_the_peers_of_benchmarks_imports_torch_tunix_or_tensorflow(path):
    foreign = {"tensorflow"} if path == PEERS else {"tensorflow", "torch", "tunix"}
    assert {name.split(".")[0] for name in imports_of(path)} & foreign == set()


def test_which_process_this_is_matters_only_where_processes_meet_and_where_one_writes():
    for path in [*MODULES, *SCRIPTS]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asked = any(isinstance(node, ast.Attribute) and node.attr == "process_index" for node in ast.walk(tree))
        assert not asked or path.name in ("metrics.py", "checkpoint.py", "processes.py"), f"{path}: see jaxfc.processes"
