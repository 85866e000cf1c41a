"""How long a text is: its tokens under the declared tokenizer."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selector.errors import PolicyError


def find_tokenizer(declared: str | None, model: Path) -> Path:
    """The tokenizer.json that a policy declares, or else the embedding model's. Raises PolicyError if it is none."""
    place = Path(declared).expanduser() if declared is not None else model
    file = place / "tokenizer.json" if place.is_dir() else place
    if not file.is_file():
        raise PolicyError(
            f"corpus.tokenizer: there is no tokenizer.json at {str(place)!r}. Give the file, or the folder it is in."
        )
    _load(str(file), sha256_of(file))
    return file


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _load(file: str, sha256: str) -> Any:
    from tokenizers import Tokenizer

    data = Path(file).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PolicyError(
            f"corpus.tokenizer: {file} is not, or no longer, what the run was planned with. Run the same command again."
        )
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises nothing more precise
        raise PolicyError(
            f"corpus.tokenizer: {file!r} is not a tokenizer: {error}. Give a tokenizer.json as tokenizers saves it."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count_tokens(file: str, sha256: str, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, special ones not counted. Raises PolicyError if the file has another sha256."""
    tokenizer = _load(file, sha256)
    counts: list[int] = []
    for start in range(0, len(texts), 256):
        counts += [
            len(encoding) for encoding in tokenizer.encode_batch(texts[start : start + 256], add_special_tokens=False)
        ]
    return counts
