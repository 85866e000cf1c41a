"""A judge that is asked over a network: what it is asked, what becomes of its answers, and of its failures."""

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from command import selector
from conftest import MemoryStorage, write_jsonl
from judge_server import Server, judge_server
from rated import scores_of
from selector.errors import PolicyError, UnreachableError
from selector.models import judge
from selector.models.judge import Client, Failure, Limit, Question, check_address
from selector.rate.judge import first_share
from selector.testing import check_rater

TEXTS = ["No number.", "One 1.", "Two 22.", "", "Three 333."]


@pytest.fixture
def server() -> Generator[Server]:
    with judge_server() as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a client would have waited, one wait after the other; it does not."""
    seconds: list[float] = []
    monkeypatch.setattr(judge, "_sleep", seconds.append)
    return seconds


def question(number: int = 0, **more: Any) -> Question:
    return Question(model="m", user=f"<<<\n{number}\n>>> or <<<\nx\n>>>?", **more)


# ---------------------------------------------------------------- the client


def test_a_question_is_asked_as_the_protocol_wants_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "a secret")
    client = Client(address=f"{server.address}/", key_variable="MY_KEY")
    client.check()
    assert client.answers([question(num_answers=2, system="Be brief.", temperature=0.5)]) == [("A", "A")]
    assert server.keys == {"Bearer a secret"}
    (body,) = server.questions
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["model"], body["n"], body["temperature"], body["max_tokens"]) == ("m", 2, 0.5, 8)


def test_what_was_answered_is_asked_once_also_by_another_worker(server: Server) -> None:
    storage = MemoryStorage()
    first = Client(address=server.address, storage=storage).answers([question(1), question(2), question(1)])
    again = Client(address="http://127.0.0.1:9/v1", storage=storage).answers([question(2), question(1)])
    assert again == [first[1], first[0]]
    assert len(server.questions) == 2
    kept = [json.loads(data) for key, data in storage.objects.items() if key.startswith("judged/")]
    assert all("a secret" not in json.dumps(one) and one["answers"] == ["A"] for one in kept)
    for key in storage.objects:
        storage.objects[key] = b"torn"
    assert Client(address=server.address, storage=storage).answers([question(1)]) == [("A",)]


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "7"}, b"slow down"), (503, {}, b""), (500, {}, b"oh"), (200, {}, b"<html>"),
        (200, {}, b'{"choices": []}'), (200, {}, b'{"choices": [{"message": {"content": null}}]}'), (200, {}, b"[1]"),
    ],
)  # fmt: skip
def test_what_may_go_by_itself_is_tried_again(fault: Any, server: Server, waits: list[float]) -> None:
    server.faults = [fault, fault]
    assert Client(address=server.address, storage=MemoryStorage()).answers([question()]) == [("A",)]
    assert len(server.questions) == 3
    assert waits[0] == (7 if "Retry-After" in fault[1] else 0.5)


@pytest.mark.usefixtures("waits")
def test_what_fails_for_good_is_said_and_not_kept(server: Server) -> None:
    storage = MemoryStorage()
    client = Client(address=server.address, storage=storage, retries=1, parallel=1)
    server.faults = [(500, {}, b"oh"), (500, {}, b"no"), (400, {}, b'{"error": "too long"}')]
    assert client.answers([question(1), question(2), question(3)]) == [
        Failure(reason="500: no"), Failure(reason='the question is refused (400: {"error": "too long"})'), ("A",),
    ]  # fmt: skip
    assert len(server.questions) == 4
    assert client.answers([question(1), question(2)]) == [("A",), ("A",)]


@pytest.mark.parametrize(
    ("status", "problem"), [(401, "refuses the key"), (403, "refuses"), (404, "no such path or model")]
)
def test_a_server_that_will_never_answer_stops_the_run(status: int, problem: str, server: Server) -> None:
    server.faults = [(status, {}, b"no")] * 8
    with pytest.raises(UnreachableError, match=problem):
        Client(address=server.address).answers([question(n) for n in range(4)])


@pytest.mark.usefixtures("waits")
def test_a_server_that_is_not_there_or_answers_nothing_stops_the_run(server: Server) -> None:
    with pytest.raises(UnreachableError, match=r"does not answer: .*refused"):
        Client(address="http://127.0.0.1:9/v1", retries=1).check()
    server.faults = [(500, {}, b"oh")] * 16
    with pytest.raises(UnreachableError, match="answered none of 16 questions: 500: oh"):
        Client(address=server.address, retries=0).answers([question(n) for n in range(16)])


def test_all_workers_share_one_limit(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_clock", lambda: 1000.0)
    storage = MemoryStorage()
    clients = [Client(address=server.address, storage=storage, per_minute=30, parallel=1) for _ in range(2)]
    for n in range(4):
        clients[n % 2].answers([question(n)])
    assert waits == [2.0, 4.0, 6.0]
    waits.clear()
    server.faults = [(429, {"Retry-After": "30"}, b"")]
    clients[0].answers([question(9)])
    assert waits == [8.0, 30.0, 30.0], "its turn, what the server wants, and the turn after that"
    clients[1].answers([question(10)])
    assert waits[-1] == 32.0, "the others wait too"


def test_a_limit_that_a_fast_clock_wrote_is_not_waited_for_without_end(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    storage.objects["it"] = json.dumps({"next": 1e9}).encode()
    monkeypatch.setattr(judge, "_clock", lambda: 0.0)
    Limit(storage=storage, key="it", per_minute=60).wait()
    assert waits == [600.0]


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://x/v1", "http://", "http://me:secret@x/v1", "http://x/v1?k=1"]
)
def test_what_is_no_address_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(PolicyError, match="is no address of a server") as refusal:
        check_address(address, "rate.judge.endpoint")
    assert "secret" not in str(refusal.value)


# ---------------------------------------------------------------- what answers come to


@pytest.mark.parametrize(
    ("answers", "wanted", "share"),
    [
        (["A"], 1, 1.0), (["B."], 1, 0.0), (["Excerpt A", "**B**", "B"], 3, 1 / 3), (["A or B"], 1, None),
        (["?"], 1, None),
        (["A", "?", "?"], 3, None), (["A", "B", "?", "?"], 4, 0.5), (["A"], 4, None), ([], 1, None),
    ],
)  # fmt: skip
def test_an_answer_names_one_of_two(answers: list[str], wanted: int, share: float | None) -> None:
    value = first_share(tuple(answers), wanted)
    assert (value != value) if share is None else value == share
    assert first_share(Failure(reason="x"), 1) != first_share(Failure(reason="x"), 1)


def options_of(server: Server, **more: Any) -> dict[str, Any]:
    return {"endpoint": server.address, "model": "m", "opponents": 2, **more}


def test_a_document_has_the_share_of_comparisons_that_it_wins_in_both_orders(server: Server) -> None:
    every = ["writing_style", "required_expertise", "facts_and_trivia", "educational_value"]
    scores = scores_of("judge", options_of(server, criteria=every), text=TEXTS, fitted_on=["1 1", "No number at all"])
    for criterion in every:
        # against two numbers, and against none: a tie is a half, since the first one wins it in both orders
        assert scores[f"judge_{criterion}"] == [0.25, 0.5, 0.75, 0.25, 1.0]
    assert scores["judge_disagreement"] == [0.5, 0.0, 0.5, 0.5, 0.0]
    assert len(server.questions) == 5 * 4 * 2 * 2
    asked = {body["messages"][1]["content"].splitlines()[0] for body in server.questions}
    assert len(asked) == 4, "each criterion has a question of its own"


@pytest.mark.parametrize(("forward", "backward", "p", "gap"), [(0.7, 0.25, 0.725, 0.05), (0.8, 0.6, 0.6, 0.4)])
def test_the_orders_are_put_together_as_published(
    forward: float, backward: float, p: float, gap: float, server: Server
) -> None:
    given: dict[bool, list[str]] = {
        is_first: ["A"] * round(20 * share) + ["B"] * (20 - round(20 * share))
        for is_first, share in ((True, forward), (False, backward))
    }

    def reply(body: dict[str, Any]) -> Any:
        is_first = body["messages"][-1]["content"].index("mine") < body["messages"][-1]["content"].index("other")
        return 200, {}, json.dumps({"choices": [{"message": {"content": one}} for one in given[is_first]]}).encode()

    server.reply = reply
    scores = scores_of("judge", options_of(server, opponents=1, answers=20), text=["mine"], fitted_on=["other"])
    assert scores["judge_educational_value"] == [pytest.approx(p)]
    assert scores["judge_disagreement"] == [pytest.approx(gap, abs=1e-6)]


@pytest.mark.usefixtures("waits")
def test_answers_that_cannot_be_read_are_missing_and_those_that_never_came_have_failed(server: Server) -> None:
    server.answer = lambda text: "I cannot say" if "odd" in text else "A"
    options = options_of(server, opponents=1, parallel=1, retries=0)
    server.faults = [None, None, None, (500, {}, b"")]
    scores = scores_of("judge", options, text=["odd", "plain", "fine"], fitted_on=["other"])
    assert scores["judge_educational_value"] == [None, None, 0.5]
    assert scores["judge_educational_value.state"] == ["missing", "failed", "ok"]
    assert scores["judge_disagreement.state"] == ["missing", "failed", "ok"]


def test_only_the_beginning_of_a_text_is_shown(server: Server) -> None:
    scores_of("judge", options_of(server, most_characters=5, opponents=1), text=["123456789"], fitted_on=["abcdefgh"])
    shown = [body["messages"][1]["content"] for body in server.questions]
    assert all("12345\n" in text and "abcde\n" in text for text in shown)


@pytest.mark.slow
def test_a_judge_keeps_the_laws(server: Server) -> None:
    given: dict[str, Any] = {"most_questions": None, "per_minute": None, "criteria": ["writing_style"]}
    check_rater("judge", examples=2, opponents=1, endpoint=server.address, **given)


# ---------------------------------------------------------------- in a run


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
def test_a_run_says_what_it_will_cost_keeps_every_answer_and_asks_again_for_what_failed(
    server: Server, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": f"Text {'1' * (n % 9)} of {chr(97 + n)}"} for n in range(26)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    options = {"endpoint": server.address, "model": "m", "opponents": 2, "retries": 0, "parallel": 1}
    written: dict[str, Any] = {
        "corpus": {"paths": [str(corpus)], "tokenizer": str(tiny_model)}, "rate": [{"judge": options}],
        "select": {"budget": {"documents": 20}, "using": {"top": {"score": "judge_educational_value"}}},
    }  # fmt: skip
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(written), "utf-8")

    def run(*more: object) -> Any:
        return selector("run", policy, "--root", tmp_path / "runs", "--executor", "local", "--json", *more)

    server.faults = [*[None] * 30, (400, {}, b"refused")]
    first = run()
    assert first.code == 0, first.err
    assert "judge: up to 104 questions to m (26 documents, 2 opponents, 2 orders, 1 criteria)" in caplog.text
    num_asked = len(server.questions)
    (pairs,) = (tmp_path / "runs/judged/pairs").glob("judge-*/educational_value.parquet")
    assert f"selector fit-rater {pairs} --pair first second --better better" in caplog.text
    judged = pq.read_table(pairs).to_pylist()
    digits = [(row["better"], row["first"].count("1") - row["second"].count("1")) for row in judged]
    assert len(judged) == 26 * 2 - 2 - 1, "each with two opponents but for itself, and one was refused"
    assert all(better == (0.5 if gap == 0 else gap > 0) for better, gap in digits)
    learned = tmp_path / "judged.jsonl"
    fitted = selector(
        "fit-rater", pairs, "--pair", "first", "second", "--better", "better", "--higher-is", "better", "--model",
        tiny_model, "--uses", "counts", "--duplicates", 1, "--out", learned, "--json",
    )  # fmt: skip
    assert fitted.code == 0 and fitted.json["rows"] == len(judged), fitted.err
    assert run().json["digest"] == first.json["digest"]
    assert len(server.questions) == num_asked, "what is done is found"
    again = run("--retry-failed")
    assert again.code == 0, again.err
    assert len(server.questions) == num_asked + 1, "only what failed is asked"
    assert run().json["digest"] == again.json["digest"], "and it stays"
    written["rate"] = [{"judge": {**options, "per_minute": 60_000}}]
    policy.write_text(yaml.safe_dump(written), "utf-8")
    assert run().code == 0
    assert len(server.questions) == num_asked + 1, "how fast it is asked is no other question"
    written["rate"] = [{"judge": {**options, "model": "another", "most_questions": 100}}]
    policy.write_text(yaml.safe_dump(written), "utf-8")
    refused = run()
    assert refused.code == 2 and "most_questions is 100, and 26 documents take up to 104 questions" in refused.err
    assert len(server.questions) == num_asked + 1


def test_retrying_without_a_judge_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "a"}])
    policy = tmp_path / "policy.yaml"
    written = {"corpus": {"paths": [str(corpus)], "tokenizer": str(tiny_model)}, "select": {"budget": {"documents": 1}}}
    policy.write_text(yaml.safe_dump(written), "utf-8")
    ended = selector("run", policy, "--root", tmp_path, "--executor", "local", "--retry-failed")
    assert ended.code == 2 and "asks a judge again, and this policy has none" in ended.err


# ---------------------------------------------------------------- a model that marks its own answers


def marks_its_length(question: str) -> str:
    """Answers a task with it in capitals, and marks an answer by its length; of one with a 0 in it nothing."""
    marked = re.search(r"Answer:\n<<<\n(.*?)\n>>>", question, re.DOTALL)
    if marked is None:
        return question.upper()
    return "none" if "0" in marked[1] else f"{len(marked[1])}/10"


@pytest.mark.usefixtures("waits")
def test_a_self_judge_is_put_right_by_the_reference(server: Server, tiny_model: Path) -> None:
    server.answer = marks_its_length
    tasks = ["say it", "a", "x0", "", "no reference", "much too long to be a mark", "lost"]
    references = ["SAY IT", "quite another thing", "X0", "x", None, "x", "x"]
    server.faults = [*[None] * 4, (500, {}, b"oh")]
    options = {
        "endpoint": server.address, "model": "m", "prompt": "task", "response": "right", "retries": 0, "parallel": 1,
        "similarity": str(tiny_model),
    }  # fmt: skip
    scores = scores_of("self_judge", options, corpus_task=tasks, corpus_right=references)
    states = ["ok", "ok", "missing", "not_applicable", "not_applicable", "missing", "failed"]
    assert scores["self_judge.state"] == states
    assert scores["self_judge_mark"][:2] == [6.0, 1.0]
    assert scores["self_judge_similarity"][0] == pytest.approx(1, abs=1e-6)
    for k in range(2):
        alike, mark = scores["self_judge_similarity"][k], scores["self_judge_mark"][k]
        assert scores["self_judge"][k] == pytest.approx(1 - mark / 10 * alike, abs=1e-5)
    assert all(scores[name][2:] == [None] * 5 for name in ("self_judge", "self_judge_mark", "self_judge_similarity"))
    shown = [body["messages"][-1]["content"] for body in server.questions]
    assert not any("quite another thing" in text for text in shown), "the reference is not shown"


@pytest.mark.slow
def test_a_self_judge_keeps_the_laws(server: Server, tiny_model: Path) -> None:
    server.answer = marks_its_length
    given: dict[str, Any] = {"endpoint": server.address, "similarity": str(tiny_model), "per_minute": None}
    check_rater("self_judge", examples=2, prompt="task", response="right", **given)
