"""An SQL condition on one document, as DuckDB reads it: its tree, and SQL that is the same and never stops on a value.

DuckDB parses the text and evaluates it; in between the tree is looked at, node by node. What sees other documents, the
clock or the machine is refused. Text is not compared with numbers, whatever a value looks like. Integers are of 64
bits. What fails for one document (an overflow, a division by zero, a cast of a word to a number) is NULL for that one,
and NaN is NULL everywhere. Numbers of different types are compared as numbers, and never in a type that holds fewer
digits than one of them has. Lists and objects are their JSON: it is compared as text, and otherwise only functions of
JSON see it.
"""

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector.corpus import fields
from selector.errors import PolicyError

Node = Mapping[str, Any]

_COMPARISONS = {
    "COMPARE_EQUAL": "=", "COMPARE_NOTEQUAL": "<>", "COMPARE_LESSTHAN": "<", "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=", "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_DISTINCT_FROM": "IS DISTINCT FROM", "COMPARE_NOT_DISTINCT_FROM": "IS NOT DISTINCT FROM",
}  # fmt: skip
_EXACTLY = {"=": "floor", "<>": "floor", "<": "ceil", ">=": "ceil", ">": "floor", "<=": "floor"}
_DISTINCT = {"IS DISTINCT FROM": "NOT ", "IS NOT DISTINCT FROM": ""}
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_LISTED = {"COMPARE_IN": "", "COMPARE_NOT_IN": "NOT "}
_ARITHMETIC = ("+", "-", "*", "/", "//", "%", "&", "|", "<<", ">>", "~")
_DIVISIONS = ("/", "//", "%")
_NAMED_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*", "divide": "//", "mod": "%", "@": "abs", "abs": "abs"}
_ROUNDING = ("floor", "ceil", "ceiling")  # which leave an integer as it is
_MACROS = ("nullif", "if", "ifnull", "split_part", "days_in_month", "date_add")  # those that see their arguments only
_MANY_VALUES = ("row", "struct_pack", "map", "map_from_entries")
_IMPURE = re.compile(  # what sees a clock, the machine or the session, or does more than give a value
    r"current_|now$|today$|get_|getvariable$|getenv$|transaction|txid|in_search_path|stats$|vector_type|age$|ago$|error$"
    r"|write_log|sleep|uuid|gen_|nextval|currval|setval|setseed|random|version$|pg_|query|constant_or_null|can_cast"
)
_ODD_WORDS = re.compile(  # reserved by DuckDB and by hardly anybody else, so a column may well be called so
    r"\b(?:at(?!\s+time\b)|analy[sz]e|anti|asof|asymmetric|binary|by|check|column|concurrently|constraint|describe|do|"
    r"fetch|foreign|freeze|full|generated|inner|lambda|lateral|left(?!\s*\()|natural|only|outer|overlaps|pivot|pivot_longer|"
    r"pivot_wider|positional|primary|qualify|references|returning|right(?!\s*\()|semi|show|summarize|symmetric|table|"
    r"tablesample|unique|unpack|unpivot|variadic|verbose|window)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_INTEGERS = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
    "INTEGER_LITERAL",
)  # fmt: skip
_FLOATS = ("FLOAT", "DOUBLE")
_WIDE_INTEGERS = ("HUGEINT", "UHUGEINT")
_DIGITS = {"BIGINT": 19, "UBIGINT": 20, "HUGEINT": 39, "UHUGEINT": 39}  # of other integers, 10
_MOST_DIGITS = 38  # of a decimal
_FLOAT_DIGITS, _DOUBLE_DIGITS = 6, 15  # that such a number always holds
_OF_JSON_TEXT = re.compile(r"!?~~~?\*?$|(?:not_)?i?like_escape$|regexp_(?:full_)?match|!?~\*?$|json|->>$")
"""Functions that may see the JSON of a list or an object."""
_MOMENTS = ("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_S", "TIMESTAMP_MS")
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMPTZ_NS")
_WORDS = {
    "number": "a number", "text": "text", "bool": "true or false", "day": "a date", "time": "a time of day",
}  # fmt: skip
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_DAY = re.compile(r"\s*[+-]?\d+-\d\d?-\d\d?\s*")
_TAKEN_FOR = ("VARCHAR", "BIGINT", "TIMESTAMP", "BOOLEAN")  # what a null is, where a function wants to know
_MOST_NULLS = 3  # in one call, for which all combinations of these are tried
_MICROSECOND_MOST = np.iinfo(np.int64).max  # what DuckDB takes for infinity


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A condition over columns of certain types: SQL over the columns c0, c1 … of the table `prepared`."""

    sql: str
    prepared: str  # the select list that makes them of the columns of the table `given`


@dataclass(frozen=True, kw_only=True)
class _Value:
    """What a node of the tree is: SQL, the type that DuckDB gives it, and the text where it is text as written."""

    sql: str
    type: str
    written: str | None = None
    is_clean: bool = False  # it cannot be NaN
    is_json: bool = False  # the JSON of a list or an object

    @property
    def kind(self) -> str:
        """What it can be compared with."""
        if self.type in _INTEGERS or self.type in _FLOATS or self.type.startswith("DECIMAL"):
            return "number"
        if self.type == "DATE" or self.type in _MOMENTS or self.type in _ZONED:
            return "day"
        if self.type.startswith("TIME"):
            return "time"
        kinds = {"VARCHAR": "text", "BOOLEAN": "bool", '"NULL"': "null", "NULL": "null"}
        return kinds.get(self.type, self.type)


class _Problem(Exception):
    """What is wrong with a condition, in words that follow it."""


@functools.lru_cache(maxsize=64)
def tree_of(text: str) -> Node:
    """The tree of a condition. Raises PolicyError if it is none, or asks for more than one document."""
    try:
        tree = _parsed(text)
        _check(tree, text)
    except (_Problem, RecursionError) as problem:
        reason = "it is nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        if reason.startswith(_MANY):
            construct = reason.removeprefix(_MANY)
            raise PolicyError(
                f"select.where: in {short(text)!r}, {construct} asks for other documents, and a rule sees one at a time"
                ". Compare columns of one document."
            ) from None
        raise PolicyError(
            f"select.where: {short(text)!r} is not an SQL condition: {short(reason)}. "
            "A column whose name is an SQL word goes into double quotes."
        ) from None
    return tree


def names_in(tree: Node) -> list[str]:
    """The names of the columns that a condition reads, sorted, as `selector.corpus.fields` spells them."""
    return sorted({_name(node) for node in _nodes(tree) if node["class"] == "COLUMN_REF"})


def cast_in(tree: Node) -> set[str]:
    """The names of the columns whose values a condition casts wherever it reads them, or of which it only asks whether
    they are null."""
    is_asked = ("OPERATOR_CAST", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL")
    bare = {
        _name(child)
        for node in _nodes(tree)
        if node["type"] not in is_asked
        for child in _children(node)
        if child["class"] == "COLUMN_REF"
    }
    if tree["class"] == "COLUMN_REF":
        bare.add(_name(tree))
    return set(names_in(tree)) - bare


@functools.lru_cache(maxsize=256)
def compiled(text: str, schema: pa.Schema) -> Compiled:
    """A condition over a table with these columns, under the names that it gives them. Raises PolicyError if it does
    not fit their types."""
    compiler = _Compiler(schema)
    try:
        value = compiler.value(tree_of(text))
        if value.kind in ("bool", "null"):
            return Compiled(sql=compiler.checked(value).sql, prepared=compiler.prepared)
    except _Problem as error:
        columns = ", ".join(f"{field.name} ({_phrase(field.type)})" for field in schema)
        problem = f"does not fit the columns {columns}: {short(error)}."
        raise PolicyError(f"select.where: {short(text)!r} {problem}") from error
    raise PolicyError(f"select.where: {short(text)!r} is {value.type}, not true or false. Write a comparison.")


def evaluated(text: str, table: pa.Table) -> pa.ChunkedArray:
    """What a condition is for each row of a table: true, false or null."""
    condition = compiled(text, table.schema)
    cursor = _cursor()
    try:
        cursor.register("given", _plain(table))
        query = f"SELECT {condition.sql} AS passed FROM (SELECT {condition.prepared} FROM given) prepared"
        return cursor.sql(query).to_arrow_table()["passed"].cast(pa.bool_())
    finally:
        cursor.close()


def short(text: object) -> str:
    """A text as a message can hold it."""
    line = " ".join(str(text).split()).rstrip(".")
    return f"{line[:200]}…" if len(line) > 200 else line


# ---------------------------------------------------------------- the tree

_MANY = "many: "


def _parsed(text: str) -> Node:
    problem = "" if text.strip() else "it is empty"
    for attempt in dict.fromkeys((text, _with_odd_words_quoted(text))):
        try:
            (answer,) = _cursor().execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{attempt}\n)"]).fetchone()
            parsed = json.loads(answer)
        except (_duckdb().Error, ValueError) as error:
            raise _Problem(_first_line(error)) from error
        if not parsed["error"] and text.strip():
            return _alone(parsed)
        problem = problem or _first_line(parsed["error_message"])
    raise _Problem(problem)


def _alone(parsed: Mapping[str, Any]) -> Node:
    """The one expression that was to be parsed, and no more than that."""
    statements = parsed["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = {
        "modifiers": [], "where_clause": None, "group_expressions": [], "having": None, "sample": None, "qualify": None
    }  # fmt: skip
    if (
        node.get("type") != "SELECT_NODE"
        or len(node["select_list"]) != 1
        or node["from_table"]["type"] != "EMPTY"
        or node["cte_map"]["map"]
        or any(node.get(key) != value for key, value in plain.items())
    ):
        raise _Problem("it is more than a condition")
    return node["select_list"][0]


def _with_odd_words_quoted(text: str) -> str:
    pieces = re.split(f"({_QUOTED.pattern})", text)
    pieces[::2] = [_ODD_WORDS.sub(r'"\g<0>"', piece) for piece in pieces[::2]]
    return "".join(pieces)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: Node) -> Iterator[Node]:
    match node["class"]:
        case "COMPARISON":
            yield from (node["left"], node["right"])
        case "BETWEEN":
            yield from (node["input"], node["lower"], node["upper"])
        case "CASE":
            for check in node["case_checks"]:
                yield from (check["when_expr"], check["then_expr"])
            yield node["else_expr"]
        case "CAST":
            yield node["child"]
        case "FUNCTION":
            yield from (argument["expression"] for argument in node["arguments"])
        case _:
            yield from node.get("children", ())


def _check(tree: Node, text: str) -> None:
    """Raises _Problem if a condition has a part that a rule may not have."""
    for node in _nodes(tree):
        match node["class"]:
            case "COLUMN_REF" | "COMPARISON" | "CONJUNCTION" | "BETWEEN" | "CASE" | "OPERATOR" | "CAST":
                if node["class"] == "CAST":
                    _type_written(node)
            case "CONSTANT":
                if node["literal"]["kind"] not in ("INTEGER", "NUMERIC", "STRING", "BOOLEAN", "NULL_LITERAL"):
                    raise _Problem(f"a constant of the kind {node['literal']['kind']}")
            case "FUNCTION":
                _check_function(node, text)
            case "SUBQUERY":
                raise _Problem(f"{_MANY}{_as_written('select', text)}")
            case "WINDOW":
                raise _Problem(f"{_MANY}{_as_written('over', text)}")
            case "DEFAULT":
                raise _Problem("'default' is an SQL word")
            case _:
                raise _Problem(f"{node['class'].lower().replace('_', ' ')} is no part of a condition")


def _check_function(node: Node, text: str) -> None:
    name = node["function_name"].lower()
    kinds = _functions().get(name, set())
    if name == "count_star" or ("aggregate" in kinds and "scalar" not in kinds) or node.get("filter"):
        raise _Problem(f"{_MANY}{_as_written('count' if name == 'count_star' else name, text)}")
    is_known = ("scalar" in kinds and name not in _MANY_VALUES) or name in _MACROS
    if not is_known or _IMPURE.match(name) or node.get("catalog") or node.get("schema"):
        raise _Problem(f"unsupported function {name!r}")


def _as_written(word: str, text: str) -> str:
    spelling = re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
    return spelling[0] if spelling else word


def _type_written(node: Node) -> str:
    """The type that a cast names."""
    written = node["type_expr"]
    sizes = [child["literal"]["text"] for child in written["children"] if child["class"] == "CONSTANT"]
    name = written["type_name"]
    if len(sizes) != len(written["children"]) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ ]*", name):
        raise _Problem(f"a cast to {name}")
    if not all(size.isdigit() for size in sizes):
        raise _Problem(f"a cast to {name}({', '.join(sizes)})")
    return f"{name}({', '.join(sizes)})" if sizes else name


def _name(node: Node) -> str:
    return fields.name_of(node["column_names"])


# ---------------------------------------------------------------- from the tree to SQL


class _Compiler:
    """Makes SQL of a tree. What a piece of it is, DuckDB says, over a table of the same types with one row of nulls."""

    def __init__(self, schema: pa.Schema) -> None:
        of_json = {field.name for field in schema if isinstance(field.type, pa.JsonType)}
        schema = pa.schema([(field.name, pa.string() if field.name in of_json else field.type) for field in schema])
        expressions = [_normal(field.type, number) for number, field in enumerate(schema)]
        self.prepared = ", ".join(f"{sql} AS c{number}" for number, sql in enumerate(expressions)) or "1"
        self._cursor = _cursor()
        nulls = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
        self._cursor.register("given", _plain(nulls))
        self._cursor.execute(f"CREATE TEMP TABLE prepared AS SELECT {self.prepared} FROM given")
        described = self._cursor.execute("DESCRIBE prepared").fetchall()
        columns = zip(schema.names, described, strict=True) if schema.names else ()
        self._columns = {
            name: _Value(sql=f"c{number}", type=column[1], is_clean=True, is_json=name in of_json)
            for number, (name, column) in enumerate(columns)
        }  # fmt: skip

    def value(self, node: Node) -> _Value:
        match node["class"]:
            case "COLUMN_REF":
                return self._columns[_name(node)]
            case "CONSTANT":
                return self._constant(node["literal"])
            case "COMPARISON":
                return self._compared(_COMPARISONS[node["type"]], self.value(node["left"]), self.value(node["right"]))
            case "BETWEEN":
                value, lower, upper = (self.value(node[key]) for key in ("input", "lower", "upper"))
                least, most = self._compared(">=", value, lower), self._compared("<=", value, upper)
                return _bool(f"({least.sql} AND {most.sql})")
            case "CONJUNCTION":
                word = " AND " if node["type"] == "CONJUNCTION_AND" else " OR "
                return _bool(f"({word.join(self._condition(child).sql for child in node['children'])})")
            case "CASE":
                return self._case(node)
            case "CAST":
                return self._cast(self.value(node["child"]), _type_written(node))
            case "FUNCTION":
                return self._function(node)
            case _:
                return self._operator(node)

    def checked(self, value: _Value) -> _Value:
        """The same value, once DuckDB has understood all of it."""
        self._typed(value.sql)
        return value

    def _constant(self, literal: Mapping[str, str]) -> _Value:
        kind, text = literal["kind"], literal["text"]
        if kind == "STRING":
            return _Value(sql=_quoted(text), type="VARCHAR", written=text, is_clean=True)
        if kind == "NULL_LITERAL":
            return _Value(sql="NULL", type="NULL", is_clean=True)
        if kind == "BOOLEAN":
            return _bool(text)
        number = self._typed(f"({text.replace('_', '')})", is_clean=True)
        return self._typed(f"CAST({number.sql} AS DOUBLE)", is_clean=True) if number.type == "BIGNUM" else number

    def _condition(self, node: Node) -> _Value:
        """A value that is true or false."""
        value = self.value(node)
        if value.kind not in ("bool", "null"):
            raise _Problem(f"{value.type} stands where true or false is wanted; write a comparison")
        return value

    def _operator(self, node: Node) -> _Value:
        kind = node["type"]
        if kind == "OPERATOR_NOT":
            return _bool(f"(NOT {self._condition(node['children'][0]).sql})")
        children = [self.value(child) for child in node["children"]]
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            return _bool(f"({_clean(children[0])} IS {'NOT ' if 'NOT' in kind else ''}NULL)")
        if kind in _LISTED:
            return self._listed(children[0], children[1:], _LISTED[kind])
        if kind == "OPERATOR_COALESCE":
            return self._first_of(children)
        if kind == "OPERATOR_TRY":
            return children[0]
        if kind == "ARRAY_EXTRACT":
            _refuse_json("an index", children)
            return self._typed(f"TRY({children[0].sql}[{children[1].sql}])")
        raise _Problem(f"{kind.removeprefix('OPERATOR_').lower().replace('_', ' ')} is no part of a rule")

    def _listed(self, value: _Value, among: Sequence[_Value], word: str) -> _Value:
        """Whether a value is one of some."""
        digits = [_digits_of(one) for one in (value, *among)]
        if value.kind == "text":
            is_plain = all(one.written is not None for one in among)
        else:
            is_plain = all(one is not None and one[1] == 0 for one in digits) or _fit_one_decimal(digits)
        if is_plain and len(among) > 8:
            return _bool(f"TRY({word}{_clean(value)} IN ({', '.join(one.sql for one in among)}))")
        return _bool(f"({word}({' OR '.join(self._compared('=', value, one).sql for one in among)}))")

    def _case(self, node: Node) -> _Value:
        whens = [self._condition(check["when_expr"]) for check in node["case_checks"]]
        thens = [self.value(check["then_expr"]) for check in node["case_checks"]]
        return self._chosen(whens, [*thens, self.value(node["else_expr"])])

    def _chosen(self, whens: Sequence[_Value], values: Sequence[_Value]) -> _Value:
        """The first of some values whose condition is true, or the last."""
        pairs = [self._beside(one, values) for one in self._alike(values)]
        *thens, last = (f"(CASE WHEN {loss} THEN NULL ELSE {one.sql} END)" if loss else one.sql for one, loss in pairs)
        cases = " ".join(f"WHEN {when.sql} THEN {then}" for when, then in zip(whens, thens, strict=True))
        chosen = self._typed(f"TRY(CASE {cases} ELSE {last} END)")
        return replace(chosen, is_json=any(value.is_json for value in values))

    def _first_of(self, values: Sequence[_Value]) -> _Value:
        """The first of some values that is not null."""
        cleaned = [
            _Value(sql=_clean(one), type=one.type, written=one.written, is_clean=True, is_json=one.is_json)
            for one in values
        ]
        return self._chosen([_bool(f"({one.sql} IS NOT NULL)") for one in cleaned[:-1]], cleaned)

    def _extreme(self, name: str, values: Sequence[_Value]) -> _Value:
        """The greatest or the least of some values; NULL where the type of all does not hold one of them."""
        pairs = [self._beside(one, values) for one in self._alike(values)]
        called = f"TRY({name}({', '.join(_clean(value) for value, _ in pairs)}))"
        lost = " OR ".join(loss for _, loss in pairs if loss)
        chosen = self._typed(f"(CASE WHEN {lost} THEN NULL ELSE {called} END)" if lost else called)
        return replace(chosen, is_json=any(value.is_json for value in values))

    def _beside(self, value: _Value, others: Sequence[_Value]) -> tuple[_Value, str]:
        """A value in the type that is to hold all of others too; and the condition on which that is another value, if
        it can be."""
        digits, of_others = _digits_of(value), [_digits_of(one) for one in others if one.kind == "number"]
        if value.kind == "number" and any(one.type in _FLOATS for one in others):
            as_float = f"CAST({value.sql} AS DOUBLE)"
            is_held = digits is None or digits[0] <= _DOUBLE_DIGITS
            lost = "" if is_held else f"TRY({_whole(as_float)} <> {_whole(value.sql)})"
            return _Value(sql=as_float, type="DOUBLE", is_clean=value.is_clean), lost
        scale = max((one[1] for one in of_others if one is not None), default=0)
        if digits is None or scale == 0 or _fit_one_decimal(of_others):
            return value, ""
        kind = f"DECIMAL({_MOST_DIGITS},{scale})"
        if not self._is_fine(f"CAST({value.sql} AS {kind})"):
            raise _Problem(f"{value.sql} has no place in {kind}, which is the type beside it; cast one of them")
        as_decimal = f"TRY_CAST({value.sql} AS {kind})"
        return _Value(sql=as_decimal, type=kind, is_clean=True), f"{value.sql} IS NOT NULL AND {as_decimal} IS NULL"

    def _cast(self, value: _Value, kind: str) -> _Value:
        if value.written is not None and not self._is_fine(f"CAST({value.sql} AS {kind})"):
            raise _Problem(f"{value.written!r} is no {kind}")
        return self._typed(f"TRY_CAST({value.sql} AS {kind})")

    def _function(self, node: Node) -> _Value:
        name = node["function_name"].lower()
        values = [self.value(child) for child in _children(node)]
        if name in _ARITHMETIC or (name in _NAMED_ARITHMETIC and not any(one.type.endswith("[]") for one in values)):
            return self._arithmetic(_NAMED_ARITHMETIC.get(name, name), values)
        if name == "nullif" and len(values) == 2:
            return self._typed(f"(CASE WHEN {self._compared('=', *values).sql} THEN NULL ELSE {values[0].sql} END)")
        if name == "if" and len(values) == 3:
            return self._chosen([self._condition(next(_children(node)))], values[1:])
        if name in ("coalesce", "ifnull"):
            return self._first_of(values)
        if name in ("greatest", "least"):
            return self._extreme(name, values)
        if not _OF_JSON_TEXT.match(name):
            _refuse_json(name, values)
        if name in _ROUNDING and [value.type in _INTEGERS for value in values] == [True]:
            return values[0]
        result = self._called(node, name, values)
        return self._typed(f"TRY_CAST({result.sql} AS BIGINT)") if result.type in _WIDE_INTEGERS else result

    def _called(self, node: Node, name: str, values: Sequence[_Value]) -> _Value:
        """A call. A null that has no type yet gets one that the function takes; the call is null in any case."""
        untyped = [number for number, value in enumerate(values) if value.kind == "null"]
        num_free = len(untyped) if len(untyped) <= _MOST_NULLS else 1
        problem: _Problem | None = None
        for kinds in [(), *itertools.product(_TAKEN_FOR, repeat=num_free)] if untyped else [()]:
            given = [value.sql for value in values]
            for number, kind in zip(untyped, itertools.cycle(kinds), strict=False):
                given[number] = f"CAST({given[number]} AS {kind})"
            called = ", ".join(given)
            sql = f"{name}({called})"
            if node.get("is_operator") and not name[0].isalpha():
                sql = f"({given[0]} {name} {given[1]})" if len(given) == 2 else f"({node['function_name']}({called}))"
            try:
                if any(value.written is not None for value in values):
                    self._is_fine(sql, wanted=True)
                return self._typed(f"TRY({sql})")
            except _Problem as error:
                problem = problem or error
        assert problem is not None, "at least one way was tried"
        raise problem

    def _arithmetic(self, name: str, values: Sequence[_Value]) -> _Value:
        """In 64 bits, and NULL where that is too narrow or a divisor is 0."""
        texts = [value for value in values if value.kind in ("text", "bool")]
        if texts:
            raise _Problem(f"{name} wants numbers, and {texts[0].written or texts[0].type} is {_WORDS[texts[0].kind]}")
        with_days = any(value.kind in ("day", "time") or value.type == "INTERVAL" for value in values)
        operands = [_operand(value, "INTEGER" if with_days else "BIGINT") for value in values]
        _refuse_json(name, values)
        if name in _DIVISIONS and len(operands) == 2:
            operands[1] = f"NULLIF({operands[1]}, 0)"
        if name == "abs":
            return self._typed(f"TRY(abs({', '.join(operands)}))")
        return self._typed(
            f"TRY({operands[0]} {name} {operands[1]})" if len(operands) == 2 else f"TRY({name} {operands[0]})"
        )

    def _alike(self, values: Sequence[_Value]) -> list[_Value]:
        """The values, which are to have one type, texts as written as that type."""
        kinds = {value.kind for value in values if value.written is None} - {"null"}
        if kinds <= {"text"}:
            return list(values)
        if len(kinds) > 1:
            raise _Problem(f"{' and '.join(sorted(_word(kind) for kind in kinds))} are mixed; cast one of them")
        model = next(value for value in values if value.written is None and value.kind != "null")
        return [self._written_as(value, model) if value.written is not None else value for value in values]

    def _compared(self, operator: str, left: _Value, right: _Value) -> _Value:
        """A comparison of two values of one kind."""
        if operator in _DISTINCT:
            equal = self._compared("=", left, right).sql
            are_null = f"{_clean(left)} IS NULL AND {_clean(right)} IS NULL"
            return _bool(f"({_DISTINCT[operator]}COALESCE({equal}, ({are_null})))")
        if left.written is not None and right.written is None:
            left = self._written_as(left, right)
        elif right.written is not None and left.written is None:
            right = self._written_as(right, left)
        kinds = {left.kind, right.kind}
        if kinds == {"text", "day"}:
            left, right = self._as_days(left, right), self._as_days(right, left)
        elif kinds == {"bool", "number"}:
            left, right = (
                _Value(sql=f"CAST({one.sql} AS BIGINT)", type="BIGINT") if one.kind == "bool" else one
                for one in (left, right)
            )
        elif len(kinds - {"null"}) > 1:
            compared = " with ".join(f"{_word(one.kind)} ({_seen(one)})" for one in (left, right))
            raise _Problem(f"it compares {compared}; cast one of them")
        if left.kind == right.kind == "number":
            return self._compared_numbers(operator, left, right)
        if left.kind == right.kind == "day" and {left.type, right.type} & {"TIMESTAMP_NS", "TIMESTAMPTZ_NS"}:
            left, right = self._without_zone(left), self._without_zone(right)
        types = {left.type, right.type}
        if types == {"TIME", "TIME_NS"}:
            left, right = (self._typed(f"CAST({one.sql} AS TIME_NS)") for one in (left, right))
        if "TIMESTAMP_NS" in types and types & {"TIMESTAMP", "DATE"}:
            return self._compared_finely(operator, left, right)
        return _bool(f"TRY({_clean(left)} {operator} {_clean(right)})")

    def _compared_numbers(self, operator: str, left: _Value, right: _Value) -> _Value:
        """Two numbers, as numbers: not in a type that may hold one where they are two, or that does not hold one."""
        if _digits_of(left) is None:  # a float
            if _digits_of(right) is not None:
                return self._compared_numbers(_FLIPPED.get(operator, operator), right, left)
            return _bool(f"TRY({_clean(left)} {operator} {_clean(right)})")
        (whole, scale), other = _digits_of(left) or (0, 0), _digits_of(right)
        if other is not None:
            if scale == other[1] == 0 or _fit_one_decimal([(whole, scale), other]):
                return _bool(f"TRY({left.sql} {operator} {right.sql})")
            if scale < other[1]:
                return self._compared_widely(_FLIPPED.get(operator, operator), right, left, other[1])
            return self._compared_widely(operator, left, right, scale)
        if right.type == "FLOAT" and (scale == 0 or whole > _FLOAT_DIGITS):
            right = _Value(sql=f"CAST({right.sql} AS DOUBLE)", type="DOUBLE", is_clean=right.is_clean)
        number = _clean(right)
        if scale == 0:
            return self._compared_exactly(operator, left.sql, number)
        plain = f"CAST({left.sql} AS {right.type}) {operator} {number}"
        if whole <= _DOUBLE_DIGITS:
            return _bool(f"TRY({plain})")
        mine, others = _whole(left.sql), _whole(number)
        is_other = f"abs({number}) < 1e37 AND {mine} <> {others}"
        return _bool(f"TRY(CASE WHEN {is_other} THEN {mine} {operator} {others} ELSE {plain} END)")

    def _compared_exactly(self, operator: str, integer: str, number: str) -> _Value:
        """An integer with a float."""
        whole = f"CAST({_EXACTLY[operator]}({number}) AS HUGEINT)"
        near = f"{integer} {operator} {whole}"
        if operator in ("=", "<>"):
            word, both = ("AND", "=") if operator == "=" else ("OR", "<>")
            near = f"({number} {both} floor({number}) {word} {near})"
        return _bool(
            f"TRY(CASE WHEN abs({number}) < 1e37 THEN {near} ELSE CAST({integer} AS DOUBLE) {operator} {number} END)"
        )

    def _compared_widely(self, operator: str, fine: _Value, coarse: _Value, scale: int) -> _Value:
        """A decimal of this scale with a number of a smaller one, which may be larger than such a decimal can be: then
        that alone decides."""
        kind = f"DECIMAL({_MOST_DIGITS},{scale})"
        is_beyond = f"TRY_CAST({coarse.sql} AS {kind}) IS NULL AND {coarse.sql} IS NOT NULL"
        near_zero = f"CASE WHEN {fine.sql} IS NOT NULL THEN 0 END"
        return _bool(
            f"TRY(CASE WHEN {is_beyond} THEN ({near_zero}) {operator} (CASE WHEN {coarse.sql} > 0 THEN 1 ELSE -1 END)"
            f" ELSE CAST({fine.sql} AS {kind}) {operator} TRY_CAST({coarse.sql} AS {kind}) END)"
        )

    def _compared_finely(self, operator: str, left: _Value, right: _Value) -> _Value:
        """A moment in nanoseconds with one that they may not reach."""
        coarse = left if left.type != "TIMESTAMP_NS" else right
        fine, rough = (
            [f"TRY_CAST({one.sql} AS {kind})" for one in (left, right)] for kind in ("TIMESTAMP_NS", "TIMESTAMP")
        )
        return _bool(
            f"(CASE WHEN TRY_CAST({coarse.sql} AS TIMESTAMP_NS) IS NULL THEN {rough[0]} {operator} {rough[1]}"
            f" ELSE {fine[0]} {operator} {fine[1]} END)"
        )

    def _without_zone(self, value: _Value) -> _Value:
        """A moment as that of UTC, since those of nanoseconds are compared with others only so."""
        if value.type not in _ZONED:
            return value
        return self._typed(f"CAST({value.sql} AS {'TIMESTAMP_NS' if value.type == 'TIMESTAMPTZ_NS' else 'TIMESTAMP'})")

    def _as_days(self, value: _Value, other: _Value) -> _Value:
        """Text in ISO form as the moment that it says, where it is compared with one."""
        if value.kind != "text":
            return value
        kind = "TIMESTAMPTZ" if other.type in _ZONED else "TIMESTAMP"
        return self._typed(f"TRY_CAST({value.sql} AS {kind})")

    def _written_as(self, value: _Value, other: _Value) -> _Value:
        """Text as written in the type of what it stands beside."""
        text = value.written or ""
        if other.kind in ("text", "null"):
            return value
        if other.kind == "number":
            if not _NUMBER.fullmatch(text):
                raise _Problem(f"{text!r} is not a number, as {_seen(other)} is")
            return self._typed(f"({text.strip()})", is_clean=True)
        kinds: tuple[str, ...] = (other.type,)
        has_nanoseconds = re.search(r"\.\d{7}", text) is not None
        if other.kind == "time" and has_nanoseconds:
            kinds = ("TIME_NS",)
        if other.kind == "day":
            if other.type in _ZONED:
                kinds = ("TIMESTAMPTZ_NS", "TIMESTAMPTZ") if has_nanoseconds else ("TIMESTAMPTZ",)
            else:
                kinds = ("DATE",) if _DAY.fullmatch(text) else ("TIMESTAMP_NS",) if has_nanoseconds else ("TIMESTAMP",)
        for kind in kinds:
            if self._is_fine(f"CAST({value.sql} AS {kind})"):
                return self._typed(f"CAST({value.sql} AS {kind})")
        form = ", in the form 2024-12-31 or 2024-12-31 23:59:59" if other.kind == "day" else ""
        raise _Problem(f"{text!r} is not {_word(other.kind)}, as {_seen(other)} is{form}")

    def _typed(self, sql: str, *, is_clean: bool = False) -> _Value:
        """A value with the type that DuckDB gives it."""
        try:
            ((_, kind, *_),) = self._cursor.execute(f"DESCRIBE SELECT {sql} FROM prepared").fetchall()
        except _duckdb().Error as error:
            raise _Problem(_first_line(error)) from error
        return _Value(sql=sql, type=kind, is_clean=is_clean)

    def _is_fine(self, sql: str, *, wanted: bool = False) -> bool:
        """Whether it fails already where every column is null."""
        try:
            self._cursor.execute(f"SELECT {sql} FROM prepared").fetchall()
        except _duckdb().Error as error:
            if wanted:
                raise _Problem(_first_line(error)) from error
            return False
        return True


def _bool(sql: str) -> _Value:
    return _Value(sql=sql, type="BOOLEAN", is_clean=True)


def _clean(value: _Value) -> str:
    """The SQL of a value, NULL where it is NaN."""
    return value.sql if value.is_clean or value.type not in _FLOATS else f"NULLIF({value.sql}, 'nan'::{value.type})"


def _operand(value: _Value, integer: str) -> str:
    if value.type in _INTEGERS and value.type != integer:
        return f"TRY_CAST({value.sql} AS {integer})"
    return f"CAST({value.sql} AS DOUBLE)" if value.type == "FLOAT" else value.sql


def _digits_of(value: _Value) -> tuple[int, int] | None:
    """How many digits a number of an exact type may have before the point and after it; None for other types."""
    if value.type in _INTEGERS:
        return _DIGITS.get(value.type, 10), 0
    size = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", value.type)
    return (int(size[1]) - int(size[2]), int(size[2])) if size else None


def _fit_one_decimal(digits: Sequence[tuple[int, int] | None]) -> bool:
    """Whether there is a decimal that holds all numbers of so many digits."""
    known = [one for one in digits if one is not None]
    widest = max((one[0] for one in known), default=0) + max((one[1] for one in known), default=0)
    return len(known) == len(digits) and widest <= _MOST_DIGITS


def _whole(number: str) -> str:
    """The SQL of a number without what follows its point."""
    return f"CAST(trunc({number}) AS HUGEINT)"


def _refuse_json(name: str, values: Sequence[_Value]) -> None:
    """Raises _Problem if a function would look at the JSON of a list or an object as if it were a text."""
    json_column = next((value for value in values if value.is_json), None)
    if json_column is not None:
        raise _Problem(
            f"{name} would see the JSON of lists or objects; write json_array_length(x), json_contains(x, '\"en\"') or "
            "x->>'$[0]', or CAST(x AS VARCHAR) for the JSON as text"
        )


def _word(kind: str) -> str:
    return _WORDS.get(kind, kind)


def _seen(value: _Value) -> str:
    return repr(value.written) if value.written is not None else value.type


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---------------------------------------------------------------- the columns


def _plain(table: pa.Table) -> pa.Table:
    """The columns as DuckDB takes them, called c0, c1 …: moments in seconds and milliseconds as microseconds, those
    that lie beyond as infinity."""
    columns = [_plain_column(column) for column in table.columns]
    names = [f"c{number}" for number in range(len(columns))]
    return pa.table(columns, names=names) if columns else pa.table({"none": pa.nulls(table.num_rows)})


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        scale = 1_000_000 if kind.unit == "s" else 1_000
        chunks: list[pa.Array] = []
        for chunk in column.chunks:
            numbers = chunk.cast(pa.int64()).fill_null(0).to_numpy()
            most = _MICROSECOND_MOST // scale
            scaled = np.clip(numbers, -most, most) * scale
            scaled = np.where(numbers > most, _MICROSECOND_MOST, np.where(numbers < -most, -_MICROSECOND_MOST, scaled))
            is_null = chunk.is_null().to_numpy(zero_copy_only=False)
            chunks.append(pa.array(scaled, pa.int64(), mask=is_null).cast(pa.timestamp("us", kind.tz)))
        return pa.chunked_array(chunks, pa.timestamp("us", kind.tz))
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    return column


def _normal(kind: pa.DataType, number: int) -> str:
    """The SQL for a column as conditions see it: integers of 64 bits, or wider where they have to be; no NaN."""
    name = f"c{number}"
    if pa.types.is_uint64(kind) or (pa.types.is_decimal(kind) and kind.precision == 38 and kind.scale == 0):
        return f"CAST({name} AS HUGEINT)"
    if pa.types.is_integer(kind):
        return f"CAST({name} AS BIGINT)"
    if pa.types.is_floating(kind):
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END"
    return name


def _phrase(kind: pa.DataType) -> str:
    """An Arrow type in a message."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if isinstance(kind, pa.JsonType):
        return "lists or objects"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


