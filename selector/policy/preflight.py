"""All that can be known to be wrong before any work is done."""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from selector.corpus import fields, files, formats, render, values
from selector.errors import CorpusError, PolicyError, did_you_mean, listed
from selector.models.find import find_model
from selector.models.settings import settings_of
from selector.plugins.catalogue import RULE_COLUMNS, Catalogue
from selector.policy.sections import CorpusPolicy, Policy
from selector.policy.where import Rule

_ROWS_TO_LOOK_AT = 100


def check(
    policy: Policy,
    catalogue: Catalogue,
    rule: Rule | None,
    corpus_files: files.CorpusFiles,
    *,
    corpus_columns: Mapping[str, str],
    needs_vectors: bool,
) -> None:
    """The model can be used, and the corpus has the columns that the policy names, and rows. Raises PolicyError or
    CorpusError.

    `corpus_columns` are the columns of the corpus that the rule and plug-ins read, each with the path of the policy
    that names it.
    """
    if needs_vectors:
        _check_model(policy)
    _check_corpus(policy, catalogue, rule, corpus_files, corpus_columns)


def _check_corpus(
    policy: Policy,
    catalogue: Catalogue,
    rule: Rule | None,
    corpus_files: files.CorpusFiles,
    corpus_columns: Mapping[str, str],
) -> None:
    everywhere = dict.fromkeys(render.columns(policy.corpus.text), "corpus.text")
    if policy.corpus.key is not None:
        everywhere[policy.corpus.key] = "corpus.key"
    read = {fields.name_of([column]): "corpus.text" for column in render.file_columns(policy.corpus.text)}
    if isinstance(policy.corpus.source, str):
        read[policy.corpus.source] = "corpus.source"
    somewhere = dict(corpus_columns)
    if isinstance(policy.corpus.source, str) and policy.corpus.source != CorpusPolicy.model_fields["source"].default:
        somewhere[policy.corpus.source] = "corpus.source"
    if isinstance(policy.corpus.source, Mapping):
        _check_constants(policy.corpus.source, corpus_files.uris)
    known: set[str] = set()
    is_whole, are_empty, errors = True, [True], list[CorpusError]()
    for file in corpus_files.files:
        uri = file.uri
        beginning = _look(file, policy.corpus.max_document_bytes)
        if isinstance(beginning, CorpusError):
            errors.append(beginning)
            continue
        are_empty.append(beginning.is_empty)
        is_whole &= beginning.is_whole
        names = _names(beginning)
        for name, where in {**read, **everywhere, **somewhere}.items():
            twice = _named_twice(name, beginning)
            if twice is not None:
                raise CorpusError(f"{where}: {uri} has two columns {twice!r}. Give one of them another name.")
        names |= {_spelt(name) for name in {**everywhere, **somewhere} if _is_in_map(name, beginning)}
        known |= names
        for name, where in everywhere.items():
            column = name if beginning.is_whole else fields.name_of(fields.path_of(name)[:1])
            if names and _spelt(column) not in names:
                raise unknown_column(name, where, uri, names, catalogue)
        if rule is not None:
            _check_rule(rule, file, beginning, names, catalogue)
    if len(errors) == len(corpus_files.files):
        raise errors[0]
    if all(are_empty):
        raise CorpusError(f"corpus.paths: there is no row in {', '.join(policy.corpus.paths)}. Give files with rows.")
    for name, where in somewhere.items():
        if is_whole and known and _spelt(name) not in known:
            uris = corpus_files.uris
            searched = uris[0] if len(uris) == 1 else f"none of the {len(uris)} files of the corpus"
            raise unknown_column(name, where, searched, known, catalogue)


def unknown_column(
    name: str, where: str, searched: str, of_corpus: Collection[str], catalogue: Catalogue
) -> CorpusError:
    """The error for a column that the policy names and that `searched`, a file or all of them, does not have."""
    ours = [*RULE_COLUMNS, *catalogue.scores] if where == "select.where" else []
    known = {*of_corpus, *ours}
    hint = did_you_mean(name, known)
    quoted = fields.name_of([name])
    if quoted in of_corpus:
        hint = f"Did you mean {quoted}? A dot that is part of a name is written in quotes."
    has = "has a column" if searched.startswith("no") else "has no column"
    hints = [hint] if hint.startswith("Did") else []
    if where == "select.where" and not hints:
        hints = ["Double quotes are for names; text goes into single ones, as in source = 'web'."]
    return CorpusError(
        " ".join([f"{where}: {searched} {has} {listed([name])!r}. There is: {listed(sorted(known))}.", *hints])
    )


