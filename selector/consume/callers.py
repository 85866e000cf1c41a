"""Who is about to read: the loader and the wrappers that are at work above a dataset or a sampler.

Nobody tells a dataset into what it is put. But whoever reads it is above it on the call stack, and in a forked loader
worker that includes the loader that forked it; one that is spawned is pickled below its loader. So a setting that would
undo the order is refused when an iteration begins, or made right where that can be done.
"""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from selector.errors import UsageError

# Only the frames of these are looked at: what else is on the stack belongs to the user.
_LIBRARIES = ("torch.utils.data", "torchdata", "accelerate", "transformers", "lightning", "pytorch_lightning")
_METHODS = {
    "__init__", "__iter__", "__next__", "__len__", "_reset", "set_epoch", "_iter_with_split", "_iter_with_no_split",
}  # fmt: skip
_STATEFUL = ("torch.utils.data.", "torchdata.")
# How wrappers call what they wrap, and an iterator of a DataLoader what it reads.
_WITHIN = ("dataset", "batch_sampler", "sampler", "base_dataloader", "_dataset", "_index_sampler")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A wrapper that gives each of several processes a part of what it reads."""

    name: str
    num_processes: int
    process: int | None
    takes_whole_batches: bool  # every n-th of those that it reads


@dataclass(frozen=True, kw_only=True)
class Callers:
    """What is at work above a dataset or a sampler."""

    wrappers: tuple[Any, ...] = ()  # all that is there, loaders included
    loaders: tuple[Any, ...] = ()
    cuts: tuple[Cut, ...] = ()
    num_skipped: int = 0  # batches that a wrapper drops at the beginning
    num_unskipped: int = 0  # steps that were trained on before, of which nothing is dropped at the beginning
    iterator: Any = None  # of a DataLoader, the nearest
    is_new: bool = False  # that iterator is being made, for which it may call iter() more than once

    @property
    def reads_ahead(self) -> bool:
        """Whether batches are taken before the training asks for them, by workers or by a wrapper."""
        return any(hasattr(loader, "base_dataloader") or loader.num_workers > 0 for loader in self.loaders)


def above() -> Callers:
    """The loaders and wrappers that are at work above the dataset or sampler that asks."""
    at_work = list(_at_work())
    iterator = next((owner for _, owner in at_work if _is_iterator(owner)), None)
    return replace(
        _callers(owner for _, owner in at_work),
        iterator=iterator,
        is_new=any(owner is iterator and method == "__init__" for method, owner in at_work),
        num_unskipped=_unskipped(),
    )


def of(loader: Any) -> Callers:
    """The wrappers and cuts that this loader and those inside it would make, found without reading it."""
    return _callers([loader])


def _callers(owners: Iterable[Any]) -> Callers:
    wrappers: list[Any] = []
    for owner in owners:
        wrappers += [part for part in within(owner) if not any(part is other for other in wrappers)]
    return Callers(
        wrappers=tuple(wrappers),
        loaders=tuple(filter(_is_loader, wrappers)),
        cuts=tuple(dict.fromkeys(filter(None, map(_cut, wrappers)))),
        num_skipped=max(map(_skipped, wrappers), default=0),
    )


def is_stateful_loader() -> bool:
    """Whether a loader that keeps states, torchdata's, calls the caller of this function."""
    frame = inspect.currentframe()
    frame = frame.f_back if frame is not None else None  # the caller
    asking = frame.f_back if frame is not None else None
    return asking is not None and str(asking.f_globals.get("__name__")).startswith(_STATEFUL)


def within(wrapper: Any) -> Iterator[Any]:
    """A loader or a wrapper, and all that it wraps."""
    unseen: list[Any] = [wrapper]
    seen: list[Any] = []
    while unseen:
        wrapped = unseen.pop(0)
        if not any(wrapped is other for other in seen):
            seen.append(wrapped)
            yield wrapped
            parts: list[Any] = [getattr(wrapped, name, None) for name in _WITHIN]
            unseen += [inner for inner in parts if hasattr(inner, "__iter__") or hasattr(inner, "__getitem__")]


def check_cuts(cuts: tuple[Cut, ...], rank: int, world_size: int, *, cure: str) -> None:
    """Raises UsageError if there are any."""
    if cuts:
        raise UsageError(
            f"{cuts[0].name} cuts what it reads over {cuts[0].num_processes} processes, and this is already the share"
            f" of rank {rank} of {world_size}: most of the order would be seen by nobody. {cure}"
        )


def check_dataset(dataset: Any, reader: Callers) -> None:
    """Raises UsageError if a loader would change what a dataset of whole batches gives."""
    for loader in reader.loaders:
        if loader.dataset is dataset and loader.batch_sampler is not None:
            raise UsageError(
                f"batch_size={loader.batch_size} would join batches of this dataset into larger ones. Its batches are"
                " whole: write DataLoader(dataset, batch_size=None, ...), and global_batch_size for another size."
            )
    _check_turns(reader)


