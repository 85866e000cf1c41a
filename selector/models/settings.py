"""What the files of a model say of how it is to be used, and whether we do so: read without loading the model.

Everything in these files is part of a vector's fingerprint. So what they ask for is done, as by
`SentenceTransformer.encode`, or the model is refused, and the message names the setting.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from selector.errors import PolicyError

_FIRST = "Transformer"
_AFTER = ("Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "WeightedLayerPooling")
"""Modules of sentence-transformers that need no more than the tokens of a text."""

_OF_THE_FIRST = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")

_NOT_OBEYED = ("transformer_task", "processing_kwargs", "tokenizer_name_or_path")
"""Settings of the first module with which texts would go into the model in another way than ours, or by files that lie
elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is to be used."""

    num_positions: int | None  # how many tokens it can read of a text; None: its files do not say
    max_seq_length: int | None  # how many it is meant to read
    prompt: str  # that every text begins with, by default

    def check_length(self, max_tokens: int, model: str) -> None:
        """The model reads as many tokens as it is to be given. Raises PolicyError."""
        if self.num_positions is not None and max_tokens > self.num_positions:
            raise PolicyError(
                f"embed.max_tokens is {max_tokens}, and {model} reads at most {self.num_positions}. Lower it."
            )
        if self.max_seq_length is not None and max_tokens > self.max_seq_length:
            raise PolicyError(
                f"embed.max_tokens is {max_tokens}, and the max_seq_length of {model} is {self.max_seq_length}: it is"
                f" meant to read no more. Write embed.max_tokens: {self.max_seq_length}, or less."
            )


def settings_of(folder: Path, where: str = "embed.model") -> Settings:
    """The settings in a model's folder. Raises PolicyError for one that is not obeyed."""
    first = _json(next(_configs_of_first(folder), folder / "sentence_bert_config.json"), where)
    modules = _json(folder / "modules.json", where, default=[])
    for number, module in enumerate(modules):
        _check_module(folder, number, module, where)
    for key in _NOT_OBEYED:
        if first.get(key) not in (None, {}, "feature-extraction"):
            raise _refused(where, folder, f"its {key} is {first[key]!r}", "Save it without, or take another one.")
    kinds = first.get("modality_config") or {"text": {}}
    if "text" not in kinds or "message" in kinds:
        cure = "Take one that reads texts as they are."
        raise _refused(where, folder, f"its modality_config names {', '.join(kinds)}", cure)
    ours = _json(folder / "config_sentence_transformers.json", where)
    if ours.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise _refused(where, folder, f"its model_type is {ours['model_type']!r}", "Take one that makes dense vectors.")
    prompts, name = cast(Mapping[str, Any], ours.get("prompts") or {}), ours.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise _refused(where, folder, f"its default_prompt_name {name!r} is not among its prompts", "Correct the file.")
    positions = _json(folder / "config.json", where).get("max_position_embeddings")
    longest = first.get("max_seq_length") or _json(folder / "tokenizer_config.json", where).get("model_max_length")
    return Settings(
        num_positions=None if positions == -1 else positions,
        max_seq_length=longest,
        prompt="" if name is None else prompts[name] or "",
    )


def _check_module(folder: Path, number: int, module: Mapping[str, Any], where: str) -> None:
    """A module is one that we run as `encode` does, from weights that are in the fingerprint."""
    kind, path = str(module.get("type")), str(module.get("path", ""))
    package, _, name = kind.rpartition(".")
    is_known = name == _FIRST if number == 0 else name in _AFTER
    if not is_known or package.partition(".")[0] != "sentence_transformers":
        known = _FIRST if number == 0 else ", ".join(_AFTER)
        raise _refused(where, folder, f"module {number} in its modules.json is {kind}", f"There can be {known}.")
    inside = folder / path
    if path and (inside / "pytorch_model.bin").is_file() and not (inside / "model.safetensors").is_file():
        problem = f"the weights of {path} are a pytorch_model.bin"
        raise _refused(where, folder, problem, "Only safetensors are loaded: save the model with them.")


def _configs_of_first(folder: Path) -> Any:
    """The files that may hold the settings of the first module, in the order in which they are looked for."""
    files = (folder / f"sentence_{kind}_config.json" for kind in _OF_THE_FIRST)
    return (file for file in files if file.is_file())


def _refused(where: str, folder: Path, problem: str, cure: str) -> PolicyError:
    return PolicyError(f"{where}: {folder} cannot be used as it is meant to be: {problem}. {cure}")


def _json(file: Path, where: str, default: Any = None) -> Any:
    """What a file of settings says; the default, or no settings, where there is none."""
    if not file.is_file():
        return {} if default is None else default
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{where}: {file} cannot be read: {error}. Put the model's own file there.") from error
