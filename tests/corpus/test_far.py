"""A corpus in a storage of objects is the same corpus: the same files are read, and the same documents come of them."""

import gzip
import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from conftest import MemoryStorage, write_jsonl
from hub import TOKEN, Hub, hub
from objects import Proxy, s3
from runs import corpus_rows, run, uncached, write_corpus
from selector import storage
from selector.consume import ManifestDataset
from selector.corpus import files, formats
from selector.engine import copies
from selector.engine.copies import Copies
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.step import Map
from selector.engine.store import Store
from selector.errors import CorpusError, SelectorError, UnreachableError
from selector.manifest import Manifest
from selector.storage import _patience, open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with s3() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: Proxy) -> Iterator[Proxy]:
    server.requests.clear()
    yield server
    server.fault = lambda *_: ""


@pytest.fixture
def without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is read where it lies."""
    monkeypatch.setenv(copies.SETTING, "0")


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with hub() as one:
        yield one


def mixed_corpus(folder: Path) -> Path:
    """Files of several kinds, in folders, some of which are not read."""
    folder.mkdir()
    write_corpus(folder)
    (folder / "deep/er").mkdir(parents=True)
    table = pa.Table.from_pylist(corpus_rows(200, 260))
    pq.write_table(table, folder / "deep/3.parquet", row_group_size=20)
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in corpus_rows(300, 340))
    (folder / "deep/er/4.jsonl.gz").write_bytes(gzip.compress(lines))
    with pa.OSFile(str(folder / "5 é.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(corpus_rows(400, 440)).cast(table.schema))
    for name in ("README.md", ".hidden.jsonl", "deep/notes.txt", "deep/er/.git"):
        (folder / name).write_text("{}")
    (folder / "saved").mkdir()
    with pa.OSFile(str(folder / "saved/data-0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(corpus_rows(500, 520)).cast(table.schema))
    (folder / "saved/cache-1.arrow").write_bytes((folder / "saved/data-0.arrow").read_bytes())
    (folder / "saved/dataset_info.json").write_text("{}")
    (folder / "saved/state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    return folder


def policy_over(*paths: str, **corpus: Any) -> dict[str, Any]:
    return {
        "corpus": {"paths": list(paths), "rows_per_part": 20, **corpus},
        "rate": ["readability"],
        "select": {"budget": {"fraction": 0.4}, "using": {"top": {"score": "readability"}}},
    }


def documents(manifest: Manifest) -> list[list[Any]]:
    names = ("position", "doc_id", "source", "row", "reason", "num_tokens")
    rows = manifest.rows(0, len(manifest))
    return [rows[name].to_pylist() for name in names]


def texts(manifest: Manifest) -> list[str]:
    loader = ManifestDataset(manifest, global_batch_size=4, rank=0, world_size=1)
    return [text for batch in loader for text in batch["text"]]


@pytest.mark.parametrize(
    "pattern",
    ["", "/", "/*.jsonl", "/**", "/**/*.gz", "/d*", "/deep", "/[0-1].jsonl", "/saved", "/*/*.txt", "/0.jsonl"],
)
def test_an_address_leads_to_what_the_same_path_leads_to(pattern: str, proxy: Proxy, tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "corpus")
    address = proxy.put(corpus, f"mixed/{tmp_path.name}")

    def told(base: str) -> list[tuple[str, str]]:
        listing = files.expand([f"{base}{pattern}"])
        pairs = [(file.uri, file.format) for file in listing.files] + [(one.uri, one.reason) for one in listing.unread]
        return [(uri.removeprefix(base).lstrip("/"), word) for uri, word in pairs]

    proxy.requests.clear()
    assert told(address) == told(str(corpus)) != []
    assert len(proxy.requests) <= 1 + ("state.json" in " ".join(proxy.requests))


def test_documents_are_the_same_wherever_a_corpus_lies_and_what_was_made_of_them_is_used_again(
    proxy: Proxy, tmp_path: Path
) -> None:
    corpus = mixed_corpus(tmp_path / "corpus")
    address = proxy.put(corpus, "same")
    near = run(policy_over(str(corpus)), tmp_path / "root")
    proxy.requests.clear()
    far = run(policy_over(address), tmp_path / "root")
    assert uncached(far) == ["survey", "manifest"], "what was made of the same files is not made again"
    assert len([one for one in proxy.requests if "list-type" in one]) == 1
    assert documents(far.manifest) == documents(near.manifest)
    columns = ["format", "num_rows", "size", "sha256", "unread"]
    assert far.manifest.files.select(columns) == near.manifest.files.select(columns)
    assert [uri.removeprefix(address) for uri in far.manifest.files["uri"].to_pylist()] == [
        uri.removeprefix(str(corpus)) for uri in near.manifest.files["uri"].to_pylist()
    ]
    assert texts(far.manifest) == texts(near.manifest)
    alone = run(policy_over(f"{address}/"), tmp_path / "other")
    assert alone.manifest.digest == far.manifest.digest and alone.manifest.verify().ok
    both = run(policy_over(f"{address}/**/*.jsonl", str(corpus / "deep")), tmp_path / "root")
    assert both.manifest.verify().ok


@pytest.mark.usefixtures("without_copies")
def test_without_room_for_copies_every_byte_is_read_where_it_lies(proxy: Proxy, tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "corpus")
    address = proxy.put(corpus, "uncopied")
    far = run(policy_over(address, keep_texts=False), tmp_path / "far")
    near = run(policy_over(str(corpus)), tmp_path / "near")
    assert documents(far.manifest) == documents(near.manifest) and texts(far.manifest) == texts(near.manifest)


def test_a_loader_that_was_forked_reads_what_lies_far_away(proxy: Proxy, tmp_path: Path) -> None:
    """The library's threads stay behind in the process from which it was forked."""
    address = proxy.put(write_corpus_in(tmp_path), "forked")
    made = run(policy_over(address), tmp_path / "root")
    wanted = texts(made.manifest)
    for where in (made.uri, proxy.put(Path(made.uri), "forked-root")):
        dataset = ManifestDataset(Manifest.open(where), global_batch_size=4, rank=0, world_size=1)
        loader: Any = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
        assert [text for batch in loader for text in batch["text"]] == wanted