def check_sampler(sampler: Any, reader: Callers, num_positions: int) -> None:
    """Raises UsageError if a loader would change what a sampler of whole batches gives, or has no item a position."""
    for wrapper in reader.wrappers:
        size: Any = getattr(wrapper, "batch_size", None)
        if size is not None and getattr(wrapper, "sampler", None) is sampler:
            raise UsageError(
                f"sampler=... with batch_size={size} would join this sampler's batches into larger ones. Write"
                " DataLoader(dataset, batch_sampler=sampler, ...)."
            )
    for loader in reader.loaders:
        num_items = len(loader.dataset) if hasattr(loader.dataset, "__len__") else num_positions
        if num_items != num_positions:
            raise UsageError(
                f"The loader's dataset has {num_items:,} items and the order {num_positions:,} positions, and this"
                " sampler gives positions: dataset[i] has to be the document at position i, not row i of the corpus. A"
                " corpus of one file that datasets has loaded becomes such a dataset by"
                ' dataset.select(manifest.rows(0, len(manifest))["row"].to_numpy()).'
            )
    _check_turns(reader)


def check_skipped(num_skipped: int, start: int) -> None:
    """Raises UsageError if batches are to be skipped after a position was loaded."""
    if num_skipped and start:
        raise UsageError(
            f"A wrapper skips {num_skipped} batches, and the state that was loaded begins at {start}: so many would be"
            " left out. Do one or the other (transformers: ignore_data_skip=True)."
        )


def check_resumed(num_unskipped: int, *, is_loaded: bool) -> None:
    """Raises UsageError if training goes on after some steps and the order would begin anew."""
    if num_unskipped and not is_loaded:
        raise UsageError(
            f"Training goes on after {num_unskipped} steps, ignore_data_skip=True skips nothing, and no state was"
            " loaded: the order would begin at 0 once more. Leave ignore_data_skip out, or load the state in the"
            " on_train_begin of a TrainerCallback."
        )


def check_counted(reader: Callers) -> None:
    """Raises UsageError if a wrapper's own state is a number of batches, whatever they were of."""
    if any(_is_of(one, "accelerate.") and getattr(one, "use_stateful_dataloader", False) for one in reader.wrappers):
        raise UsageError(
            "accelerate's use_stateful_dataloader stores how many batches were read, and not of which manifest: the"
            " checkpoint of another one would be taken. Leave it out, and store the sampler's state_dict(num_steps)."
        )


def _check_turns(reader: Callers) -> None:
    if any(loader.num_workers > 0 and not getattr(loader, "in_order", True) for loader in reader.loaders):
        raise UsageError(
            "in_order=False hands out batches as workers finish them, which is not the order. Leave it out."
        )


def _at_work() -> Iterator[tuple[str, Any]]:
    """The methods of loader libraries that are at work and their objects, the nearest first."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name in _METHODS and _is_library(frame):
            names = frame.f_locals
            yield from ((frame.f_code.co_name, names[name]) for name in ("self", "loader") if name in names)
        frame = frame.f_back


def _unskipped() -> int:
    """The steps after which a Trainer resumes, if this is its first epoch since then and it skips nothing."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        names = frame.f_locals
        is_trainer = frame.f_globals.get("__name__") == "transformers.trainer"
        if is_trainer and "epoch" in names and names.get("resume_from_checkpoint") is not None:
            is_first, trainer = names["epoch"] == names.get("epochs_trained"), names["self"]
            return int(trainer.state.global_step) if is_first and trainer.args.ignore_data_skip else 0
        frame = frame.f_back
    return 0


def _is_library(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return any(module == library or module.startswith(f"{library}.") for library in _LIBRARIES)


def _is_loader(owner: Any) -> bool:
    return all(hasattr(owner, name) for name in ("num_workers", "batch_sampler", "dataset"))


def _is_iterator(owner: Any) -> bool:
    return hasattr(owner, "_index_sampler") and not _is_loader(owner)


def _skipped(wrapper: Any) -> int:
    number: Any = getattr(wrapper, "skip_batches", 0) if _is_of(wrapper, "accelerate.") else 0
    return number if isinstance(number, int) else 0


def _is_of(wrapper: Any, *libraries: str) -> bool:
    return any(kind.__module__.startswith(libraries) for kind in type(wrapper).__mro__)


def _cut(owner: Any) -> Cut | None:
    """How this object cuts, in the words of accelerate and transformers, or of torch's DistributedSampler."""
    name = type(owner).__name__
    state = getattr(owner, "state", None) if "Dispatcher" in name else owner
    if _is_of(owner, "accelerate.", "transformers."):
        several, process = getattr(state, "num_processes", None), getattr(state, "process_index", None)
    elif hasattr(owner, "num_samples"):
        several, process = getattr(owner, "num_replicas", None), getattr(owner, "rank", None)
    else:
        return None
    if not isinstance(several, int) or several < 2:
        return None
    takes_whole_batches = hasattr(owner, "batch_sampler") and getattr(owner, "split_batches", None) is False
    return Cut(
        name=name,
        num_processes=several,
        process=process,
        takes_whole_batches=takes_whole_batches and state is owner,
    )
