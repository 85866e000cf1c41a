"""What a policy says of every choice: shares, visits, what is included and what is not chosen again."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from runs import policy_of, run, write_corpus
from selector import failpoint
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError, SelectorError
from selector.manifest import Manifest
from selector.manifest.describe import undone
from selector.pipeline import build
from selector.policy import Policy
from selector.steps import listed, regroup, shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("constraints")
    (folder / "corpus").mkdir()
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def make(place: Path, tiny_model: Path) -> Any:
    """Makes the manifest of a `select` section, in shards and buckets of so many documents."""

    def do(rows: int = 1 << 20, using: Any = "random", workers: int = 1, root: str = "root", **select: Any) -> Manifest:
        select = {"budget": {"documents": 30}, "using": using, **select}
        order = {"using": "shuffled"}
        policy = policy_of(place / "corpus", tiny_model, select=select, order=order, rate=["readability"], manifest={})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(shards, "SHARD_ROWS", rows)
            patched.setattr(regroup, "BUCKET_ROWS", rows)
            patched.setattr(listed, "ITEM_ROWS", rows)
            patched.setattr(listed, "BUCKET_ROWS", rows)
            executor = LocalExecutor(workers=workers)
            return build(Policy.of(policy), root=str(place / f"{root}-{rows}"), executor=executor).manifest

    return do


def sources_of(manifest: Manifest) -> Counter[str]:
    return Counter(manifest.rows(0, len(manifest))["source"].to_pylist())


def ids_of(manifest: Manifest) -> list[bytes]:
    return manifest.rows(0, len(manifest))["doc_id"].to_pylist()


def alike(one: Manifest, other: Manifest) -> bool:
    return all(one.info[name] == other.info[name] for name in ("order_digest", "facts", "counts"))


BOUNDS = {"source": {"web": {"most": 0.2}, "books": {"least": 0.6}}}
USING: list[Any] = [
    "random",
    {"repeats": {"score": "readability", "decay": 0.9, "visits": 5}},
    {"diverse": {"score": "readability", "most": 0.99}},
]


@pytest.mark.parametrize("using", USING, ids=json.dumps)
def test_shares_hold_for_every_selector_whatever_the_shards(using: Any, make: Any) -> None:
    manifest = make(25, using, shares=BOUNDS, visits={"most": 2})
    assert manifest.verify().ok and alike(manifest, make(1 << 20, using, shares=BOUNDS, visits={"most": 2}))
    sources = sources_of(manifest)
    assert sources["web"] <= 6 and sources["books"] >= 18
    assert max(Counter(ids_of(manifest)).values()) <= 2
    facts = manifest.info["facts"]["select"]
    assert facts["limits"]["shares"]["groups"]["web"]["spent"] == sources["web"]
    assert len(manifest) == 30 or facts["shortfall"]["spent"] == len(manifest)


def test_where_no_bound_binds_the_same_documents_are_chosen(make: Any) -> None:
    free = make()
    bound = make(shares={"source": {"web": {"least": 0.1, "most": 0.9}}}, visits={"most": 3})
    assert ids_of(bound) == ids_of(free)
    assert bound.info["facts"]["select"]["limits"]["shares"]["groups"]["web"]["held"] is None


def test_a_floor_in_tokens_is_met_and_the_others_get_what_it_really_left(make: Any) -> None:
    manifest = make(budget={"tokens": 400}, shares={"source": {"code": {"least": 0.5}}})
    rows = manifest.rows(0, len(manifest))
    code = sum(row["num_tokens"] for row in rows.to_pylist() if row["source"] == "code")
    assert code >= 200 and sum(rows["num_tokens"].to_pylist()) <= 400


def test_a_reason_says_which_bound_held_a_group(make: Any) -> None:
    manifest = make(shares=BOUNDS)
    web = next(row for row in manifest.rows(0, 30).to_pylist() if row["source"] == "web")
    assert web["reason"].startswith("source web (at most 6 documents): drawn: 6 of ")
    assert manifest.explain(web["doc_id"])["inclusion_probability"] < 0.25


def test_a_floor_that_cannot_be_met_is_said(make: Any) -> None:
    manifest = make(shares={"source": {"books": {"least": 1.0}, "law": {"most": 0.1}}}, budget={"documents": 60})
    lines = list(undone(manifest.header))
    assert any(line.startswith("shares: source books has") and "of at least 60 documents" in line for line in lines)


def test_names_that_no_document_has_are_said_with_the_nearest_that_there_are(make: Any) -> None:
    mixture = {"mixture": {"weights": {"web": 1.0, "boks": 1.0}, "rises": {"nowhere": 1.0}}}
    shares = {"source": {"coed": {"least": 0.1}, "lw": {"most": 0.5}, "web": {"most": 0.9}}}
    manifest = make(25, mixture, shares=shares)
    assert alike(manifest, make(1 << 20, mixture, shares=shares))
    everything = list(undone(manifest.header))
    assert not any(line.startswith("shares:") for line in everything), "one line says of a name that it is nowhere"
    lines = [line for line in everything if "no document that may be chosen" in line]
    assert lines == [
        "select.shares: no document that may be chosen has the source coed, lw. Did you mean 'code' for 'coed'?",
        "mixture.weights: no document that may be chosen has the source boks. Did you mean 'books'?",
        "mixture.rises: no document that may be chosen has the source nowhere. There is: books, code, web",
    ]
    assert "absent" not in make(using={"mixture": {"weights": {"web": 1.0}}}).info["facts"]["select"]


def test_included_documents_are_chosen_first_and_paid_for(make: Any, place: Path) -> None:
    wanted = ids_of(make())[:4]
    path = write_jsonl(place / "must.jsonl", [{"doc_id": doc_id.hex()} for doc_id in wanted])
    for rows in (25, 1 << 20):
        manifest = make(rows, {"top": {"score": "readability"}}, include=str(path))
        assert len(manifest) == 30 and set(wanted) <= set(ids_of(manifest))
        explained = manifest.explain(wanted[0])
        assert (explained["reason"], explained["inclusion_probability"]) == ("included by the policy", 1.0)
        assert manifest.info["facts"]["select"]["limits"]["included"] == {"listed": 4, "documents": 4, "spent": 4}
    with pytest.raises(SelectorError, match=r"select.include: its documents cost 4 documents, and the budget is 3"):
        make(include=str(path), budget={"documents": 3})


def test_included_documents_that_may_not_be_chosen_are_counted(make: Any, place: Path) -> None:
    wanted = ids_of(make())[:2]
    listed_ids = [{"doc_id": doc_id.hex()} for doc_id in wanted] + [{"doc_id": "00" * 16}]
    manifest = make(include=str(write_jsonl(place / "some.jsonl", listed_ids)), where="source <> 'nowhere'")
    assert any("include: 1 of 3 documents" in line for line in undone(manifest.header))


def test_what_other_manifests_have_is_not_chosen_again(make: Any, place: Path) -> None:
    first = make()
    homes = [str(path.parent.parent) for path in (place / "root-1048576").glob("*/manifest/manifest.json")]
    home = next(path for path in homes if Manifest.open(path).digest == first.digest)
    second, small = make(exclude=[home]), make(25, exclude=[home])
    assert not set(ids_of(first)) & set(ids_of(second)) and alike(second, small) and len(second) == 30
    assert second.info["counts"]["marked"] == 30 and second.verify().ok
    explained = second.explain(ids_of(first)[0])
    assert (explained["outcome"], explained["reason"]) == ("marked", f"excluded: it is in the manifest {home}")
    with pytest.raises(PolicyError, match=r"select.exclude.0: There is no manifest at"):
        make(exclude=[str(place / "nowhere")])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"shares": {"source": {"web": {"most": 0.5}}, "cluster": {"1": {"most": 0.1}}}}, "the shares of one column"),
    ({"shares": {"source": {"web": {"least": 0.5, "most": 0.4}}}}, "least 0.5 is above most 0.4"),
    ({"shares": {"source": {"web": {"least": 0.7}, "code": {"least": 0.4}}}}, "the least shares come to 1.1"),
    ({"shares": {"source": {"web": {}}}}, "write least, most or both"),
    ({"shares": {"readability": {"1": {"most": 0.5}}}}, "'readability' has no groups"),
    ({"shares": {"num_tokens": {"1": {"most": 0.5}}}}, "'num_tokens' has no groups"),
    ({"shares": {"sauce": {"1": {"most": 0.5}}}}, "Did you mean 'source'?"),
    ({"visits": {"most": 0}}, "select.visits.most"),
    ({"include": "nowhere.jsonl"}, "select.include.0: the table 'nowhere.jsonl' cannot be read"),
]


@pytest.mark.parametrize(("select", "message"), BAD)
def test_limits_that_make_no_sense_are_refused_in_words(select: dict[str, Any], message: str, make: Any) -> None:
    with pytest.raises(PolicyError, match=message.replace("?", r"\?")):
        make(**select)


def test_a_choice_within_limits_that_is_stopped_again_and_again_ends_the_same(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every second write of listed, select, order and manifest; also with two workers."""
    limits: dict[str, Any] = {"using": USING[1], "shares": BOUNDS, "visits": {"most": 2}}
    expected = make(25, **limits)
    make(26, root="stopped")
    monkeypatch.setenv("SELECTOR_FAILPOINT", "store.after_seal:raise:2")
    for stops in range(100):
        monkeypatch.setattr(failpoint, "_reached", {})
        try:
            stopped = make(26, root="stopped", **limits)
        except (RuntimeError, SelectorError):
            continue
        assert alike(stopped, expected) and stops > 3
        break
    else:
        raise AssertionError("it makes no progress")
    monkeypatch.delenv("SELECTOR_FAILPOINT")
    assert alike(make(24, root="workers", workers=2, **limits), expected)


