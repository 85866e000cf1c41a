"""A rater that notes every part that it finishes, and meets trouble at one document: the first time, or always."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Troubled(Rater):
    """The length of a text, from a worker with a weak spot."""

    folder: str
    trouble: str
    always: bool = False
    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch["text"].to_pylist()
        met = Path(self.folder, "met")
        if any(text.startswith("Document 77.") for text in texts) and (self.always or not met.exists()):
            met.touch()
            if self.trouble == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.trouble == "hangs":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.trouble == "raises":
                raise ArithmeticError("document 77 is too much")
        with Path(self.folder, "parts").open("a") as file:
            file.write(f"{texts[0] if texts else ''}\n")
        return pa.record_batch({"score": pa.array([len(text) for text in texts], pa.float64())})
