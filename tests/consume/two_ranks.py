"""What each of two processes of a training sees through the loaders of others: run by `test_wrappers.py`.

    python two_ranks.py MANIFEST FOLDER LIBRARY...

writes what every case of a library gave to FOLDER/LIBRARY-RANK.json: the positions of each epoch, or the error. The
processes of a training are forked from one that has imported all libraries, which takes longer than most trainings.
"""

import gc
import importlib
import json
import os
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset

from selector import consume
from selector.consume import PADDING, ManifestBatchSampler, ManifestDataset
from selector.errors import SelectorError
from selector.manifest import Manifest

# Seconds in which the workers of a loader may end by themselves.
vars(importlib.import_module("torch.utils.data._utils"))["MP_STATUS_CHECK_INTERVAL"] = 0.5

SIZE = 4
Epochs = list[list[int]]
Case = Callable[[Manifest], Epochs]


class Positions(Dataset[int]):
    """A dataset of one's own, as long as the order."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def dataset(manifest: Manifest, **options: Any) -> ManifestDataset:
    given: dict[str, Any] = {"global_batch_size": SIZE, "text": False, **options}
    return ManifestDataset(manifest, **given)


def sampled(manifest: Manifest, num_workers: int = 0, **options: Any) -> DataLoader[Any]:
    given: dict[str, Any] = {"global_batch_size": SIZE, "last": "wrap", **options}
    sampler = ManifestBatchSampler(manifest, **given)
    return DataLoader(Positions(len(manifest)), batch_sampler=sampler, num_workers=num_workers)


def positions(batches: Any) -> list[int]:
    """All of an epoch, without padding."""
    found: list[int] = []
    for batch in batches:
        found += (batch["position"] if isinstance(batch, dict) else batch).tolist()
    return [position for position in found if position != PADDING]


def two_epochs(loader: Any) -> Epochs:
    first = positions(loader)
    end_feeders()
    return [first, positions(loader)]


def end_feeders() -> None:
    """Waits for the threads that fed the workers of a loader that has ended. While one of them ends, CPython 3.11 may
    hold a lock that the process needs which is forked then, and that process waits for ever."""
    gc.collect()  # a loader in a cycle has not ended
    for thread in threading.enumerate():
        if thread.name.startswith("QueueFeederThread"):
            thread.join(timeout=10)


# accelerate


def accelerate_cases() -> dict[str, Case]:
    accelerate: Any = importlib.import_module("accelerate")

    def accelerator(**options: Any) -> Any:
        return accelerate.Accelerator(cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(**options))

    def beside(manifest: Manifest) -> Epochs:
        loader: DataLoader[Any] = DataLoader(dataset(manifest), batch_size=None, num_workers=2)
        model = torch.nn.Linear(1, 1)
        accelerator().prepare(model, torch.optim.SGD(model.parameters(), 0.1))
        consume.check(loader)
        return two_epochs(loader)

    def resumed(manifest: Manifest) -> Epochs:
        loader = accelerator().prepare(sampled(manifest))
        loader.batch_sampler.batch_sampler.load_state_dict({"manifest": manifest.digest, "position": 40})
        return [[len(loader)], positions(loader), positions(loader)]

    def skipped(manifest: Manifest) -> Epochs:
        return [positions(accelerate.skip_first_batches(accelerator().prepare(sampled(manifest)), 10))]

    def skipped_twice(manifest: Manifest) -> Epochs:
        data = dataset(manifest)
        data.load_state_dict({"manifest": manifest.digest, "position": 8})
        return [positions(accelerate.skip_first_batches(DataLoader(data, batch_size=None), 2))]

    def stateful(manifest: Manifest) -> Epochs:
        return [positions(accelerator(use_stateful_dataloader=True).prepare(sampled(manifest)))]

    def checked(prepared: Callable[[Manifest], Any]) -> Case:
        def case(manifest: Manifest) -> Epochs:
            loader = prepared(manifest)
            consume.check(loader)
            return two_epochs(loader)

        return case

    def unchecked(prepared: Callable[[Manifest], Any]) -> Case:
        return lambda manifest: two_epochs(prepared(manifest))

    cases: dict[str, Case] = {
        "beside": beside,
        "resumed": resumed,
        "skipped": skipped,
        "skipped twice": skipped_twice,
        "stateful": stateful,
    }
    loaders: dict[str, Callable[[Manifest], Any]] = {
        "sampler": lambda manifest: accelerator().prepare(sampled(manifest)),
        "sampler, workers": lambda manifest: accelerator().prepare(sampled(manifest, num_workers=2)),
        "sampler, uneven": lambda manifest: accelerator(even_batches=False).prepare(sampled(manifest)),
        "sampler, dropped": lambda manifest: accelerator().prepare(sampled(manifest, last="drop")),
        "sampler, split": lambda manifest: accelerator(split_batches=True).prepare(sampled(manifest)),
        "sampler, dispatched": lambda manifest: accelerator(dispatch_batches=True).prepare(sampled(manifest)),
        "sampler, alone": lambda manifest: accelerator().prepare(sampled(manifest, rank=0, world_size=1)),
        "dataset": lambda manifest: accelerator().prepare(DataLoader(dataset(manifest), batch_size=None)),
        "dataset, workers": lambda manifest: accelerator().prepare(
            DataLoader(dataset(manifest), batch_size=None, num_workers=2)
        ),
        "dataset, sharded": lambda manifest: accelerator(dispatch_batches=False).prepare(
            DataLoader(dataset(manifest), batch_size=None)
        ),
        "dataset, batched": lambda manifest: accelerator(dispatch_batches=False).prepare(
            DataLoader(dataset(manifest), batch_size=2)
        ),
    }
    for name, prepared in loaders.items():
        cases[name] = unchecked(prepared)
        cases[f"{name}, checked"] = checked(prepared)
    return cases


# transformers


class Seen(torch.nn.Module):
    """A model that notes the positions that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.steps: list[list[int]] = []

    def forward(self, position: torch.Tensor) -> dict[str, torch.Tensor]:
        self.steps.append(position.tolist())
        return {"loss": self.weight * 1.0}

    def epochs(self, number: int) -> Epochs:
        steps = len(self.steps) // number
        given = [self.steps[first : first + steps] for first in range(0, len(self.steps), steps)]
        return [[at for step in epoch for at in step if at != PADDING] for epoch in given]