def write_corpus_in(folder: Path) -> Path:
    (folder / "corpus").mkdir()
    return write_corpus(folder / "corpus")


# ---------------------------------------------------------------- changed, cut off, refused


@dataclass(frozen=True, kw_only=True)
class Replacing(LocalExecutor):
    """Puts other bytes in the place of an object, just before a step begins."""

    step: str
    proxy: Proxy
    folder: Path
    prefix: str

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Generator[Receipt]:
        if step.family == self.step:
            write_jsonl(self.folder / "2.jsonl", corpus_rows(200, 240))
            self.proxy.put(self.folder, self.prefix)
        yield from super().run(step, tasks, store, num_rows)


@pytest.mark.usefixtures("without_copies")
@pytest.mark.parametrize("step", ["survey", "ingest", "rate"])
def test_an_object_that_changes_during_a_run_ends_it_and_the_same_command_starts_over(
    step: str, proxy: Proxy, tmp_path: Path
) -> None:
    corpus = write_corpus_in(tmp_path)
    policy = policy_over(proxy.put(corpus, f"changed-{step}"), keep_texts=False)
    replacing = Replacing(step=step, proxy=proxy, folder=corpus, prefix=f"changed-{step}")
    with pytest.raises(
        CorpusError, match=r"2\.jsonl changed while the run was reading it\. Run the same command again"
    ):
        run(policy, tmp_path / "root", replacing)
    again = run(policy, tmp_path / "root")
    assert again.manifest.digest == run(policy, tmp_path / "elsewhere").manifest.digest


def test_a_trainer_whose_object_is_another_now_is_told_so(proxy: Proxy, tmp_path: Path) -> None:
    corpus = write_corpus_in(tmp_path)
    address = proxy.put(corpus, "another")
    manifest = run(policy_over(address), tmp_path / "root").manifest
    write_jsonl(corpus / "0.jsonl", corpus_rows(900, 930))
    proxy.put(corpus, "another")
    files.expand([address])
    with pytest.raises(
        CorpusError, match=r"s3://bucket/another/0\.jsonl is not what it was: it has [\d,]+ bytes and had"
    ):
        texts(manifest)


