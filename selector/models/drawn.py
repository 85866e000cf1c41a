"""A model with drawn weights and the shape of a real one: for measurements, where no real one is at hand.

Its tokenizer is that of the packaged embedding model.
"""

import shutil
from pathlib import Path
from typing import Any

from selector.models.find import find_model


def write(folder: Path, layers: int, width: int, *, is_classifier: bool) -> int:
    """How many weights the model has that is written into the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_labels": 1}
    config = LlamaConfig(
        **sizes, vocab_size=30_522, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64), max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config) if is_classifier else LlamaForCausalLM(config)
    model.save_pretrained(folder)
    packaged = find_model("all-MiniLM-L6-v2")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(packaged / name, folder / name)
    return sum(weights.numel() for weights in model.parameters())