def test_limits_that_are_not_written_move_no_digest(place: Path, tiny_model: Path, tmp_path: Path) -> None:
    policy = policy_of(place / "corpus", tiny_model)
    spelt = {**policy, "select": {**policy["select"], "shares": {}, "visits": None, "include": [], "exclude": []}}
    first, second = run(policy, tmp_path), run(spelt, tmp_path)
    assert first.manifest.digest == second.manifest.digest and "shares" not in first.manifest.info["policy"]["select"]


def test_every_limit_holds_in_rounds_that_wait_and_whatever_the_shards(
    make: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run is stopped again and again."""
    free, _ = make(), make(25)
    home = next(
        str(path.parent.parent)
        for path in (place / "root-1048576").glob("*/manifest/manifest.json")
        if Manifest.open(str(path.parent.parent)).digest == free.digest
    )
    wanted = ids_of(make(using={"top": {"score": "readability"}}, exclude=[home]))[:3]
    must = write_jsonl(place / "rounds.jsonl", [{"doc_id": doc_id.hex()} for doc_id in wanted])
    path, rows = place / "later.jsonl", list[dict[str, Any]]()
    using = {"iterative": {"inner": "random", "rounds": 2, "feedback": str(path), "mode": "softmax"}}
    limits: dict[str, Any] = {
        "using": using, "shares": BOUNDS, "visits": {"most": 1}, "include": str(must), "exclude": [home],
    }  # fmt: skip
    before: list[bytes] = []
    for number in (1, 2):
        manifest = make(**limits)
        ids, sources = ids_of(manifest), sources_of(manifest)
        assert manifest.verify().ok and len(ids) == [17, 30][number - 1]
        assert ids[: len(before)] == before and set(wanted) <= set(ids) and not set(ids) & set(ids_of(free))
        assert sources["web"] <= 0.2 * len(ids) and sources["books"] >= 0.6 * len(ids)
        facts = manifest.info["facts"]["select"]
        assert ("waiting" in facts) == (number < 2)
        assert not any(line.startswith("shares:") for line in undone(manifest.header)), "later rounds may meet them"
        new = sorted(set(ids) - set(before) - set(wanted))
        rows += [{"doc_id": doc_id.hex(), "round": number, "score": float(i)} for i, doc_id in enumerate(new)]
        write_jsonl(path, rows)
        before = ids
    assert facts["limits"]["shares"]["groups"]["books"]["spent"] == sources["books"]
    write_jsonl(path, rows[:14])
    monkeypatch.setenv("SELECTOR_FAILPOINT", "store.after_seal:raise:9")
    for _ in range(100):
        monkeypatch.setattr(failpoint, "_reached", {})
        try:
            stopped = make(25, **limits)
        except (RuntimeError, SelectorError):
            continue
        assert alike(stopped, manifest)
        break
    else:
        raise AssertionError("it makes no progress")
