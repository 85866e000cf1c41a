"""Commands for runs on a cluster: hand one over, watch it, read its log, end it, list them.

All but the first read the root alone, so they work from any machine that can read it, and after the cluster is gone.
Where the cluster answers, it adds what only it can know: that a job waits for its turn, and why.
"""

import contextlib
import getpass
import importlib.metadata
import json as json_module
import os
import shlex
import signal
import socket
import sys
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector import __version__
from selector.cli.app import (
    INTERRUPTED,
    QUARANTINED,
    Actors,
    Deadline,
    Explain,
    Json,
    PolicyFile,
    Root,
    Set,
    Terminated,
    Verbose,
    app,
    only_our_output,
    opened_root,
    print_json,
)
from selector.cli.loading import Allowed, NoForeign, load
from selector.engine import job as jobs
from selector.engine import journal
from selector.engine.job import Ending, Job, State
from selector.engine.journal import JOB, Seen, StepSeen
from selector.errors import NotFoundError, SelectorError, UnreachableError, UsageError
from selector.storage import Storage, open_storage, path_here

SLIP = "SELECTOR_JOB_SLIP"
"""The environment variable with the path of the file that says what the job is."""

if TYPE_CHECKING:
    from selector.cli.doctor import Finding
    from selector.engine.target import Target

_OFTEN, _SELDOM = 1.0, 5.0  # seconds between two looks at a run: on a terminal, and elsewhere
_LOOKED, _PROBED = 0.5, 180.0  # seconds between two looks at a probe, and that it has
_PATIENCE = 10.0  # seconds that a run has to end cleanly

Id = Annotated[
    str, typer.Argument(metavar="ID", help="What submit printed, or a run's name; selector runs lists them.")
]