def as_inputs(batch: Any) -> dict[str, torch.Tensor]:
    return {"position": batch["position"] if isinstance(batch, dict) else torch.tensor(batch)}


def transformers_cases() -> dict[str, Case]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    folder = str(Path(sys.argv[2]) / "trainer")

    def trained(kind: type[Trainer], data: Any, **options: Any) -> Epochs:
        model = Seen()
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=True, report_to=[], num_train_epochs=2, per_device_train_batch_size=2,
            disable_tqdm=True, logging_strategy="no", remove_unused_columns=False, dataloader_pin_memory=False,
            save_strategy="no", **options,
        )  # fmt: skip
        kind(model=model, args=arguments, train_dataset=data, data_collator=as_inputs).train()
        return model.epochs(2)

    class Own(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            data: Any = self.train_dataset
            loader: DataLoader[Any] = DataLoader(data, batch_size=None, collate_fn=self.data_collator, num_workers=2)
            consume.check(loader)
            return loader

    class Prepared(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            sampler = ManifestBatchSampler(Manifest.open(sys.argv[1]), global_batch_size=SIZE, last="wrap")
            data: Any = self.train_dataset
            loader: DataLoader[Any] = DataLoader(data, batch_sampler=sampler, collate_fn=self.data_collator)
            return self.accelerator.prepare(loader)

    def resumed(manifest: Manifest) -> Epochs:
        data = dataset(manifest)
        data.load_state_dict({"manifest": manifest.digest, "position": 40})
        return trained(Own, data)

    class Loading(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
            data = train_dataloader.dataset
            data.load_state_dict({"manifest": data.manifest.digest, "position": state.global_step * SIZE})

    def from_checkpoint(data: Callable[[], Any], *callbacks: TrainerCallback, **options: Any) -> Epochs:
        """What is trained on in two steps after five."""
        for num_steps, checkpoint in ((5, None), (7, f"{folder}/checkpoint-5")):
            model = Seen()
            arguments = TrainingArguments(
                output_dir=folder, use_cpu=True, report_to=[], save_steps=5, max_steps=num_steps, disable_tqdm=True,
                remove_unused_columns=False, dataloader_pin_memory=False, **(options if checkpoint else {}),
            )  # fmt: skip
            trainer = Own(
                model=model, args=arguments, train_dataset=data(), data_collator=as_inputs,
                callbacks=list(callbacks if checkpoint else ()),
            )  # fmt: skip
            trainer.train(resume_from_checkpoint=checkpoint)
        return model.epochs(1)

    def as_it_is(manifest: Manifest) -> Epochs:
        arguments = TrainingArguments(output_dir=folder, use_cpu=True, report_to=[])
        data = Positions(len(manifest))
        trainer = Trainer(model=Seen(), args=arguments, train_dataset=data, data_collator=as_inputs)
        consume.check(trainer.get_train_dataloader())
        return []

    return {
        "dataset": lambda manifest: trained(Trainer, dataset(manifest)),
        "dataset, own loader": lambda manifest: trained(Own, dataset(manifest)),
        "dataset, own loader, resumed": resumed,
        "dataset, from a checkpoint": lambda manifest: from_checkpoint(lambda: dataset(manifest)),
        "dataset, from a checkpoint, loaded": lambda manifest: from_checkpoint(
            lambda: dataset(manifest), Loading(), ignore_data_skip=True
        ),
        "dataset, from a checkpoint, not loaded": lambda manifest: from_checkpoint(
            lambda: dataset(manifest), ignore_data_skip=True
        ),
        "sampler, prepared": lambda manifest: trained(Prepared, Positions(len(manifest))),
        "neither, checked": as_it_is,
    }


# Lightning


def pytorch_lightning_cases() -> dict[str, Case]:
    pytorch_lightning: Any = importlib.import_module("pytorch_lightning")

    class Training(pytorch_lightning.LightningModule):
        def __init__(self, make: Callable[[], Any]) -> None:
            super().__init__()
            self.model, self.make = Seen(), make

        def train_dataloader(self) -> Any:
            return self.make()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.model(**as_inputs(batch))["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def trained(make: Callable[[], Any], **options: Any) -> Epochs:
        training = Training(make)
        pytorch_lightning.Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, **options,
        ).fit(training)  # fmt: skip
        return training.model.epochs(2)

    def before(manifest: Manifest) -> Epochs:
        loader: DataLoader[Any] = DataLoader(dataset(manifest), batch_size=None)
        return trained(lambda: loader)

    return {
        "dataset, made before": before,
        "dataset": lambda manifest: trained(lambda: DataLoader(dataset(manifest), batch_size=None)),
        "dataset, workers": lambda manifest: trained(
            lambda: DataLoader(dataset(manifest), batch_size=None, num_workers=2)
        ),
        "sampler": lambda manifest: trained(lambda: sampled(manifest)),
        "sampler, not injected": lambda manifest: trained(lambda: sampled(manifest), use_distributed_sampler=False),
    }


# torchdata


def torchdata_cases() -> dict[str, Case]:
    stateful_loader: Any = importlib.import_module("torchdata.stateful_dataloader").StatefulDataLoader

    def of_dataset(num_workers: int) -> Callable[[Manifest], Any]:
        return lambda manifest: stateful_loader(dataset(manifest), batch_size=None, num_workers=num_workers)

    def of_sampler(num_workers: int) -> Callable[[Manifest], Any]:
        def make(manifest: Manifest) -> Any:
            sampler = ManifestBatchSampler(manifest, global_batch_size=SIZE, last="wrap")
            return stateful_loader(Positions(len(manifest)), batch_sampler=sampler, num_workers=num_workers)

        return make

    def stopped(make: Callable[[Manifest], Any], after: int) -> Case:
        def case(manifest: Manifest) -> Epochs:
            loader, before = make(manifest), list[Any]()
            for batch in loader:
                before.append(batch)
                if len(before) == after:
                    break
            again = make(manifest)
            again.load_state_dict(loader.state_dict())
            return [positions(before) + positions(again), positions(again)]

        return case

    return {
        f"{kind}, {num_workers} workers, after {after}": stopped(make(num_workers), after)
        for kind, make in (("dataset", of_dataset), ("sampler", of_sampler))
        for num_workers in (0, 2)
        for after in (1, 5)
    }


# torch alone


def torch_cases() -> dict[str, Case]:
    def checked(**options: Any) -> Case:
        def case(manifest: Manifest) -> Epochs:
            loader: DataLoader[Any] = DataLoader(dataset(manifest, **options), batch_size=None)
            consume.check(loader)
            return two_epochs(loader)

        return case

    def one_is_refused(manifest: Manifest) -> Epochs:
        size = None if torch.distributed.get_rank() else 2
        consume.check(DataLoader(dataset(manifest), batch_size=size))
        return []

    def one_is_elsewhere(manifest: Manifest) -> Epochs:
        data = dataset(manifest)
        if torch.distributed.get_rank():
            data.load_state_dict({"manifest": manifest.digest, "position": 8})
        consume.check(DataLoader(data, batch_size=None))
        return []

    return {
        "checked": checked(),
        "twins": checked(rank=0, world_size=1),
        "one share twice": checked(rank=0, world_size=2),
        "one is refused": one_is_refused,
        "one is elsewhere": one_is_elsewhere,
    }


def gave(case: Case, manifest: Manifest) -> dict[str, Any]:
    end_feeders()
    try:
        return {"epochs": case(manifest)}
    except Exception as error:  # which one is what the test looks at
        return {"error": f"{type(error).__name__}: {error}", "is_ours": isinstance(error, SelectorError)}


def train(library: str, uri: str, out: Path) -> None:
    """What one process of a training does."""
    manifest = Manifest.open(uri)
    if library == "pytorch_lightning":  # makes the process group itself
        before = gave(pytorch_lightning_cases()["dataset, made before"], manifest)
        torch.distributed.init_process_group("gloo")
        answers = {name: gave(case, manifest) for name, case in pytorch_lightning_cases().items()}
        answers["dataset, made before"] = before
    else:
        torch.distributed.init_process_group("gloo")
        cases: dict[str, Case] = globals()[f"{library}_cases"]()
        answers = {name: gave(case, manifest) for name, case in cases.items()}
    out.write_text(json.dumps(answers), "utf-8")
    torch.distributed.destroy_process_group()


def forked(rank: int, port: int, library: str, uri: str, folder: Path) -> int:
    """A process of a training of two, which writes to a log of its own."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        log = os.open(folder / f"{library}-{rank}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        train(library, uri, folder / f"{library}-{rank}.json")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    warnings.simplefilter("ignore")
    uri, folder, *libraries = sys.argv[1:]
    for name in ("torchdata.stateful_dataloader", "accelerate", "transformers.trainer", "pytorch_lightning"):
        if name.partition(".")[0] in libraries:
            importlib.import_module(name)
    gc.freeze()  # what was imported stays, and is not to be looked through
    for library in libraries:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [forked(rank, port, library, uri, Path(folder)) for rank in range(2)]
        codes = [os.waitpid(process, 0)[1] for process in processes]
        if any(codes):
            sys.exit(f"{library}: the processes ended with {codes}")


if __name__ == "__main__":
    main()
