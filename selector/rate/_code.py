"""Programs as syntax trees, by tree-sitter: what a language's grammar calls what is counted, and where it stands."""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selector.errors import PolicyError
from selector.exact import Ints

Language = Literal["python", "javascript", "typescript", "java", "c", "cpp", "go", "rust"]

_MOST_ERRORS = 0.5  # of the bytes; beyond, it is no program of this language
_DEEPEST = 2_000  # nodes in each other
_DEPTHS = 32  # nodes whose depth is looked at: of a chain so long that it takes time, most are deep
_LOGICAL = '(binary_expression operator: ["&&" "||"])'


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How a language's grammar calls what is counted, in the patterns of tree-sitter's queries."""

    package: str
    language: str = "language"  # the function of the package that gives it
    branches: str
    logical: str = _LOGICAL
    blocks: str  # that count for the depth
    chained: str | None = None  # those that only go on in an `else`: as deep as the one before
    definitions: str
    calls: str


_SCRIPT: dict[str, str] = {
    "branches": "(if_statement) (for_statement) (for_in_statement) (while_statement) (do_statement) (switch_case)"
    " (catch_clause) (ternary_expression)",
    "blocks": "(if_statement) (for_statement) (for_in_statement) (while_statement) (do_statement) (switch_statement)"
    " (try_statement)",
    "chained": "(else_clause (if_statement) @chained)",
    "calls": "(call_expression) (new_expression)",
}
_SCRIPT_DEFINITIONS = (
    "(function_declaration) (function_expression) (generator_function) (generator_function_declaration)"
    " (arrow_function) (method_definition) (class_declaration) (class)"
)
_C: dict[str, str] = {
    "branches": "(if_statement) (for_statement) (while_statement) (do_statement) (case_statement value: (_))"
    " (conditional_expression)",
    "blocks": "(if_statement) (for_statement) (while_statement) (do_statement) (switch_statement)",
    "chained": "(else_clause (if_statement) @chained)",
    "definitions": "(function_definition) (struct_specifier body: (_)) (enum_specifier body: (_))",
    "calls": "(call_expression)",
}
GRAMMARS = {
    "python": Grammar(
        package="tree_sitter_python",
        branches="(if_statement) (elif_clause) (for_statement) (while_statement) (except_clause) (case_clause)"
        " (conditional_expression) (if_clause) (for_in_clause)",
        logical="(boolean_operator)",
        blocks="(if_statement) (for_statement) (while_statement) (try_statement) (with_statement) (match_statement)",
        definitions="(function_definition) (class_definition) (lambda)",
        calls="(call)",
    ),
    "javascript": Grammar(package="tree_sitter_javascript", definitions=_SCRIPT_DEFINITIONS, **_SCRIPT),
    "typescript": Grammar(
        package="tree_sitter_typescript",
        language="language_typescript",
        definitions=f"{_SCRIPT_DEFINITIONS} (abstract_class_declaration) (interface_declaration) (enum_declaration)",
        **_SCRIPT,
    ),
    "java": Grammar(
        package="tree_sitter_java",
        branches="(if_statement) (for_statement) (enhanced_for_statement) (while_statement) (do_statement)"
        " (switch_label (_)) (catch_clause) (ternary_expression)",
        blocks="(if_statement) (for_statement) (enhanced_for_statement) (while_statement) (do_statement)"
        " (switch_expression) (try_statement) (try_with_resources_statement)",
        chained="(if_statement alternative: (if_statement) @chained)",
        definitions="(method_declaration) (constructor_declaration) (class_declaration) (interface_declaration)"
        " (enum_declaration) (lambda_expression)",
        calls="(method_invocation) (object_creation_expression)",
    ),
    "c": Grammar(package="tree_sitter_c", **_C),
    "cpp": Grammar(
        package="tree_sitter_cpp",
        branches=f"{_C['branches']} (for_range_loop) (catch_clause)",
        blocks=f"{_C['blocks']} (for_range_loop) (try_statement)",
        chained=_C["chained"],
        definitions=f"{_C['definitions']} (class_specifier body: (_)) (lambda_expression)",
        calls="(call_expression) (new_expression)",
    ),
    "go": Grammar(
        package="tree_sitter_go",
        branches="(if_statement) (for_statement) (expression_case) (type_case) (communication_case)",
        blocks="(if_statement) (for_statement) (expression_switch_statement) (type_switch_statement)"
        " (select_statement)",
        chained="(if_statement alternative: (if_statement) @chained)",
        definitions="(function_declaration) (method_declaration) (func_literal) (type_spec)",
        calls="(call_expression)",
    ),
    "rust": Grammar(
        package="tree_sitter_rust",
        branches="(if_expression) (for_expression) (while_expression) (loop_expression) (match_arm)",
        blocks="(if_expression) (for_expression) (while_expression) (loop_expression) (match_expression)",
        chained="(else_clause (if_expression) @chained)",
        definitions="(function_item) (closure_expression) (struct_item) (enum_item) (trait_item) (impl_item)",
        calls="(call_expression) (macro_invocation)",
    ),
}


LIBRARIES = ("tree-sitter", *(grammar.package.replace("_", "-") for grammar in GRAMMARS.values()))
"""Distributions whose versions may change a tree."""


@dataclass(frozen=True, kw_only=True)
class Parser:
    """Reads programs of one language. It cannot be sent to a worker, which makes its own (`parser_of`)."""

    parser: Any
    cursor: Any

    def spans(self, text: str) -> Mapping[str, Ints] | None:
        """Where what is counted stands in a program: first byte and end of each, in the order of the first, by the
        names of `Grammar`; `chained` are left out of `blocks`. None of what is no program."""
        code = text.encode()
        tree = self.parser.parse(code)
        if not code.strip() or tree.root_node.type == "ERROR" or _is_deep(tree):
            return None
        nodes = self.cursor.captures(tree.root_node)
        if _covered(_spans(nodes.get("errors", []))) > _MOST_ERRORS * len(code):
            return None
        chained = {node.id for node in nodes.pop("chained", [])}
        nodes["blocks"] = [node for node in nodes.get("blocks", []) if node.id not in chained]
        return {name: _spans(nodes.get(name, [])) for name in COUNTED}


COUNTED = ("branches", "logical", "blocks", "definitions", "calls")


@functools.cache
def parser_of(language: Language, where: str) -> Parser:
    """The parser of a language. Raises PolicyError, naming the rater by `where`, if its grammar is not installed."""
    grammar = GRAMMARS[language]
    try:
        tree_sitter = importlib.import_module("tree_sitter")
        package = importlib.import_module(grammar.package)
    except ModuleNotFoundError as error:
        raise PolicyError(f'{where}: {error.name} is not installed. Type: pip install "selector[code]"') from error
    known = tree_sitter.Language(getattr(package, grammar.language)())
    patterns = [f"[{getattr(grammar, name)}] @{name}" for name in COUNTED]
    query = tree_sitter.Query(known, " ".join([*patterns, grammar.chained or "", "(ERROR) @errors"]))
    return Parser(parser=tree_sitter.Parser(known), cursor=tree_sitter.QueryCursor(query))


def _is_deep(tree: Any) -> bool:
    """Whether the tree is deeper than any program's: a query would take the square of that, so none is asked."""
    count, walker = tree.root_node.descendant_count, tree.walk()
    for i in range(_DEPTHS):
        walker.goto_descendant((count - 1) * i // _DEPTHS)
        if walker.depth > _DEEPEST:
            return True
    return False


def _spans(nodes: list[Any]) -> Ints:
    """First byte and end of each node, in the order of the first."""
    spans = np.array([(node.start_byte, node.end_byte) for node in nodes], np.int64).reshape(-1, 2)
    return spans[np.lexsort((-spans[:, 1], spans[:, 0]))]


def depth(spans: Ints) -> int:
    """In how many of the spans the deepest one lies, itself included."""
    if not len(spans):
        return 0
    ended = np.searchsorted(np.sort(spans[:, 1]), spans[:, 0], side="right")
    return int((np.arange(1, len(spans) + 1) - ended).max())


def _covered(spans: Ints) -> int:
    """Bytes in any of the spans; of two, one lies in the other or they are apart."""
    if not len(spans):
        return 0
    before = np.concatenate(([0], np.maximum.accumulate(spans[:-1, 1])))
    return int(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], before), 0).sum())