def _names(beginning: formats.Beginning) -> set[str]:
    """The names of the columns of a file as far as that tells, nested ones too."""
    if beginning.schema is not None:
        return set(fields.names_of(beginning.schema))
    names = {fields.name_of([column]) for column in beginning.columns if column}
    return names.union(*map(fields.names_in, beginning.rows))


def _named_twice(name: str, beginning: formats.Beginning) -> str | None:
    """Of the columns that lead to one of this name, the first of which a file has two; None if there is none."""
    path = fields.path_of(name)
    names = [fields.name_of([column]) for column in beginning.columns if column]
    if beginning.schema is not None:
        names = fields.names_of(beginning.schema)
    leading = [fields.name_of(path[:depth]) for depth in range(1, len(path) + 1)]
    return next((name for name in leading if names.count(name) > 1), None)


def _is_in_map(name: str, beginning: formats.Beginning) -> bool:
    """Whether a column is what maps of a file may have at a key: which keys they have, no schema says."""
    if beginning.schema is None:
        return False
    return not pa.types.is_null(values.type_in(beginning.schema, name))


def _spelt(name: str) -> str:
    """A name as `selector.corpus.fields` writes it."""
    return fields.name_of(fields.path_of(name))


def _check_rule(
    rule: Rule, file: files.File, beginning: formats.Beginning, names: Collection[str], catalogue: Catalogue
) -> None:
    """Each short name of the rule means one thing, and it fits what a file begins with. What types the values have is
    known once all were read; that a rule does not fit those of the first ones can be known now."""
    for rule_column in rule.columns:
        score = catalogue.scores.get(rule_column.name)
        if score is not None and rule_column.name in names and not score.passes_on:
            raise PolicyError(
                f"select.where: {rule_column.name!r} is a score and a column of the corpus. "
                f"Write score.{rule_column.name} or corpus.{rule_column.name}."
            )
    if formats.find(file.format, file.uri).is_spelt:  # what its texts mean is known once all were read
        return
    try:
        rule.check({name: _first_type(name, beginning) for name in rule.corpus_columns})
    except PolicyError as error:
        raise PolicyError(f"{error} These are the types in {file.uri}.") from error


def _first_type(name: str, beginning: formats.Beginning) -> pa.DataType:
    """The type of a column of the corpus in the first rows of a file, null where nothing is known of it or where these
    have no one type."""
    if beginning.schema is not None:
        return values.type_in(beginning.schema, name)
    return values.type_of_values([fields.find(row, name) for row in beginning.rows])


def _check_model(policy: Policy) -> None:
    """The model is there, has no setting that we do not obey, and reads as many tokens as it is to be given. Raises
    PolicyError."""
    settings_of(find_model(policy.embed.model)).check_length(policy.embed.max_tokens, policy.embed.model)


def _check_constants(constants: Mapping[str, str], uris: Sequence[str]) -> None:
    for pattern, label in constants.items():
        if not any(files.constant_source(uri, {pattern: label}) for uri in uris):
            raise CorpusError(
                f"corpus.source: no file of the corpus matches {pattern!r}. "
                f"Write a pattern of a whole path or of a name, e.g. {uris[0]!r}, a folder, or '*/folder/*'."
            )


def _look(file: files.File, max_bytes: int) -> formats.Beginning | CorpusError:
    """What the first rows of a file tell; nothing if its bytes are damaged; why it cannot be read, if it cannot."""
    try:
        return formats.find(file.format, file.uri).peek(file.uri, (), max_bytes, _ROWS_TO_LOOK_AT)
    except formats.Corrupt:
        return formats.Beginning(is_whole=True)  # the survey will quarantine it
    except formats.NoRows as error:
        return CorpusError(f"corpus.paths: {file.uri} has no rows: {error}. Give files with rows.")
    except CorpusError as error:
        return error
