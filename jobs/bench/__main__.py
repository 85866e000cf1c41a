"""The command line of the measurements: `python -m jobs.bench WHAT --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from jobs.bench.simulate import WHERE, Simulation, simulate
from selector.errors import SelectorError
from selector.policy.values import Amount


def main(arguments: Sequence[str] | None = None) -> int:
    """Does the measurement, and returns the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.benchmark == "embed":
            from jobs.bench.embed import embed

            embed(chosen.documents, chosen.rounds)
        elif chosen.benchmark == "cluster":
            from jobs.bench.cluster import cluster

            cluster(chosen.documents, chosen.clusters, chosen.seeds, chosen.vectors)
        elif chosen.benchmark == "ingest":
            from jobs.bench.ingest import ingest

            ingest(chosen.paths, chosen.executor, chosen.rounds)
        elif chosen.benchmark == "consume":
            from jobs.bench.consume import consume

            consume(chosen.paths, chosen.documents, chosen.rounds)
        elif chosen.benchmark == "parts":
            from jobs.bench.parts import parts

            parts(chosen.files, chosen.rounds, chosen.executor, chosen.root)
        elif chosen.benchmark == "gpu":
            from jobs.bench.gpu import gpu

            gpu(chosen.models, chosen.documents, chosen.vectors, chosen.clusters, chosen.device)
        elif chosen.benchmark == "nodes":
            from jobs.bench.nodes import nodes_lost

            nodes_lost()
        elif chosen.benchmark == "stores":
            from jobs.bench.stores import stores

            stores(chosen.root, chosen.races, chosen.drivers, chosen.raters)
        elif chosen.benchmark == "tune":
            from jobs.bench.tune import tune

            only = dict(pair.split("=", 1) for pair in chosen.only)
            tune(
                chosen.paths, root=chosen.root, sources=chosen.source, only=only, objective=chosen.objective,
                is_long=chosen.long,
            )  # fmt: skip
        elif chosen.benchmark == "models":
            from jobs.bench.models import models

            models(chosen.documents, chosen.rounds, chosen.layers, chosen.width)
        elif chosen.benchmark == "raters":
            from jobs.bench.raters import raters

            raters(chosen.data, chosen.raters, chosen.speed)
        elif chosen.benchmark == "selectors":
            from jobs.bench.selectors import selectors

            corpus = {"paths": chosen.paths, "text": chosen.text, "source": chosen.source}
            selectors(corpus, chosen.score, chosen.shares, chosen.seeds, chosen.root, chosen.topic)
        else:
            wanted = Simulation(
                num_documents=chosen.documents,
                num_files=chosen.files,
                num_parts=chosen.parts,
                num_clusters=chosen.clusters,
                select=chosen.select,
                order=chosen.order,
                where=chosen.where or None,
                budget=chosen.budget,
                limits=chosen.limits,
                missing=chosen.missing,
                executor=chosen.executor,
                num_workers=chosen.workers,
                seed=chosen.seed,
            )
            simulate(wanted, above=chosen.root, keep=chosen.keep, check=chosen.check, again=chosen.again)
    except SelectorError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description="Measures.")
    measures = parser.add_subparsers(dest="benchmark", required=True)

    embed = measures.add_parser("embed", help="the embed step beside a bare SentenceTransformer.encode")
    embed.add_argument("--documents", type=int, default=512)
    embed.add_argument("--rounds", type=int, default=5)

    cluster = measures.add_parser("cluster", help="centroids beside those of FAISS on all points")
    cluster.add_argument("--documents", type=_amount, default=100_000)
    cluster.add_argument("--clusters", type=_amount, default=256)
    cluster.add_argument("--seeds", type=int, default=5)
    cluster.add_argument("--vectors", metavar="FILE.npy", help="real vectors, a row each; by default they are drawn")

    ingest = measures.add_parser("ingest", help="survey and ingest of JSON lines beside json and encode_batch")
    ingest.add_argument("paths", metavar="PATH", nargs="+")
    ingest.add_argument("--executor", default="ray")
    ingest.add_argument("--rounds", type=int, default=3)

    parts = measures.add_parser("parts", help="what a part costs, step by step, and small files beside one file")
    parts.add_argument("--files", type=_amount, default=600, help="of one document each")
    parts.add_argument("--rounds", type=int, default=3)
    parts.add_argument("--executor", default="local")
    parts.add_argument("--root", help="a folder below which all is written; by default that of temporary files")

    consume = measures.add_parser("consume", help="what a trainer is given a second, beside Hugging Face datasets")
    consume.add_argument("paths", metavar="PATH", nargs="+")
    consume.add_argument("--documents", type=_amount, default=17_850)
    consume.add_argument("--rounds", type=int, default=5)

    gpu = measures.add_parser("gpu", help="embedding, assignment and k-means on a graphics card, beside the CPU")
    gpu.add_argument("--models", metavar="MODEL", nargs="+", default=["all-MiniLM-L6-v2"])
    gpu.add_argument("--documents", type=_amount, default=20_000)
    gpu.add_argument("--vectors", type=_amount, default=1_000_000)
    gpu.add_argument("--clusters", type=_amount, default=1024)
    gpu.add_argument("--device", choices=("cpu", "cuda"), help="cpu rehearses it; by default the card, if there is one")

    measures.add_parser("nodes", help="how long a run takes to get over a worker, a machine, a head that is lost")

    stores = measures.add_parser("stores", help="races for a root on a storage of objects, and what a run costs there")
    stores.add_argument("--root", help="an address, e.g. s3://bucket/bench; by default an S3 in memory")
    stores.add_argument("--races", type=int, default=200)
    stores.add_argument("--drivers", type=int, default=16)
    stores.add_argument("--raters", nargs="+", default=["readability", "word_length"])

    tune = measures.add_parser("tune", help="nine policies of a corpus, compared by small models trained on each")
    tune.add_argument("paths", metavar="PATH", nargs="+")
    tune.add_argument(
        "--source", action="append", default=[], help="a column that says a document's domain; without one, its file"
    )
    tune.add_argument(
        "--only", action="append", default=[], metavar="COLUMN=VALUE", help="leave out rows that have another value"
    )
    tune.add_argument("--objective", choices=("proxy", "probe"), default="proxy")
    tune.add_argument("--long", action="store_true", help="eight times the text: an hour or two")
    tune.add_argument("--root", default="runs", help="a folder for what is made, which a second measurement finds")

    models = measures.add_parser("models", help="raters with a model beside its bare forward pass")
    models.add_argument("--documents", type=int, default=128)
    models.add_argument("--rounds", type=int, default=5)
    models.add_argument("--layers", type=int, default=8)
    models.add_argument("--width", type=int, default=512)

    raters = measures.add_parser("raters", help="documents a second of raters, and agreement with what people said")
    raters.add_argument("raters", metavar="RATER", nargs="*", help="by default all that read texts alone")
    raters.add_argument("--data", type=Path, default=Path("data"), help="the folder of the labelled sets")
    raters.add_argument("--speed", action="store_true", help="only how many documents a second")

    selectors = measures.add_parser("selectors", help="what selectors choose of a corpus, beside the random control")
    selectors.add_argument("paths", metavar="PATH", nargs="+")
    selectors.add_argument("--source", help="the column whose diversity counts")
    selectors.add_argument("--topic", help="another column, whose different values are counted")
    selectors.add_argument("--text", default="text", help="a column or a template, as in a policy")
    selectors.add_argument("--score", default="prototypicality", help="the rater whose score selectors go by")
    selectors.add_argument(
        "--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1], help="budgets, of the documents"
    )
    selectors.add_argument("--seeds", type=int, default=5)
    selectors.add_argument("--root", default="runs", help="a folder for what is made, which a second measurement finds")

    simulate = measures.add_parser("simulate", help="select, order and commit over a drawn corpus of N documents")
    simulate.add_argument("documents", metavar="N", type=_amount, help="100k, 1M, 100M")
    simulate.add_argument("--files", type=_amount, help="of the corpus; by default one a million documents")
    simulate.add_argument("--parts", type=_amount, help="about so many; by default as the survey cuts the files")
    simulate.add_argument("--clusters", type=_amount, default=1024)
    simulate.add_argument("--select", type=_plugin, default="kmeans_quality", help="NAME or '{NAME: {option: value}}'")
    simulate.add_argument("--order", type=_plugin, default="by_score", help="NAME or '{NAME: {option: value}}'")
    simulate.add_argument("--where", default=WHERE, help=f"a rule, '' for none; by default {WHERE}")
    simulate.add_argument(
        "--budget", type=_budget, default={"fraction": 0.1}, help="fraction=0.1 (the default), tokens=5M,overshoot=fill"
    )
    simulate.add_argument(
        "--limits", type=_limits, default={}, help="as a policy has them: '{visits: {most: 2}, exclude: [runs/2f1c]}'"
    )
    simulate.add_argument("--missing", choices=("drop", "last", "impute"), default="drop")
    simulate.add_argument("--executor", default="local")
    simulate.add_argument("--workers", type=_amount, help="by default as many as the executor would have")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--root", help="a folder below which all is written; by default that of temporary files")
    simulate.add_argument("--keep", action="store_true", help="leave what was written")
    simulate.add_argument("--check", action="store_true", help="compare with a reference in NumPy, which holds it all")
    simulate.add_argument("--again", action="store_true", help="run again with one thing changed at a time")
    return parser


def _amount(text: str) -> int:
    try:
        return pydantic.TypeAdapter(Amount).validate_python(text)
    except pydantic.ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number of 1 or more, e.g. 100k or 1M") from error


def _plugin(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str) or (isinstance(value, dict) and len(value) == 1):
        return value
    raise argparse.ArgumentTypeError(
        f"{text!r}: write a name, or one name with its options: '{{top: {{score: quality}}}}'"
    )


def _limits(text: str) -> dict[str, Any]:
    value = yaml.safe_load(text)
    if isinstance(value, dict) and value.keys() <= {"shares", "visits", "include", "exclude"}:
        return value
    raise argparse.ArgumentTypeError(f"{text!r}: write shares, visits, include or exclude, as a policy has them")


def _budget(text: str) -> dict[str, Any]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    return {key: yaml.safe_load(value) for key, _, value in pairs}


if __name__ == "__main__":
    sys.exit(main())
