"""The page in deploy/: what it tells to type exists, and what it names is there."""

import re
from pathlib import Path
from typing import Any

import typer.main

from selector.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy/README.md").read_text("utf-8")


def test_every_command_on_the_page_exists_with_its_options() -> None:
    group: Any = typer.main.get_command(app)
    typed = [*re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL), *re.findall(r"`([^`\n]+)`", PAGE)]
    used = [line for text in typed for line in text.splitlines() if line.startswith("selector ")]
    assert len(used) > 8
    for line in used:
        verb, *words = line.split("#")[0].split()[1:]
        options = {option for parameter in group.commands[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_every_file_that_it_names_is_there() -> None:
    for name in re.findall(r"`((?:kubernetes|monitoring)/[\w./]*|\w+\.(?:txt|sh)|Dockerfile)`", PAGE):
        assert (ROOT / "deploy" / name).exists(), name
    for name in re.findall(r"(?<![\w/])(deploy/[\w./]+\w)", PAGE):
        assert (ROOT / name).exists(), name


def test_what_it_says_of_ports_is_what_the_policies_say() -> None:
    guard = (ROOT / "deploy/kubernetes/guard/network-policies.yaml").read_text("utf-8")
    assert all(f"port: {port}" in guard and str(port) in PAGE for port in (8265, 9464, 8080, 443))
