"""The rules of the house: what may import what, and what a plug-in may not do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("selector/**/*.py"), *ROOT.glob("jobs/**/*.py")])

# The house from the bottom up: a module imports from its own line or from lines above it.
FLOOR = [
    {"errors", "tables", "failpoint", "__init__"},
    {"keyed", "exact", "layout", "storage", "plugins", "models"},
    {"store", "pool"},
    {"budget", "inclusion", "lottery", "difficulty", "ledger", "sealed", "side", "stage"},
    {"rate", "select", "order", "executor", "manifest", "where"},
    {"policy", "corpus", "consume", "ratings"},
    {"embed", "steps", "rating"},
    {"cluster", "assemble", "preflight"},
    {"account", "pipeline", "gc", "doctor", "schema", "demo", "progress"},
    {"report"},
    {"cli"},
]
FAMILIES = (
    "rate",
    "select",
    "order",
)  # their contracts lie where the line says; their plug-ins may use the cluster step
HOMES = {
    "ray": {"jobs"},
    "faiss": {"selector/cluster.py"},
    "sentence_transformers": {"selector/embed.py", "selector/rate/", "jobs/bench.py"},
    "typer": {"selector/cli.py"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "selector" or len(parts) < 2:
        return None
    if parts[1] in FAMILIES and len(parts) > 2 and parts[2][0].islower():
        parts[1] = "cluster"
    return next((level for level, modules in enumerate(FLOOR) if parts[1] in modules), None)


def test_every_module_has_its_place_in_the_house() -> None:
    there = {path.relative_to(ROOT / "selector").parts[0].removesuffix(".py") for path in ROOT.glob("selector/**/*.py")}
    assert there == set().union(*FLOOR)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in SOURCES
        if name_of(path).startswith("selector/") and path.parent.name + path.stem != "selector__init__"
    ],
    ids=name_of,
)
def test_arrows_point_down_the_flow(path: Path) -> None:
    own = floor_of(name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert own is not None
    for imported in imports(path):
        level = floor_of(imported)
        assert level is None or level <= own, f"{name_of(path)} imports {imported}, which lies above it"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_heavy_package_has_one_home(path: Path) -> None:
    for imported in imports(path):
        homes = HOMES.get(imported.split(".")[0])
        assert homes is None or any(name_of(path).startswith(home) for home in homes), (
            f"{name_of(path)} imports {imported}"
        )
        assert imported.split(".")[0] != "jobs" or name_of(path).startswith("jobs/")


@pytest.mark.parametrize("family", [*FAMILIES, "storage"])
def test_plugins_of_a_family_never_import_each_other(family: str) -> None:
    for path in ROOT.glob(f"selector/{family}/*.py"):
        for imported in imports(path):
            if imported.startswith(f"selector.{family}."):
                assert imported.split(".")[2][0].isupper() or path.name == "__init__.py", (
                    f"{path.name} imports {imported}"
                )


@pytest.mark.parametrize("family", FAMILIES)
def test_plugins_do_no_io_read_no_clock_and_draw_only_keyed_numbers(family: str) -> None:
    forbidden = {
        "os",
        "io",
        "pathlib",
        "time",
        "datetime",
        "random",
        "secrets",
        "uuid",
        "socket",
        "subprocess",
        "shutil",
        "urllib",
    }
    for path in ROOT.glob(f"selector/{family}/*.py"):
        roots = {imported.split(".")[0] for imported in imports(path)}
        assert not roots & forbidden, f"{path.name} imports {roots & forbidden}"
        tree = ast.parse(path.read_text("utf-8"))
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not calls & {"open", "print", "input", "eval", "exec"} and "random" not in attributes
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_executes_data(path: Path) -> None:
    roots = {imported.split(".")[0] for imported in imports(path)}
    assert not roots & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in (
                "eval",
                "exec",
                "compile",
                "__import__",
                "torch.load",
                "yaml.unsafe_load",
                "yaml.full_load",
            )
            for keyword in node.keywords:
                assert keyword.arg not in ("trust_remote_code", "allow_pickle") or ast.unparse(keyword.value) == "False"


def test_importing_selector_is_quick_and_loads_nothing_heavy() -> None:
    """Quick is told by what is loaded, since a clock would tell of the machine."""
    code = "import sys, selector; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "ray", "numpy", "pyarrow", "polars", "pydantic", "faiss", "transformers", "rich", "typer"):
        assert f"'{heavy}'" not in loaded


def test_no_module_is_named_after_nothing() -> None:
    assert not {path.stem for path in SOURCES} & {"utils", "util", "helpers", "helper", "common", "misc"}
