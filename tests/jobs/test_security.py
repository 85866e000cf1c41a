"""What a whole run on Ray lets others reach and see, looked at from inside of it."""

import json
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from command import process, write_policy
from conftest import text_of, write_jsonl

SECRETS = {"AWS_SECRET_ACCESS_KEY": "canary-of-a-store-5d1e", "OPENAI_API_KEY": "canary-of-a-judge-81c4"}


def address_of(hexadecimal: str) -> str:
    """An address as the kernel lists it, as people write it."""
    host, _, _ = hexadecimal.partition(":")
    words = struct.pack(f"<{len(host) // 8}I", *(int(host[at : at + 8], 16) for at in range(0, len(host), 8)))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)


@pytest.mark.slow
def test_a_whole_run_listens_on_loopback_alone_and_its_secrets_are_nowhere_to_be_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    policy = {"corpus": {"paths": [str(tmp_path / "corpus.jsonl")], "rows_per_part": 20}}
    policy |= {"rate": ["lookout:Lookout"], "select": {"budget": {"fraction": 0.5}}}
    written, root, seen = write_policy(tmp_path, policy), tmp_path / "root", tmp_path / "seen.json"
    above = Path(__file__).parents[1]
    env = {**SECRETS, "LOOKOUT": str(seen), "PYTHONPATH": f"{above}:{above.parent}"}
    words = ("run", written, "--root", root, "--actors", 1, "--metrics", 0, "--json", "-v")
    ended = process(*words, env=env)
    assert ended.code == 0, ended.err
    report: dict[str, Any] = json.loads(seen.read_text("utf-8"))

    served = ended.err.partition("Metrics are at http://127.0.0.1:")[2].partition("/")[0]
    ports = {int(one.rpartition(":")[2], 16) for one in report["listening"]}
    assert int(served) in ports and len(ports) >= 5, report["listening"]  # and those of Ray
    hosts = {address_of(one) for one in report["listening"]}
    assert hosts <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, hosts

    token = report["token"]
    assert len(token) == 64 and report["num_logs"] > 3 and report["logs_with_token"] == 0
    assert report["modes"] == ["0o700"]  # what Ray keeps of a run, nobody else may look at
    assert len(report["commands"]) >= 5
    files = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    assert len(files) > 30 and any(b'"event": "finished"' in data for data in files)
    shown = [*files, ended.out.encode(), ended.err.encode(), *(line.encode() for line in report["commands"].values())]
    for secret in (token, *SECRETS.values()):
        assert not any(secret.encode() in data for data in shown)
    assert sys.executable in " ".join(report["commands"].values())
