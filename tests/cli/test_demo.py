"""The demo as a newcomer runs it: in a process of its own, with the network cut off."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import selector
from selector.cli.demo import prepare
from selector.policy import Policy

pytestmark = pytest.mark.slow

# Brings up the loopback of a fresh network namespace, which is all that it has, and becomes the command.
LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Where namespaces are not permitted: no socket of the process or of its children leaves this machine.
NO_NETWORK = """
import socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = socket.gethostbyname(address[0]) if address[0] else "127.0.0.1"
        if not host.startswith("127.") and host != socket.gethostbyname(socket.gethostname()):
            raise OSError(f"no network: {address}")
    return _connect(self, address)
socket.socket.connect = connect
"""


@pytest.fixture
def offline(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The words to put before a command, and its environment, so that it has no network."""
    environment = dict(os.environ)
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0:
        return ["unshare", "-rn", sys.executable, "-c", LOOPBACK], environment
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NO_NETWORK, "utf-8")
    return [], environment | {"PYTHONPATH": str(tmp_path / "site")}


def test_the_demo_runs_without_a_network_and_again_from_what_is_stored(
    tmp_path: Path, offline: tuple[list[str], dict[str, str]]
) -> None:
    before, environment = offline
    selector = str(Path(sys.executable).with_name("selector"))

    def demo(*options: str) -> subprocess.CompletedProcess[str]:
        command = [*before, selector, "demo", "--documents", "150", "--folder", str(tmp_path / "demo"), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)

    first = demo("--json")
    assert first.returncode == 0, first.stderr
    told: dict[str, Any] = json.loads(first.stdout)
    assert told["documents"] > 0 and not any(step["cached"] for step in told["steps"])

    second = demo()
    assert second.returncode == 0, second.stderr
    for shown in ("where the rows went", "tokens by source", "through the order", "clusters tried", told["digest"]):
        assert shown in second.stdout
    assert second.stdout.count("cached") == len(told["steps"])
    assert second.stdout.count("\n  selector ") == 3


def test_a_folder_that_cannot_be_written_to_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = selector("demo", "--folder", tmp_path / "file/demo", "--json")
    assert ended.code == 2 and ended.json["error"]["kind"] == "UsageError"
    assert re.search(r"--folder: .*file/demo cannot be written to: Not a directory", ended.err)


def test_what_a_killed_demo_has_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "docstrings-60.999999999").write_text("half")
    prepare(tmp_path, 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docstrings-60.jsonl", "policy-60.yaml"]


def test_the_demo_may_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / 'my, "own" [folder]: #1'
    policy = Policy.load(prepare(folder, 3))
    assert policy.corpus.paths == (str(folder / "docstrings-3.jsonl"),)
