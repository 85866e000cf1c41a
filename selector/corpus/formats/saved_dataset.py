"""A folder that `Dataset.save_to_disk` of Hugging Face `datasets` wrote: Arrow streams, and a list of them.

Only the files that the list names are read. Others in the folder, such as what `map` left in a cache, hold the same
documents again, or what they were made of.
"""

from collections.abc import Callable, Collection
from json import loads
from pathlib import PurePath
from typing import Any

from selector.corpus.formats._arrow import ArrowFiles

_LIST = "state.json"


class SavedDataset(ArrowFiles):
    """The data files of a saved dataset. Those of a DatasetDict lie in a folder for each split."""

    name = "saved_dataset"
    endings = ()

    def of_folder(self, names: Collection[str], read: Callable[[str], bytes]) -> Collection[str] | None:
        if _LIST not in names or "dataset_info.json" not in names:
            return None
        try:
            listed = [file["filename"] for file in loads(read(_LIST))["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return listed if all(map(_is_in_folder, listed)) else None


def _is_in_folder(name: Any) -> bool:
    """Whether a name in a list is that of a file beside it: a list of somebody's may not lead to any file of ours."""
    return isinstance(name, str) and name not in ("", "..") and PurePath(name).name == name
