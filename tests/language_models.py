"""Language models and classifiers of a few thousand parameters, with a tokenizer of their own: everything of real ones
but their size."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conftest import text_of, use_one_thread

TEXTS = [text_of(n) for n in range(24)]


@functools.cache
def _tokenizer(begins: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])  # type: ignore[assignment]
    return tokenizer


def write_model(folder: Path, seed: int, *, outputs: int | None = None, begins: bool = False, width: int = 16) -> Path:
    """A model with drawn weights: a causal language model, or a classifier with so many outputs."""
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

    use_one_thread()
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"num_labels": outputs or 2}
    config = GPT2Config(
        **sizes, vocab_size=400, n_positions=64, n_embd=width, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=1, pad_token_id=1, initializer_range=0.4,
    )  # fmt: skip
    model = GPT2LMHeadModel(config) if outputs is None else GPT2ForSequenceClassification(config)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(begins), bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def bare(folder: Path, *, is_classifier: bool = False) -> tuple[Any, Any]:
    """The model and its tokenizer, as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    kind: Any = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def token_losses(folder: Path, tokens: Sequence[int]) -> list[float]:
    """-ln p of each token but the first, in one forward pass of the whole, one text at a time."""
    model, _ = bare(folder)
    with torch.inference_mode():
        logits = model(torch.tensor([list(tokens)])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    return [-float(chances[i, token]) for i, token in enumerate(tokens[1:])]


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
