"""The rules of the house: what may import what, and what a plug-in may not do.

A folder is a floor: it imports only from the floors above it in the tour of CONTRIBUTING.md. A new file needs no line
here.
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("selector/**/*.py"), *ROOT.glob("jobs/**/*.py")])

# The house from the bottom up: a module imports from its own floor or from those before it.
FLOORS = (
    ("errors", "tables", "failpoint", "counts"),
    ("exact",),
    ("storage",),
    ("engine",),
    ("corpus",),
    ("models",),
    ("plugins",),
    ("rate", "select", "order"),
    ("manifest",),
    ("policy",),
    ("steps",),
    ("pipeline",),
    ("consume",),
    ("tune",),
    ("testing",),
    ("cli",),
)
FAMILIES = ("rate", "select", "order")
FAMILIES_OF_FILES = (*FAMILIES, "storage", "corpus/formats", "tune/objectives")
HOMES = {
    "ray": ("jobs/",),
    "duckdb": ("selector/policy/condition.py",),
    "faiss": ("selector/models/neighbours.py",),
    "sentence_transformers": ("selector/models/",),
    "transformers": ("selector/models/",),
    "optuna": ("selector/tune/search.py",),
    "typer": ("selector/cli/",),
    "rich": ("selector/cli/",),
    "hypothesis": ("selector/testing/",),
    "prometheus_client": ("selector/cli/",),
}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All that a file says, read once for all tests."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


@functools.cache
def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def floor_of(module: str) -> int | None:
    """The floor of a module of ours; None for what is not on one: the package itself, and what others wrote."""
    first, *rest = module.split(".")
    if first != "selector" or not rest:
        return None
    return next((level for level, folders in enumerate(FLOORS) if rest[0] in folders), None)


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_the_root_holds_what_the_house_has_and_nothing_else() -> None:
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and path.suffix != ".egg-info"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if tracked:
        there = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    assert there == {
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "selector", "jobs", "schemas", "tests", "deploy",
    }  # fmt: skip


def test_every_folder_is_a_floor() -> None:
    there = {path.name.removesuffix(".py") for path in (ROOT / "selector").iterdir() if path.name[0] not in "._"}
    assert there - {"__init__", "__pycache__"} == {folder for floor in FLOORS for folder in floor}


def test_arrows_point_down() -> None:
    floors = {path: floor for path in SOURCES if (floor := floor_of(module_of(path))) is not None}
    assert len(floors) > 100
    for path, own in floors.items():
        for imported in imports(path):
            level = floor_of(imported)
            assert level is None or level <= own, f"{name_of(path)} imports {imported}, which lies above it"


def test_no_two_modules_import_each_other() -> None:
    """Not even by way of others. A package's own __init__ may gather what its files define."""
    reads = {
        module_of(path): {found for name in imports(path) for found in (name, name.rpartition(".")[0])}
        for path in SOURCES
        if path.name != "__init__.py"
    }
    arrows = {module: names & reads.keys() - {module} for module, names in reads.items()}
    done = set[str]()
    for start in arrows:
        path: list[str] = []

        def follow(module: str, path: list[str] = path) -> None:
            assert module not in path, f"a circle: {' imports '.join([*path[path.index(module) :], module])}"
            if module not in done:
                path.append(module)
                for other in arrows[module]:
                    follow(other)
                done.add(path.pop())

        follow(start)


def test_each_heavy_package_has_one_home() -> None:
    homes = {**HOMES, "jobs": ("jobs/",)}
    for path in SOURCES:
        for imported in imports(path):
            home = homes.get(imported.split(".")[0])
            assert home is None or name_of(path).startswith(home), f"{name_of(path)} imports {imported}"


RIDDLES = {
    "asked", "bury", "came", "certain", "crew", "found", "hand", "heard", "life", "made", "met", "said", "there",
    "told", "what", "who", "whom", "whose",
}  # fmt: skip


def names_given(path: Path) -> Iterator[tuple[int, str]]:
    """Every name that a file gives to something of its own, with the line."""
    for node in nodes(path):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_a_name_says_what_the_value_is() -> None:
    """A word that only tells that something was found, told or made says nothing of what it is."""
    given = [(path, 1, path.stem) for path in SOURCES]
    given += [(path, line, name) for path in SOURCES for line, name in names_given(path)]
    assert [f"{name_of(path)}:{line}: {name}" for path, line, name in given if name.strip("_").lower() in RIDDLES] == []


