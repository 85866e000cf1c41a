"""A corpus that is on every machine: the docstrings of the user's own Python and of what is installed in it.

Files are read in a keyed order until there are enough different texts, so a larger demo contains a smaller
one. Nothing is imported: sources are parsed.
"""

import ast
import json
import math
import os
import shlex
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import yaml

from selector.errors import UsageError

SHORTEST = 200  # characters: anything shorter is a label rather than a text

POLICY = """\
# The demo's policy. Change it and run it again: selector run {policy} --root {root}
seed: 7
corpus:
  paths: {corpus}
embed:                     # by the beginning of each text, which is quick; the defaults read all of it
  max_tokens: 128
  long_documents: truncate
rate:
  - readability              # Flesch-Kincaid grade: harder is higher
  - prototypicality          # how close a document is to the centre of its cluster
select:
  where: num_tokens >= 48
  budget: {{fraction: 0.2}}    # of the tokens
  using: {{kmeans_quality: {{score: prototypicality, temperature: 2.0}}}}
order:
  using: {{by_score: {{score: readability, direction: curriculum}}}}
manifest: {{difficulty: readability, quality: prototypicality}}
"""


def prepare(folder: Path, num_documents: int) -> Path:
    """The demo's policy file; its corpus lies beside it. What is there already stays as it is. Raises UsageError."""
    try:
        return _prepared(folder, num_documents)
    except OSError as error:
        raise UsageError(
            f"--folder: {folder} cannot be written to: {error.strerror} ({error.filename or folder}). Free some "
            "space there, or give another folder."
        ) from error


def _prepared(folder: Path, num_documents: int) -> Path:
    corpus = folder / f"docstrings-{num_documents}.jsonl"
    policy = folder / f"policy-{num_documents}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    if not corpus.exists():
        partial = corpus.with_suffix(f".{os.getpid()}")
        for left in folder.glob(f"{corpus.stem}.[0-9]*"):  # by one that was killed
            if not Path("/proc", left.suffix[1:]).exists():
                left.unlink(missing_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            for document in documents(num_documents):
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
        partial.replace(corpus)
    if not policy.exists():
        paths = yaml.safe_dump([str(corpus)], default_flow_style=True, allow_unicode=True, width=math.inf).strip()
        again, root = shlex.quote(str(policy)), shlex.quote(str(folder / "runs"))
        policy.write_text(POLICY.format(policy=again, root=root, corpus=paths), "utf-8")
    return policy


def documents(num_different: int) -> Iterator[dict[str, str]]:
    """Docstrings as `{"id", "text", "source"}` until so many different texts were seen; source is the package."""
    seen: set[str] = set()
    for path, source, name in sorted(_files(), key=lambda file: blake2b(file[2].encode()).digest()):
        for name_inside, text in _docstrings(path):
            yield {"id": f"{name}:{name_inside}", "text": text, "source": source}
            seen.add(text)
            if len(seen) >= num_different:
                return


def _files() -> Iterator[tuple[Path, str, str]]:
    """(path, package, name) of every source file of the standard library and of the installed packages."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    site = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    for root in (stdlib, *sorted(site)):
        for folder, folders, names in os.walk(root):
            folders[:] = [
                name
                for name in folders
                if name not in ("site-packages", "dist-packages", "test", "tests", "__pycache__")
            ]
            for name in names:
                if name.endswith(".py"):
                    path = Path(folder, name)
                    relative = path.relative_to(root)
                    source = "python" if root == stdlib else relative.parts[0].removesuffix(".py")
                    yield path, source, f"{'python/' if root == stdlib else ''}{relative.as_posix()}"


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a file's module, classes and functions."""
    try:
        source = path.read_bytes()
        if source.count(b'"""') + source.count(b"'''") < 2:
            return
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    nodes: list[tuple[str, ast.AST]] = [("", tree)]
    while nodes:
        name, node = nodes.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST and "\0" not in text:
                yield name or "(module)", text.encode("utf-8", "replace").decode("utf-8")
        nodes += [
            (f"{name}.{child.name}".lstrip("."), child)
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
