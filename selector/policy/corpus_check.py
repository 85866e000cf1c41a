"""What `selector check` asks of a corpus beyond what every run begins with: rows have text, and enough for the budget.

A run finds both on its way, after a survey and an ingest. Here they are found without either; the corpus is counted
only as far as the budget needs.
"""

from collections.abc import Iterator, Sequence

from selector.corpus import formats, render
from selector.errors import CorpusError, PolicyError
from selector.policy.sections import Policy

_ROWS_TO_LOOK_AT = 100
_UNKNOWN = 1 << 62  # bytes of a format that does not say where rows lie


def check_corpus(policy: Policy, uris: Sequence[str]) -> None:
    """Some row has a text, and the budget is not larger than the corpus can be. Raises CorpusError or PolicyError."""
    _check_texts(policy, uris)
    _check_budget(policy, uris)


def _check_texts(policy: Policy, uris: Sequence[str]) -> None:
    """Of the first rows of the files one has a text, or all lack it for a reason that others need not have."""
    text, columns = policy.corpus.text, render.file_columns(policy.corpus.text)
    for uri in uris:
        problems: list[render.NoText] = []
        for row in _beginning(uri, columns, policy.corpus.max_document_bytes).rows:
            try:
                render.render(row, text)
            except render.NoText as error:
                problems.append(error)
            else:
                return
        if problems and all(problem.reason == "not_text" for problem in problems):
            raise CorpusError(
                f"corpus.text: none of the first {len(problems)} rows of {uri} has a text: {problems[0].detail}."
                " Write a column of texts or chats, or a template of columns: '{question}\\n{answer}'."
            )


def _check_budget(policy: Policy, uris: Sequence[str]) -> None:
    budget = policy.select.budget
    if budget.documents is not None:
        num_rows = _counted((extent.num_rows for extent in _ranges(uris)), budget.documents)
        if num_rows < budget.documents:
            raise PolicyError(
                f"select.budget.documents is {budget.documents}, and the corpus has only {num_rows} rows. "
                "Lower it, or write fraction: 1.0 for all of it."
            )
    if budget.tokens is not None and policy.corpus.key is None:
        most = _counted(_most_tokens(policy.corpus.text, uris), budget.tokens)
        if most < budget.tokens:
            raise PolicyError(
                f"select.budget.tokens is {budget.tokens}, and the texts of the corpus have at most {most} bytes, and"
                " so no more tokens. Lower it, or write fraction: 1.0 for all of it."
            )


def _most_tokens(text: str, uris: Sequence[str]) -> Iterator[int]:
    """More tokens than the texts of each range of rows can have: a token is a byte at least, and so is a document."""
    literals = len(text.encode()) if "{" in text else 0
    times = max(1, text.count("{"))
    for extent in _ranges(uris):
        num_bytes = extent.end - extent.start if extent.end > extent.start else _UNKNOWN
        yield times * num_bytes + (1 + literals) * extent.num_rows


def _ranges(uris: Sequence[str]) -> Iterator[formats.Range]:
    for uri in uris:
        try:
            yield from formats.format_of(uri).cut(uri, None)
        except formats.Corrupt:
            continue  # a run quarantines it


def _counted(amounts: Iterator[int], wanted: int) -> int:
    """The sum of the amounts, as far as it takes to reach what is wanted."""
    total = 0
    for amount in amounts:
        total += amount
        if total >= wanted:
            break
    return total


def _beginning(uri: str, columns: Sequence[str], max_bytes: int) -> formats.Beginning:
    """What the first rows of a file tell; nothing if it cannot be read."""
    try:
        return formats.format_of(uri).peek(uri, columns, max_bytes, _ROWS_TO_LOOK_AT)
    except formats.Corrupt:
        return formats.Beginning()
