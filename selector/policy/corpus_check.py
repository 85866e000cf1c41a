"""What `selector check` asks of a corpus beyond what every run begins with: rows have text, and enough for the budget.

A run finds both on its way, after a survey and an ingest. Here they are found without either; the corpus is counted
only as far as the budget needs.
"""

from collections.abc import Iterator, Sequence

from selector.corpus import files, formats, render
from selector.errors import CorpusError, PolicyError
from selector.policy.sections import Policy

_ROWS_TO_LOOK_AT = 100
_UNKNOWN = 1 << 62  # bytes, where they do not tell how long a text can be
_MOST_RENDERED = 8  # bytes for one of JSON: in a chat, `"",` is "assistant: " and an empty line


def check_corpus(policy: Policy, corpus_files: Sequence[files.File]) -> None:
    """Some row has a text, and the budget is not larger than the corpus can be. Raises CorpusError or PolicyError.

    What a run leaves unread or quarantines is no reason to refuse a policy here.
    """
    _check_texts(policy, corpus_files)
    _check_budget(policy, corpus_files)


def _check_texts(policy: Policy, corpus_files: Sequence[files.File]) -> None:
    """Of the first rows of the files one has a text, or all lack it for a reason that others need not have."""
    text, columns = policy.corpus.text, render.file_columns(policy.corpus.text)
    for file in corpus_files:
        problems: list[render.NoText] = []
        for row in _beginning(file, columns, policy.corpus.max_document_bytes).rows:
            try:
                render.render(row, text)
            except render.NoText as error:
                problems.append(error)
            else:
                return
        if problems and all(problem.reason == "not_text" for problem in problems):
            raise CorpusError(
                f"corpus.text: none of the first {len(problems)} rows of {file.uri} has a text: {problems[0].detail}."
                " Write a column of texts or chats, or a template of columns: '{question}\\n{answer}'."
            )


def _check_budget(policy: Policy, corpus_files: Sequence[files.File]) -> None:
    budget = policy.select.budget
    if budget.documents is not None:
        num_rows = _counted((extent.num_rows for _, extent in _ranges(corpus_files)), budget.documents)
        if num_rows < budget.documents:
            raise PolicyError(
                f"select.budget.documents is {budget.documents}, and the corpus has only {num_rows} rows. "
                "Lower it, or write fraction: 1.0 for all of it."
            )
    if budget.tokens is not None and policy.corpus.key is None:
        most = _counted(_most_tokens(policy.corpus.text, corpus_files), budget.tokens)
        if most < budget.tokens:
            raise PolicyError(
                f"select.budget.tokens is {budget.tokens}, and the texts of the corpus have at most {most} bytes, and"
                " so no more tokens. Lower it, or write fraction: 1.0 for all of it."
            )


def _most_tokens(text: str, corpus_files: Sequence[files.File]) -> Iterator[int]:
    """More tokens than the texts of each range of rows can have: a token is a byte at least, and so is a document."""
    literals = len(text.encode()) if "{" in text else 0
    times = max(1, text.count("{"))
    for file, extent in _ranges(corpus_files):
        num_bytes = _longest(file, extent.end - extent.start)
        yield times * num_bytes + (1 + literals) * extent.num_rows


def _longest(file: files.File, num_bytes: int) -> int:
    """How many bytes the texts can have of rows that take so many in a file."""
    form = formats.find(file.format, file.uri)
    if num_bytes <= 0 or type(form).arrays is not formats.Format.arrays:  # columns may be packed to any size
        return _UNKNOWN
    return num_bytes if form.is_spelt else _MOST_RENDERED * num_bytes


def _ranges(corpus_files: Sequence[files.File]) -> Iterator[tuple[files.File, formats.Range]]:
    for file in corpus_files:
        try:
            for extent in formats.find(file.format, file.uri).cut(file.uri, None):
                yield file, extent
        except (formats.Corrupt, formats.NoRows, CorpusError):
            continue  # a run leaves it unread, or quarantines it


def _counted(amounts: Iterator[int], wanted: int) -> int:
    """The sum of the amounts, as far as it takes to reach what is wanted."""
    total = 0
    for amount in amounts:
        total += amount
        if total >= wanted:
            break
    return total


def _beginning(file: files.File, columns: Sequence[str], max_bytes: int) -> formats.Beginning:
    """What the first rows of a file tell; nothing if it cannot be read."""
    try:
        return formats.find(file.format, file.uri).peek(file.uri, columns, max_bytes, _ROWS_TO_LOOK_AT)
    except (formats.Corrupt, formats.NoRows, CorpusError):
        return formats.Beginning()