@app.command()
def submit(
    policy: PolicyFile,
    on: Annotated[str, typer.Option("--on", metavar="TARGET", help="ray=http://HEAD:8265, k8s=NAMESPACE, or slurm.")],
    root: Root = "./runs",
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    with_: Annotated[
        list[str] | None, typer.Option("--with", metavar="KEY=VALUE", help="An option of the target.")
    ] = None,
    actors: Actors = None,
    deadline: Deadline = None,
    explain_resources: Explain = False,
    again: Annotated[bool, typer.Option("--again", help="Begin anew although it is finished.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Hand over the files that k8s and slurm write.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder for these files; by default the id.", parser=path_here)
    ] = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Hand a run to a cluster, or find it handed over already."""
    from selector.engine.submission import Submitted
    from selector.engine.submission import submit as handed_over
    from selector.policy import elsewhere

    with only_our_output():
        target, target_options = _target(on, with_ or ())
        loaded = load(policy, set_, no_foreign_plugins, allowed)
        parcel, requires = elsewhere.parcel(loaded)
        storage = open_storage(root)
        given = {
            "actors": actors,
            "deadline": deadline,
            "no-foreign-plugins": no_foreign_plugins or None,
            "allowed": allowed,
        }
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        explained = {"explain-resources": True} if explain_resources else {}  # which makes it no other run
        wanted = Job(
            id=Job.id_of(elsewhere.identity(loaded), storage.address, options), target=on, root=storage.address,
            policy=loaded.resolved(), options=options | explained, target_options=target_options, requires=requires,
            submitted=_submitted(),
        )  # fmt: skip
        target.check(wanted, parcel)
        written = target.written(wanted, parcel)
        folder = None if written is None else str((out or Path(wanted.id)).resolve())
        earlier = None if folder is None else _laid_out(Path(folder))
        if written is None or apply:
            _check_reachable(storage)
            outcome = handed_over(
                storage, target, wanted, parcel, again=again, written=folder, reopened=_target_of
            )  # fmt: skip
            written = target.written(outcome.job, parcel)
        else:
            outcome = Submitted(job=wanted, is_new=True, state=State(word="unknown", detail="It is yet to be started."))
        if written is not None and folder is not None and outcome.is_new:
            _lay_out(Path(folder), written.files, wanted, earlier)
    job, state = outcome.job, outcome.state
    if (job.target, job.target_options) != (wanted.target, wanted.target_options):
        print(
            f"It was handed over to {_spelt(job)}, and not again to {_spelt(wanted)}. To change that, cancel it and "
            "submit again.", file=sys.stderr,
        )  # fmt: skip
    commands = {
        verb: shlex.join(["selector", verb, job.id, "--root", storage.address]) for verb in ("watch", "logs", "cancel")
    }
    if written is not None and not apply:
        commands = {"start": shlex.join(written.command), **commands}
    if json:
        print_json(
            {
                "run": wanted.id, "job": job.id, "new": outcome.is_new, "state": state.word, "detail": state.detail,
                "files": folder, "commands": commands,
            }
        )  # fmt: skip
        return
    print(
        f"run     {wanted.id}\njob     {job.id}  {_in_words(outcome.is_new, state, written is not None and not apply)}"
    )
    if folder is not None:
        print(f"files   {folder}")
    for verb, command in commands.items():
        print(f"{verb:<7} {command}")


def _in_words(is_new: bool, state: State, is_only_written: bool) -> str:
    if is_only_written:
        return "is written, and not started"
    return "is handed over" if is_new else f"was handed over before: {_state_line(state)}"


@app.command()
def watch(
    id_: Id,
    root: Root = "./runs",
    once: Annotated[bool, typer.Option("--once", help="Say it once, rather than until it is over.")] = False,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Show how far a run is, until it is over."""
    storage = opened_root(root)
    view = _view(storage, id_)
    is_terminal = sys.stderr.isatty()
    while not (once or json or view["is_over"]):
        _show(view, is_terminal)
        time.sleep(_OFTEN if is_terminal else _SELDOM)
        view = _view(storage, id_)
    if json:
        print_json(view)
    else:
        for line in _lines(view):
            print(line)
    if view["is_over"] and not (once or json):
        raise typer.Exit(view["exit_code"])


@app.command()
def logs(
    id_: Id,
    root: Root = "./runs",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    printed: Annotated[bool, typer.Option("--printed", help="What it printed, as the cluster has it.")] = False,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Print what happened in a run, a line for each event."""
    storage = opened_root(root)
    job, runs = _identified(storage, id_)
    if printed or not runs:
        _print_printed(job, json)
        return
    shown: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    while True:
        is_last = not follow or _view(storage, id_)["is_over"]  # before the last look at the log
        for seen in runs:
            pages = shown.get(seen.key, 0)
            for line in journal.lines(storage, seen, pages):
                shown[seen.key] = line.pop("page") + 1
                events.append(line)
        if not json:
            for event in events:
                print(_event_line(event))
            events = []
        if is_last:
            break
        time.sleep(_SELDOM)
        runs = _identified(storage, id_)[1]
    if json:
        print_json({"events": events})


def _print_printed(job: Job | None, as_json: bool) -> None:
    """What the cluster has of what a job printed."""
    target = None if job is None else _target_of(job)
    if job is None or target is None:
        raise UsageError("Only a job on a cluster has something that its cluster keeps. Leave out --printed.")
    text = target.logs(job.id)
    if text is None:
        raise NotFoundError(f"{job.target} knows no job {job.id}, and no run has begun for it.")
    if as_json:
        print_json({"printed": text})
    else:
        print(text, end="" if text.endswith("\n") else "\n")


@app.command()
def cancel(
    id_: Id,
    root: Root = "./runs",
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds that it has to end cleanly.")] = _PATIENCE,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """End a run: it finishes what it is writing, and the same command goes on from there."""
    from selector.engine import submission

    storage = opened_root(root)
    job, runs = _identified(storage, id_)
    if job is None:
        state = _cancel_here(storage, runs[-1], wait)
        again = "the same `selector run`"
    else:
        state = submission.cancel(storage, _target_of(job), job, patience=wait, kill=_kill)
        again = str(job.submitted.get("command") or "the same `selector submit`")
    if json:
        print_json({"state": state.word, "detail": state.detail, "again": again})
        return
    print(_state_line(state))
    if state.word != "finished":
        print(f"Finished parts are kept, and nothing is half written. To go on: {again}")


def _cancel_here(storage: Storage, seen: Seen, patience: float) -> State:
    """Ends a run that is no job, if its process is on this machine. Raises UsageError."""
    from selector.engine.submission import is_here

    if not journal.living(storage, [seen]):
        return _state_of_run(storage, seen)
    if not is_here(seen):
        raise UsageError(
            f"The run is at work in process {seen.pid} on {seen.host.partition(' ')[0]}, and no cluster looks after "
            f"it. End it there: kill {seen.pid}"
        )
    os.kill(seen.pid, signal.SIGTERM)
    until = time.monotonic() + patience
    while is_here(seen) and time.monotonic() < until:
        time.sleep(0.05)
    if is_here(seen):
        os.kill(seen.pid, signal.SIGKILL)
    return State(word="cancelled", detail=f"Process {seen.pid} has ended.")


def _kill(seen: Seen) -> None:
    from selector.engine.submission import is_here

    if is_here(seen):
        os.kill(seen.pid, signal.SIGKILL)


@app.command()
def runs(root: Root = "./runs", json: Json = False, _: Verbose = False) -> None:
    """List the runs of a root, and how each one is."""
    storage = opened_root(root)
    views = [_view(storage, job_id, ask=False) for job_id in jobs.ids(storage)]
    seen = [one for one in journal.read(storage) if one.job is None]
    alive = journal.living(storage, seen)
    views += [_view_of(storage, one, None, _state(one, is_alive=one.key in alive)) for one in seen]
    views.sort(key=lambda view: view["began"] or 0)
    if json:
        print_json({"runs": views})
        return
    for view in views:
        step = view["step"]["name"] if view["step"] else ""
        began = "" if view["began"] is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(view["began"]))
        print(f"{view['id']:<26} {view['run'] or '':<17} {view['state']:<10} {began:<17} {step}".rstrip())


# How a run is.


def _identified(storage: Storage, id_: str) -> tuple[Job | None, list[Seen]]:
    """The job of an id, if it is one, and what the runs tell of themselves, the latest last. Raises NotFoundError."""
    if id_.startswith(jobs.PREFIX):
        job = jobs.the(storage, id_)
        if jobs.number_of(id_) == 1:
            job = jobs.latest(storage, job) or job
        return job, journal.read(storage, job.id)
    runs = [seen for seen in journal.read(storage) if id_ and (seen.run or "").startswith(id_)]
    names = sorted({seen.run for seen in runs if seen.run})
    if len(names) > 1:
        raise UsageError(f"Several runs have a name that begins with {id_!r}: {', '.join(names)}. Give more of it.")
    if not runs:
        raise NotFoundError(f"There is no run {id_!r} in {storage.address}. `selector runs` lists those there are.")
    job = jobs.find(storage, runs[-1].job) if runs[-1].job else None
    return job, runs


def _view(storage: Storage, id_: str, *, ask: bool = True) -> dict[str, Any]:
    """All that is known of a run."""
    from selector.engine.submission import state_of

    job, runs = _identified(storage, id_)
    last = runs[-1] if runs else None
    if job is None:
        assert last is not None
        return _view_of(storage, last, None, _state_of_run(storage, last))
    try:
        target = _target_of(job) if ask else None
    except SelectorError:
        target = None
    return _view_of(storage, last, job, state_of(storage, target, job))


def _state_of_run(storage: Storage, seen: Seen) -> State:
    return _state(seen, is_alive=bool(journal.living(storage, [seen])))


def _state(seen: Seen, *, is_alive: bool) -> State:
    """How a run that is no job is."""
    from selector.engine.submission import died

    if seen.ended == "finished":
        return State(word="finished", detail=seen.run or "")
    if seen.ended == "interrupted":
        return State(word="cancelled", detail="It was interrupted. What it had finished is kept.")
    if seen.ended is not None:
        return State(word="failed", detail=seen.message)
    return State(word="running") if is_alive else died(seen, "")


def _view_of(storage: Storage, seen: Seen | None, job: Job | None, state: State) -> dict[str, Any]:
    now = time.time()
    ending = None if job is None else jobs.ending(storage, job.id)
    codes = {"finished": 0, "cancelled": INTERRUPTED}
    view: dict[str, Any] = {
        "id": job.id if job is not None else (seen.run or "") if seen is not None else "",
        "run": None if seen is None else seen.run,
        "target": None if job is None else job.target,
        "state": state.word,
        "detail": state.detail,
        "is_over": state.is_over,
        "exit_code": ending.exit_code if ending else codes.get(state.word, SelectorError.exit_code),
        "manifest": None if ending is None else ending.manifest,
        "began": None if seen is None else seen.began,
        "updated": None if seen is None else seen.updated,
        "silent_seconds": None if seen is None else round(max(0.0, now - seen.sign), 1),
        "host": None if seen is None else seen.host.partition(" ")[0],
        "pid": None if seen is None else seen.pid,
        "requests": None if seen is None else seen.requests,
        "retries": None if seen is None else seen.retries,
        "done": [] if seen is None else list(seen.done),
        "step": None,
        "beside": [],
    }
    if seen is not None and seen.step is not None and not state.is_over:
        view["step"] = _step_view(seen.step, seen, now)
        view["beside"] = [_step_view(step, seen, now) for step in seen.steps if step is not seen.step]
    return view


def _step_view(step: StepSeen, seen: Seen, now: float) -> dict[str, Any]:
    """What there is to say of a step that is going on."""
    rate, left, per_document = step.rate(seen.updated), step.seconds_left(seen.updated), seen.tokens_per_document
    return {
        "name": step.name,
        "parts": step.parts,
        "parts_done": step.parts_done,
        "documents": step.documents,
        "tokens": None if per_document is None else round(step.documents * per_document),
        "documents_per_second": round(rate, 1),
        "tokens_per_second": None if per_document is None else round(rate * per_document),
        "seconds_left": None if left is None else round(left),
        "waiting": step.waiting,
        "stalls": [
            {"step": step.name, "part": stall.part, "worker": stall.worker, "node": stall.node,
             "seconds": round(stall.seconds + max(0.0, now - seen.updated), 1)}
            for stall in step.stalls
        ],
    }  # fmt: skip


def _lines(view: Mapping[str, Any]) -> list[str]:
    """A run as a person reads it."""
    lines = [f"{view['id']}  {_state_line(State(word=view['state'], detail=view['detail']))}"]
    for row in view["done"]:
        state = "cached" if row["cached"] else f"{row['seconds']:.1f} s"
        lines.append(f"{row['name']:<24} {row['rows_in']:>9,} in  {row['rows_out']:>9,} out  {state}")
    for step in [view["step"], *view["beside"]] if view["step"] else []:
        parts = "" if step["parts"] is None else f"{step['parts_done']:,} of {step['parts']:,} parts, "
        tokens = "" if step["tokens"] is None else f", about {step['tokens']:,} tokens"
        left = "" if step["seconds_left"] is None else f", about {_duration(step['seconds_left'])} left"
        figures = f"{step['documents']:,} documents{tokens}, {step['documents_per_second']:,.0f}/s{left}"
        lines.append(f"{step['name']:<24} {parts}{step['waiting'] or figures}")
        lines += [
            f"  stalled for {_duration(stall['seconds'])}: {stall['part']} on worker {stall['worker'] or '?'} of node "
            f"{stall['node'] or '?'}"
            for stall in step["stalls"]
        ]
    if view["silent_seconds"] is not None and not view["is_over"] and view["silent_seconds"] > 30:
        lines.append(f"  nothing has happened for {_duration(view['silent_seconds'])}")
    return lines


def _show(view: Mapping[str, Any], is_terminal: bool) -> None:
    """What there is to say now, on stderr: over what was said before on a terminal, else in a line."""
    lines = _lines(view)
    if is_terminal:
        print("\x1b[H\x1b[J" + "\n".join(lines), file=sys.stderr)
    else:
        print(lines[0] if view["step"] is None else lines[1 + len(view["done"])], file=sys.stderr)


def _state_line(state: State) -> str:
    return state.word if not state.detail else f"{state.word}: {state.detail}"


def _duration(seconds: float) -> str:
    """A length of time in two units at most."""
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _event_line(event: Mapping[str, Any]) -> str:
    values = {name: value for name, value in event.items() if name not in ("time", "event") and value is not None}
    clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event["time"]))
    words = " ".join(
        f"{name}={json_module.dumps(value) if isinstance(value, str) and ' ' in value else value}"
        for name, value in values.items()
        if value != ""
    )
    return f"{clock} {event['event']:<9} {words}".rstrip()


# Where jobs go.


def _target(on: str, options: Sequence[str]) -> "tuple[Target, dict[str, Any]]":
    """The target that --on names, with the options of --with."""
    from selector import plugins
    from selector.engine.target import Target

    name, equals, value = on.partition("=")
    given: dict[str, Any] = {}
    for option in options:
        key, sign, text = option.partition("=")
        if not sign or not key:
            raise UsageError(f"--with {option!r:.80} is not of the form key=value.")
        given[key] = text
    known = [field.name for field in fields(plugins.find("targets", name))]  # pyright: ignore[reportArgumentType]
    if equals and known:
        return plugins.make("targets", name, {**given, known[0]: value}, "--on", Target), given
    return plugins.make("targets", name, given, "--on", Target), given


def _target_of(job: Job) -> "Target | None":
    """The cluster that a job was handed to."""
    if not job.target:
        return None
    return _target(job.target, [f"{name}={value}" for name, value in job.target_options.items()])[0]


def examined(address: str, root: str, corpora: Sequence[str]) -> "list[Finding]":
    """What a job on a cluster finds there, on every node. Raises UnreachableError."""
    from selector import plugins
    from selector.cli.doctor import Finding
    from selector.engine.target import Parcel, Target

    target = plugins.make("targets", "ray", {"address": address}, "--address", Target)
    words = {"address": "auto", "root": root, **({"corpus": list(corpora)} if corpora else {})}
    job = Job(
        id=Job.id_of(uuid.uuid4().hex, root, words), target=f"ray={address}", root=root, verb="doctor", options=words,
        requires={"selector": __version__, "ray": importlib.metadata.version("ray")},
    )  # fmt: skip
    target.start(job, Parcel(files={}), None)
    until = time.monotonic() + _PROBED
    state = target.state(job.id)
    while (state is None or not state.is_over) and time.monotonic() < until:
        time.sleep(_LOOKED)
        state = target.state(job.id)
    for line in reversed((target.logs(job.id) or "").splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return [Finding(**finding) for finding in json_module.loads(line)["findings"]]
    if state is None or not state.is_over:
        target.stop(job.id)
        raise UnreachableError(f"{address} has not run the probe {job.id} within {_PROBED:g} seconds: {state}.")
    return [Finding(name="probe", ok=False, detail=state.detail or state.word)]


def _submitted() -> dict[str, Any]:
    """When, where and by whom this command was typed."""
    with contextlib.suppress(OSError, KeyError):
        return {**_typed(), "user": getpass.getuser()}
    return _typed()


def _typed() -> dict[str, Any]:
    command = shlex.join(["selector", *sys.argv[1:]])
    return {"time": round(time.time(), 3), "host": socket.gethostname(), "command": command}


def _check_reachable(storage: Storage) -> None:
    """The root can be used from here. Raises UsageError, before a folder is made that no cluster sees."""
    if storage.free_bytes() is not None and not Path(storage.address).parent.is_dir():
        raise UsageError(
            f"--root: {Path(storage.address).parent} is not on this machine, so nobody here could watch the run. Mount "
            "it as it is on the cluster, or give an address that both reach."
        )


def _spelt(job: Job) -> str:
    """Where a job goes, as it is typed."""
    return " ".join([job.target, *(f"{name}={value}" for name, value in sorted(job.target_options.items()))])


def _laid_out(folder: Path) -> Job | None:
    """The job whose files lie in a folder, if some do."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Job(**json_module.loads((folder / "job.json").read_bytes()))
    return None


def _lay_out(folder: Path, contents: Mapping[str, bytes], job: Job, earlier: Job | None) -> None:
    """Writes the files of a job; those that the same job had there, with other options of its target, go."""
    if earlier is not None and earlier.attempt(1).id == job.id and _spelt(earlier) != _spelt(job):
        from selector.engine.target import Parcel

        with contextlib.suppress(SelectorError):
            target = _target_of(earlier)
            replaced = None if target is None else target.written(earlier, Parcel(files={}))
            for name in [] if replaced is None else replaced.files.keys() - contents.keys():
                (folder / name).unlink(missing_ok=True)
        print(f"The files for {_spelt(earlier)} in {folder} are replaced.", file=sys.stderr)
    for name, data in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


@contextlib.contextmanager
def as_job(root: str, *, is_whole: bool = True) -> Generator[None]:
    """If this process is a job, the root is told how it ends; one that was cancelled before does not begin. One that
    does a share of it says only that it exists."""
    job_id, slip = os.environ.get(JOB), os.environ.get(SLIP)
    if not job_id:
        yield
        return
    storage = open_storage(root)
    jobs.number_of(job_id)
    if slip:
        job = Job(**json_module.loads(Path(slip).read_bytes()))
        jobs.begin(storage, job) if is_whole else jobs.record(storage, job)
    if jobs.is_cancelled(storage, job_id):
        jobs.end(storage, job_id, Ending(exit_code=143, message="It was cancelled before it began."))
        raise Terminated
    try:
        yield
    except typer.Exit:
        raise
    except BaseException as error:
        if not is_whole:
            raise
        code = error.exit_code if isinstance(error, SelectorError) else SelectorError.exit_code
        message = str(error) or type(error).__name__
        if isinstance(error, KeyboardInterrupt):
            code, message = INTERRUPTED, "It was ended by a signal. What it had finished is kept."
        with contextlib.suppress(SelectorError):
            jobs.end(storage, job_id, Ending(exit_code=code, message=message[:4000]))
        raise


def finished(root: str, finished_run: Any) -> None:
    """If this process is a job, the root is told that it is done."""
    job_id = os.environ.get(JOB)
    if job_id:
        code = QUARANTINED if finished_run.num_quarantined else 0
        jobs.end(open_storage(root), job_id, Ending(exit_code=code, manifest=finished_run.uri))