# ---------------------------------------------------------------- DuckDB


def _duckdb() -> Any:
    import duckdb  # a policy without a rule does not wait for it

    return duckdb


def _cursor() -> Any:
    """A connection of this process's database, which is empty, has no threads, and reaches nothing outside."""
    return _database(os.getpid()).cursor()


@functools.lru_cache(maxsize=1)
def _database(_process: int) -> Any:
    database = _duckdb().connect(
        ":memory:",
        config={
            "threads": 1, "async_threads": 0, "enable_external_access": False, "autoinstall_known_extensions": False,
            "autoload_known_extensions": False, "max_expression_depth": 500,
        },
    )  # fmt: skip
    database.execute("SET TimeZone = 'UTC'; SET Calendar = 'gregorian'")
    return database


@functools.lru_cache(maxsize=1)
def _functions() -> Mapping[str, set[str]]:
    """What each function of DuckDB is: scalar, aggregate, macro …"""
    rows = _cursor().execute("SELECT lower(function_name), function_type FROM duckdb_functions()").fetchall()
    kinds: dict[str, set[str]] = {}
    for name, kind in rows:
        kinds.setdefault(name, set()).add(kind)
    return kinds


def _first_line(error: object) -> str:
    """What DuckDB says is wrong, without where."""
    lines = str(error).split("\n\nLINE ")[0].splitlines()
    text = " ".join(line.strip() for line in lines[:2] if not line.startswith("Candidate"))
    return re.sub(r"^[A-Za-z ]+ Error: ", "", text).replace("an explicit cast is required", "cast one of them")