@pytest.mark.usefixtures("without_copies")
def test_only_the_columns_that_are_wanted_are_read(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    rows = corpus_rows(0, 4000)
    noise = [bytes([n % 251 for n in range(start, start + 2000)]) for start in range(4000)]
    table = pa.table({**{name: [row[name] for row in rows] for name in rows[0]}, "noise": noise})
    pq.write_table(table, tmp_path / "corpus/0.parquet", compression="none", use_dictionary=False, row_group_size=1000)
    size = (tmp_path / "corpus/0.parquet").stat().st_size
    address = proxy.put(tmp_path / "corpus", "columns")
    (file,) = files.expand([address]).files
    before, proxy.requests[:] = proxy.num_bytes, []
    form = formats.find(file.format, file.uri)
    form.peek(file.uri, ["text"], 1 << 20, 10)
    read = form.rows_at(file.uri, size, formats.Cache([file.uri]))
    assert [row["text"] for row in read(formats.Wanted(pa.array([5, 3999]).to_numpy()), ["text"])] == [
        rows[5]["text"], rows[3999]["text"],
    ]  # fmt: skip
    assert proxy.num_bytes - before < size // 5 and len(proxy.requests) < 20


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated", "lost"])
@pytest.mark.parametrize("setting", ["0", "1GB"])
def test_a_fault_at_every_other_request_changes_nothing(
    fault: str, setting: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(copies.SETTING, setting)
    monkeypatch.setattr(_patience, "PAUSES", (0.001, 0.001))
    prefix = f"faults-{fault}-{setting}"
    address = proxy.put(mixed_corpus(tmp_path / "corpus"), prefix)
    turn = iter(range(1 << 30))
    lock = threading.Lock()

    def every_other(*_: object) -> str:
        with lock:
            return fault if next(turn) % 2 == 0 else ""

    listing = files.expand([address])
    checksums = {
        Path(file.uri).name: formats.sha256_of(str(tmp_path / "corpus") + file.uri[len(address) :])
        for file in listing.files
    }
    proxy.fault = every_other
    assert files.expand([address]) == listing
    for file in listing.files:
        assert formats.sha256_of(file.uri) == checksums[Path(file.uri).name]
        form = formats.find(file.format, file.uri)
        assert form.cut(file.uri, None) and form.peek(file.uri, ["text"], 1 << 20, 5).rows


@pytest.mark.usefixtures("without_copies")
def test_a_listing_and_a_file_that_stall_are_asked_for_again(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = proxy.put(write_corpus_in(tmp_path), "stalled")
    monkeypatch.setattr(_patience, "TRY", 0.5)
    monkeypatch.setattr(proxy, "stall", 1.5)
    storage._kept_open.cache_clear()  # pyright: ignore[reportPrivateUsage] - its connections are as patient as before
    proxy.requests.clear()
    proxy.fault = lambda request, number: "stall" if request.startswith("GET") and not number else ""
    try:
        listing = files.expand([address])
        assert formats.opened_now(listing.uris[0]).read() == (tmp_path / "corpus/0.jsonl").read_bytes()
    finally:
        storage._kept_open.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_a_storage_that_does_not_answer_is_an_error_in_words(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = proxy.put(write_corpus_in(tmp_path), "silent")
    monkeypatch.setattr(_patience, "PAUSES", (0.001,))
    listing = files.expand([address])
    for fault in ("503", "reset"):
        proxy.fault = lambda *_, fault=fault: fault
        for use in (lambda: files.expand([address]), lambda: formats.sha256_of(listing.uris[0])):
            with pytest.raises(UnreachableError, match="does not answer as it should"):
                use()


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("s3://nobodys-bucket/web", 5, "does not let us in"),
        ("s3://nobodys-bucket/web.jsonl", 5, "does not let us in"),
        ("s3://bucket/nowhere", 2, "there is no object at 's3://bucket/nowhere'"),
        ("s3://bucket/nowhere.jsonl", 2, "there is no object at"),
        ("s3://bucket/errors/*.csv", 2, "there is no object at"),
        ("s3://bucket/errors/README.md", 2, "has an unknown format"),
        ("s3://bucket/errors/only", 2, "holds no file that is read (1 unknown ending, e.g. s3://bucket/errors/only/x.bin)"),
        ("ftp://bucket/web", 2, "There is no storage called 'ftp'"),
        ("s3://bucket/a?b", 2, "carries a query"),
        ("s3://bucket/a\nb", 2, "cannot be seen"),
        ("hf://datasets/owner/nobody", 5, "there is no such dataset"),
        ("hf://datasets/owner/name@nowhere/data", 2, "there is no revision 'nowhere'"),
        ("hf://datasets/owner/name/nowhere", 2, "there is no object at"),
        ("hf://owner/name", 2, "is not that of a dataset"),
    ],
)  # fmt: skip
def test_an_address_that_leads_to_nothing_is_said_with_its_reason(
    address: str, code: int, words: str, proxy: Proxy, served: Hub, tmp_path: Path
) -> None:
    for name, data in {"README.md": "x", "only/x.bin": "x", "0.jsonl": "{}"}.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(data)
    proxy.put(tmp_path / "corpus", "errors")
    served.push({"data/a.jsonl": b"{}\n"})
    with pytest.raises(SelectorError) as raised:
        files.expand([address])
    assert raised.value.exit_code == code and words in str(raised.value)


# ---------------------------------------------------------------- the hub


def contents(corpus: Path) -> Mapping[str, bytes]:
    return {path.relative_to(corpus).as_posix(): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def test_a_dataset_of_the_hub_is_read_at_the_commit_to_which_its_revision_leads(served: Hub, tmp_path: Path) -> None:
    corpus = mixed_corpus(tmp_path / "corpus")
    commit = served.push(contents(corpus))
    served.requests.clear()
    far = run(policy_over("hf://datasets/owner/name"), tmp_path / "root")
    near = run(policy_over(str(corpus)), tmp_path / "root")
    assert documents(far.manifest) == documents(near.manifest)
    assert {uri.partition("/name@")[2].split("/")[0] for uri in far.manifest.files["uri"].to_pylist()} == {commit}
    asked = [request for request in served.requests if "/resolve/" in request]
    assert asked and all(f"/resolve/{commit}/" in request for request in asked)
    texts_before = texts(near.manifest)
    write_jsonl(corpus / "0.jsonl", corpus_rows(700, 740))
    later = served.push(contents(corpus))
    moved = run(policy_over("hf://datasets/owner/name"), tmp_path / "root")
    assert moved.manifest.digest != far.manifest.digest and texts(far.manifest) == texts_before
    for revision, manifest in ((commit, far.manifest), (later, moved.manifest)):
        again = run(policy_over(f"hf://datasets/owner/name@{revision}"), tmp_path / "root").manifest
        assert again.info["order_digest"] == manifest.info["order_digest"]


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset"])
def test_a_hub_that_fails_now_and_then_changes_nothing(
    fault: str, served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_patience, "PAUSES", (0.001, 0.001))
    served.push({f"{name}.jsonl": name.encode() * 3000 for name in "abc"})
    turn = iter(range(1 << 30))
    served.fault = lambda _: fault if next(turn) % 2 == 0 else ""
    try:
        listing = files.expand(["hf://datasets/owner/name"])
        assert [formats.opened_now(uri).read() for uri in listing.uris] == [name.encode() * 3000 for name in "abc"]
    finally:
        served.fault = lambda _: ""


def test_a_dataset_that_is_gated_or_written_to_or_leads_elsewhere_is_refused(served: Hub) -> None:
    served.push({"a.jsonl": b"{}\n"})
    dataset = open_storage("hf://datasets/owner/name")
    verbs: Sequence[Callable[[], Any]] = (
        lambda: dataset.put_if_absent("a", b""), lambda: dataset.delete("a.jsonl"),
        lambda: dataset.compare_and_swap("a", b"", b""),
    )  # fmt: skip
    for verb in verbs:
        with pytest.raises(SelectorError, match="is only read"):
            verb()
    served.push({f"{number}.jsonl": b"{}\n" for number in range(12)})
    assert len(files.expand(["hf://datasets/owner/name"]).files) == 12, "page by page"
    served.next_at = "http://127.0.0.1:9"
    with pytest.raises(UnreachableError, match="is listed elsewhere than at http://127"):
        files.expand(["hf://datasets/owner/name"])
    served.next_at, served.is_gated = "", True
    try:
        with pytest.raises(UnreachableError, match="Agree on its page, and set HF_TOKEN"):
            files.expand(["hf://datasets/owner/name"])
    finally:
        served.is_gated = False


HUB_REFUSALS = {
    "401": "'401 Unauthorized'", "403": "403 Forbidden", "404": "'404 Not Found'", "offline": "HF_HUB_OFFLINE is set",
    "nobody": "Connection refused. Run the same command again, what is finished is kept; or check HF_ENDPOINT",
    "no address": "HF_ENDPOINT is 'hub', which is not the address of a host alone. Write https://host",
    "a password": "HF_ENDPOINT is 'http://...@127.0.0.1:9', which is not the address of a host alone",
}  # fmt: skip


@pytest.mark.parametrize("refusal", HUB_REFUSALS)
def test_a_hub_that_lets_nobody_in_is_said_at_once_with_the_cure_and_no_document_is_lost(
    refusal: str, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.push({"data/a.jsonl": b"".join(b'{"text": "document %d"}\n' % n for n in range(30))})
    policy, address = policy_over("hf://datasets/owner/name"), "hf://datasets/owner/name@main"
    with monkeypatch.context() as patch:
        patch.setattr(_patience, "PAUSES", (0.01,) if refusal == "nobody" else (60.0,))
        patch.setenv(copies.SETTING, "0")
        if refusal.isdigit():
            at = "/resolve/" if refusal == "401" else ""  # after it was listed, or from the beginning
            served.fault = lambda request: refusal if at in request else ""
            address = "hf://datasets/owner/name@" if at else address
        elif refusal == "offline":
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            patch.setattr("huggingface_hub.utils._http._GLOBAL_CLIENT", None)
        else:
            addresses = {"nobody": "http://127.0.0.1:9", "a password": "http://user:hunter2@127.0.0.1:9"}
            patch.setenv("HF_ENDPOINT", addresses.get(refusal, "hub"))
        try:
            with pytest.raises(SelectorError) as raised:
                run(policy, tmp_path / "root")
        finally:
            served.fault = lambda _: ""
    text = str(raised.value)
    assert HUB_REFUSALS[refusal] in text and (address in text or "HF_ENDPOINT is" in text)
    assert TOKEN not in text and "hunter2" not in text
    assert not (tmp_path / "root" / "attempts").exists()
    assert run(policy, tmp_path / "root").manifest.info["counts"]["quarantined"] == 0


# ---------------------------------------------------------------- copies


def test_copies_take_no_more_room_than_they_may_and_those_used_last_stay(tmp_path: Path) -> None:
    held = Copies(tmp_path, 1000)

    def keep(name: str, size: int) -> None:
        assert b"".join(held.kept(name, [bytes(size // 2), bytes(size - size // 2)])) == bytes(size)

    for number in range(5):
        keep(f"{number}", 300)
    assert [held.open(f"{number}") is not None for number in range(2)] == [False, False]
    file = held.open("2")
    assert file is not None
    keep("5", 400)
    with file:
        assert file.read() == bytes(300), "whoever has it open goes on reading"
    keep("6", 1001)
    assert held.open("6") is None, "what is larger than all of the room is no copy"

    def failing() -> Iterator[bytes]:
        yield b"half"
        raise UnreachableError("it is gone")

    with pytest.raises(UnreachableError):
        list(held.kept("7", failing()))
    assert held.open("7") is None and sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    gone = Copies(tmp_path / "nowhere", 1000)
    assert list(gone.kept("8", [b"a"])) == [b"a"] and gone.open("8") is None


def test_a_storage_of_somebody_elses_can_hold_a_corpus() -> None:
    slow = MemoryStorage()  # which has no more verbs than it must have
    slow.objects |= {"a/1.jsonl": b"one", "a/2.jsonl": b"two", "b": b""}
    entries = list(slow.entries("a/"))
    assert [(entry.key, entry.num_bytes) for entry in entries] == [("a/1.jsonl", 3), ("a/2.jsonl", 3)]
    assert slow.get_of(entries[0], 1, 5) == b"ne" and slow.fixed() is slow
