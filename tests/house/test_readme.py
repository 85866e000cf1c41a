"""What the README says is true: its code runs, its commands exist, and every command is in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from conftest import text_of, write_jsonl
from selector.cli import app

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_screen_has_the_two_commands() -> None:
    first = "\n".join(README.splitlines()[:25])
    assert "pip install -c deploy/constraints.txt -e '.[demo]' && selector demo" in first
    assert "pip install -c deploy/constraints.txt -e '.[test]' && pytest" in first


def test_every_documented_command_exists_and_every_command_is_documented() -> None:
    group = typer.main.get_command(app)
    there = set(getattr(group, "commands"))  # noqa: B009
    documented = set(re.findall(r"(?m)(?:^|&& )selector ([a-z-]+)", "\n".join(blocks("console"))))
    assert documented == there


def test_the_code_runs(tmp_path: Path) -> None:
    """The README's policy over a small corpus, its Python in one piece in a process of its own, as a newcomer has it:
    with the real model, on a Ray of its own."""
    rows = [{"text": text_of(n), "source": ("web", "books")[n % 2]} for n in range(256)]
    write_jsonl(tmp_path / "corpus/a.jsonl", rows[:128])
    write_jsonl(tmp_path / "corpus/b.jsonl", rows[128:])
    (policy,) = blocks("yaml")
    (tmp_path / "policy.yaml").write_text(policy, "utf-8")
    code = "".join(blocks("python")) + "\nprint(len(manifest), Exclamations().higher_is)\n"
    (tmp_path / "readme.py").write_text(code, "utf-8")
    ended = subprocess.run([sys.executable, "readme.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    num_visits, direction = ended.stdout.splitlines()[-1].split()
    assert int(num_visits) >= 12 and direction == "rarer"