@pytest.mark.parametrize("family", FAMILIES_OF_FILES)
def test_plugins_of_a_family_never_import_each_other(family: str) -> None:
    package = f"selector.{family.replace('/', '.')}"
    members = {f"{package}.{path.stem}" for path in ROOT.glob(f"selector/{family}/*.py") if path.stem[0] != "_"}
    for path in ROOT.glob(f"selector/{family}/*.py"):
        assert not members & set(imports(path)), f"{path.name} imports {members & set(imports(path))}"


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
        calls = {node.func.id for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        attributes = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
        assert not calls & {"open", "print", "input", "eval", "exec"} and "random" not in attributes
        assert not any(isinstance(node, ast.Global) for node in nodes(path))


def calls_of(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in nodes(path) if isinstance(node, ast.Call))


def test_storage_alone_tells_an_address_from_a_path() -> None:
    for path in SOURCES:
        if not name_of(path).startswith("selector/storage/"):
            compared = [node for node in nodes(path) if isinstance(node, ast.Compare)]
            assert not any(isinstance(node.left, ast.Constant) and node.left.value == "://" for node in compared), path


def test_a_path_that_begins_with_a_tilde_alone_is_in_a_home() -> None:
    """`Path.expanduser` takes `./~/x` for one too, and so would read what `--allowed` did not look at."""
    for path in SOURCES:
        if not name_of(path).startswith("selector/storage/"):
            called = [call.func for call in calls_of(path) if isinstance(call.func, ast.Attribute)]
            assert {ast.unparse(one) for one in called if one.attr == "expanduser"} <= {"os.path.expanduser"}, path


def test_nothing_executes_data() -> None:
    packages = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    functions = {"eval", "exec", "compile", "__import__", "torch.load", "yaml.unsafe_load", "yaml.full_load"}
    for path in SOURCES:
        is_law = name_of(path).startswith("selector/testing/")  # a law pickles work that the test made itself
        assert is_law or not packages & {imported.split(".")[0] for imported in imports(path)}, name_of(path)
        for call in calls_of(path):
            called = ast.unparse(call.func) if isinstance(call.func, ast.Name | ast.Attribute) else ""
            assert called not in functions, f"{name_of(path)}:{call.lineno}"
            for word in call.keywords:
                is_harmless = (
                    word.arg not in ("trust_remote_code", "allow_pickle") or ast.unparse(word.value) == "False"
                )
                assert is_harmless, f"{name_of(path)}:{call.lineno}"


def test_arrow_starts_no_threads_over_bytes_of_python() -> None:
    """One that lets go of them after the interpreter has begun to end takes the whole process down."""
    for path in SOURCES:
        for call in calls_of(path):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "group_by":
                words = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert words.get("use_threads") == "False", f"{name_of(path)}: {ast.unparse(call)}"
            elif isinstance(call.func, ast.Attribute) and call.func.attr == "filter":
                by_expression = any("pc.field(" in ast.unparse(argument) for argument in call.args)
                assert not by_expression, f"{name_of(path)}: {ast.unparse(call)}: filter by a mask"


def test_importing_selector_is_quick_and_loads_nothing_heavy() -> None:
    """Quick is told by what is loaded, since a clock would tell of the machine."""
    code = "import sys, selector; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy_packages = "torch ray numpy pyarrow polars duckdb pydantic faiss transformers rich typer"
    for heavy in heavy_packages.split():
        assert f"'{heavy}'" not in loaded


def test_help_and_what_only_reads_journals_start_without_arrow() -> None:
    """So they answer at once also on a machine that is busy."""
    code = "import sys, selector.cli as cli\ntry: cli.main()\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    for words in (["--help"], ["runs", "--root", str(ROOT / "deploy")]):
        ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        loaded = ended.stderr
        assert all(f"'{heavy}'" not in loaded for heavy in ("torch", "ray", "numpy", "pyarrow", "polars"))


def test_no_module_is_named_after_nothing() -> None:
    assert not {path.stem for path in SOURCES} & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_flow_is_on_one_page() -> None:
    assert len((ROOT / "selector/pipeline.py").read_text("utf-8").splitlines()) <= 120


def test_tests_mirror_the_house() -> None:
    """A folder of tests is a folder of selector/, or jobs/, or deploy/, or house/ for the rules of the whole."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders <= {folder for floor in FLOORS for folder in floor} | {"jobs", "deploy", "house"}
