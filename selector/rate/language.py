"""The language of a text, and how sure that is.

Source: langid (Lui and Baldwin 2012, "langid.py: an off-the-shelf language identification tool"), a naive Bayes
classifier over byte n-grams, as py3langid carries it (`pip install "selector[language]"`); it knows 140 languages by
their ISO 639 codes. Probabilities are normalised over the languages that may be.

Unit: a code; of `_probability` a probability. Range: ISO 639 codes, and `und` for what is not sure enough; 0 to 1. A
high probability means better: a surer code. A short text is hard to tell: trust 50 characters and more.
"""

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Meaning, Rater
from selector.rate._words import texts_of


@dataclass(frozen=True, kw_only=True)
class Language(Rater):
    """The code of the text's language, under the rater's name, and with `_probability` after it how probable that is.

    `languages` are those that may be; by default all. Below `least` the code is `und`, undetermined. A text without a
    letter has neither.
    """

    libraries = ("py3langid",)

    languages: tuple[str, ...] | None = None
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.languages is not None and len(set(self.languages)) < 2:
            raise PolicyError(f"language.languages is {list(self.languages)}: name two or more, or leave it out.")

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "label", f"{name}_probability": "better"}

    def prepare(self) -> None:
        assert _identifier(self.languages) is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch)
        has_letter = texts.str.contains(r"\p{L}").to_numpy()
        classify = _identifier(self.languages).classify
        languages = [classify(text) if known else ("", 0.0) for text, known in zip(texts, has_letter, strict=True)]
        probability = np.array([sure for _, sure in languages], np.float64)
        codes = [code if sure >= self.least else "und" for code, sure in languages]
        return pa.record_batch(
            {
                "score": pa.array(codes, pa.string(), mask=~has_letter),
                "score_probability": pa.array(probability, mask=~has_letter),
            }
        )


@functools.cache
def _identifier(languages: tuple[str, ...] | None) -> Any:
    """The classifier, of which a process needs one: it has 70 MB, and takes half a second to load."""
    try:
        langid = importlib.import_module("py3langid.langid")
    except ModuleNotFoundError as error:
        raise PolicyError('language: py3langid is not installed. Type: pip install "selector[language]"') from error
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    if languages is not None:
        try:
            identifier.set_languages(languages)
        except ValueError as error:
            raise PolicyError(f"language.languages: {error}. Write codes of ISO 639, such as en or de.") from error
    return identifier
