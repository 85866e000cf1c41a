"""The image, without a container engine: its file says what it should, and its steps run here as the script they
are."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from selector import __version__

ROOT = Path(__file__).parents[2]
PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^(\S+?)==(\S+)$", (ROOT / "deploy/constraints.txt").read_text("utf-8"), re.MULTILINE
    )
}
OF_THE_IMAGE = ("cluster", "code", "demo", "gpu", "language", "metrics", "objects")


def steps() -> list[tuple[str, list[str]]]:
    """Each instruction of the Dockerfile with its words."""
    text = re.sub(r"\\\n", " ", (ROOT / "deploy/Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], shlex.split(line, posix=True)[1:]) for line in lines]


def words(instruction: str) -> list[list[str]]:
    return [given for name, given in steps() if name == instruction]


def test_the_base_is_one_exact_version_of_the_python_that_runs_here() -> None:
    ((base,),) = [given for given in words("ARG") if given[0].startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-\w+", base)
    assert [given[0] for given in words("FROM")] == ["python:${PYTHON}"] * 2
    assert {name for name, _ in steps()} == {"ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


def test_it_runs_as_nobody_special_who_is_the_one_of_the_manifests() -> None:
    names = [name for name, _ in steps()]
    assert words("USER") == [["10001:10001"]] and names.index("USER") > max(
        index for index, name in enumerate(names) if name in ("RUN", "COPY")
    )
    assert any("useradd --create-home --uid 10001 selector" in " ".join(given) for given in words("RUN"))
    for path in ROOT.glob("deploy/kubernetes/*/*.yaml"):
        assert {*re.findall(r"runAs(?:User|Group): (\d+)", path.read_text("utf-8"))} <= {"10001"}


def test_what_is_copied_is_there_and_nothing_is_downloaded_but_packages() -> None:
    for given in words("COPY"):
        if not given[0].startswith("--from"):
            assert all((ROOT / source).exists() for source in given[:-1]), given
    commands = [" ".join(given) for given in words("RUN")]
    assert commands[0] == "sh deploy/install.sh $VARIANT /source /opt/selector" and len(commands) == 2
    assert not re.search(r"curl|wget|https?://|index-url|TOKEN|SECRET", (ROOT / "deploy/install.sh").read_text("utf-8"))
    assert subprocess.run(["sh", "-n", ROOT / "deploy/install.sh"], check=False).returncode == 0


def test_everything_that_an_image_installs_has_one_version() -> None:
    """All that is required, as far as what requires it is installed here."""
    todo: list[tuple[str, frozenset[str]]] = [("selector", frozenset(OF_THE_IMAGE))]
    seen = set[tuple[str, frozenset[str]]]()
    unpinned: set[str] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name != "selector" and name not in PINNED:
            unpinned.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another variant, or of the head alone
        for text in required:
            one = Requirement(text)
            chosen = [{"extra": extra} for extra in sorted(extras)] or [{"extra": ""}]
            if one.marker is None or any(one.marker.evaluate(extra) for extra in chosen):
                todo.append((canonicalize_name(one.name), frozenset(one.extras)))
    # what torch needs of CUDA, it asks for in one version each
    assert {name for name in unpinned if not name.startswith(("nvidia-", "cuda-")) and name != "triton"} == set()
    assert len(seen) > 50


@pytest.mark.slow
def test_its_steps_install_what_was_copied_and_nothing_else(tmp_path: Path) -> None:
    """As in the image, but that what others made is there already: so nothing is downloaded."""
    source, target, others = tmp_path / "source", tmp_path / "venv", tmp_path / "others"
    for *given, into in [given for given in words("COPY") if not given[0].startswith("--from")]:
        for name in given:
            place = source / into / Path(name).name if into.endswith("/") or into == "." else source / into
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, place)
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(("selector", "__editable__")):
            (others / path.name).symlink_to(path)
    venv.create(target, symlinks=True)
    (site,) = target.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{others}\n", "utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    env |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
    extras = "code,demo,language,metrics,objects"
    script = source / "deploy/install.sh"
    ended = subprocess.run(
        ["sh", script, "cpu", source, target, extras], env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert ended.stdout.splitlines()[-1] == __version__ and "No broken requirements" in ended.stdout
    installed = {path.name for path in site.iterdir()}
    assert installed == {"others.pth", "selector", "jobs", f"selector-{__version__}.dist-info"}
    code = "from jobs.submit import k8s; print(len(k8s._deployed('guard/network-policies.yaml')))"
    ran = subprocess.run([target / "bin/python", "-c", code], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "2"  # what is handed to Kubernetes is in the package
    refused = subprocess.run(["sh", script, "tpu", source, target], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "Write cpu or gpu" in refused.stderr
