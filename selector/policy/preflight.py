"""All that can be known to be wrong before any work is done."""

from collections.abc import Mapping, Sequence

from selector.corpus import fields, files, formats, render
from selector.corpus.columns import column
from selector.errors import CorpusError, PolicyError, did_you_mean
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
    uris: Sequence[str],
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
    _check_corpus(policy, catalogue, rule, uris, corpus_columns)


def _check_corpus(
    policy: Policy, catalogue: Catalogue, rule: Rule | None, uris: Sequence[str], corpus_columns: Mapping[str, str]
) -> None:
    wanted = dict.fromkeys(render.columns(policy.corpus.text), "corpus.text")
    if policy.corpus.key is not None:
        wanted[policy.corpus.key] = "corpus.key"
    if isinstance(policy.corpus.source, str) and policy.corpus.source != CorpusPolicy.model_fields["source"].default:
        wanted[policy.corpus.source] = "corpus.source"
    wanted |= corpus_columns
    if isinstance(policy.corpus.source, Mapping):
        _check_constants(policy.corpus.source, uris)
    rows_seen = False
    for uri in uris:
        beginning = _look(uri, policy.corpus.max_document_bytes, rule.corpus_columns if rule else ())
        rows_seen |= not beginning.is_empty
        for name, where in wanted.items():
            if beginning.columns and fields.column_of(name) not in beginning.columns:
                known = {*beginning.columns, *([*RULE_COLUMNS, *catalogue.scores] if where == "select.where" else [])}
                hint = did_you_mean(name, known)
                if name in beginning.columns:
                    hint = f"Did you mean {fields.name_of([name])}? A dot that is part of a name is written in quotes."
                raise CorpusError(
                    f"{where}: {uri} has no column {name!r}. There is: {', '.join(sorted(known))}."
                    f"{f' {hint}' if hint.startswith('Did') else ''}"
                )
        if rule is not None:
            _check_rule(rule, uri, beginning, catalogue)
    if not rows_seen:
        raise CorpusError(f"corpus.paths: there is no row in {', '.join(policy.corpus.paths)}. Give files with rows.")


def _check_rule(rule: Rule, uri: str, beginning: formats.Beginning, catalogue: Catalogue) -> None:
    """The rule fits what a file begins with, and each of its short names means one thing."""
    for rule_column in rule.columns:
        score = catalogue.scores.get(rule_column.name)
        if score is not None and rule_column.name in beginning.columns and not score.passes_on:
            raise PolicyError(
                f"select.where: {rule_column.name!r} is a score and a column of the corpus. "
                f"Write score.{rule_column.name} or corpus.{rule_column.name}."
            )
    if beginning.rows:
        try:
            rule.check({name: column([row.get(name) for row in beginning.rows]) for name in rule.corpus_columns})
        except PolicyError as error:
            raise PolicyError(f"{error} These are the types in {uri}.") from error


def _check_model(policy: Policy) -> None:
    """The model is there, has no setting that we do not obey, and reads as many tokens as it is to be given. Raises
    PolicyError."""
    settings_of(find_model(policy.embed.model)).check_length(policy.embed.max_tokens, policy.embed.model)


def _check_constants(constants: Mapping[str, str], uris: Sequence[str]) -> None:
    for pattern, label in constants.items():
        if not any(files.constant_source(uri, {pattern: label}) for uri in uris):
            raise CorpusError(
                f"corpus.source: no file of the corpus matches {pattern!r}. "
                f"Write a pattern of a whole path or of a name, e.g. {uris[0]!r}."
            )


def _look(uri: str, max_bytes: int, columns: Sequence[str]) -> formats.Beginning:
    """What the first rows of a file tell; nothing if it cannot be read."""
    try:
        return formats.format_of(uri).peek(uri, columns, max_bytes, _ROWS_TO_LOOK_AT)
    except formats.Corrupt:
        return formats.Beginning()  # the survey will quarantine it
