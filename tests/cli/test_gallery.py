"""The gallery of orders: every order is in it, drawn as it is, with what its docstring says of it."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from command import selector
from selector import plugins
from selector.cli import gallery

NAMES = plugins.names("orders")
OURS = plugins.ours("orders")

ELSEWHERE = '''
import dataclasses
import numpy as np
from selector.order import Order, Placed, ScoreName

@dataclasses.dataclass(frozen=True, kw_only=True)
class Backwards(Placed):
    """Goes <back> & forth.

    Evidence: none whatever.
    """
    score: ScoreName
    def keys(self, batch, summary, seed):
        return np.zeros(batch.num_rows, np.uint64)

@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Backwards):
    """Needs a number, and says which one to show."""
    length: int
    example = {"length": 7}

@dataclasses.dataclass(frozen=True, kw_only=True)
class Untold(Backwards):
    """Needs a number."""
    length: int

@dataclasses.dataclass(frozen=True, kw_only=True)
class Breaks(Backwards):
    """Breaks."""
    def groups(self, batch, summary):
        raise ValueError("broken")
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a gallery of all orders, and what the command said of it."""
    folder = tmp_path_factory.mktemp("gallery") / "of" / "orders"
    return folder, gallery.write(folder, NAMES)


@pytest.mark.slow
def test_every_order_is_in_the_gallery_with_a_picture_of_its_own(made: tuple[Path, dict[str, Any]]) -> None:
    folder, told = made
    assert [order["name"] for order in told["orders"]] == NAMES
    bare = {order["name"]: order["problem"] for order in told["orders"] if order["picture"] is None}
    assert [name for name, problem in bare.items() if "cannot be made up" not in problem] == []
    assert not {"by_score", "clients", "designed", "fixed", "prerequisites", "spread", "taxonomy"} & set(bare)
    text = (folder / "gallery.md").read_text("utf-8")
    pictures = {name: (folder / f"{name}.svg").read_text("utf-8") for name in NAMES if name not in bare}
    for name, picture in pictures.items():
        assert f"\n## {name}\n\n![{name}]({name}.svg)\n" in text
        root = ElementTree.fromstring(picture)
        tags = [re.sub(r".*}", "", shape.tag) for shape in root.iter()]
        assert tags.count("polyline") >= 1 and tags.count("rect") > 96 * 3, name
        assert "nan" not in picture and len(picture) < 60_000, "a small picture"
    shapes = {pictures[name].partition("</title>")[2] for name in ("by_score", "shuffled", "stair", "saw", "mixed")}
    assert len(shapes) == 5, "a picture shows how an order differs from others"


@pytest.mark.slow
def test_a_gallery_says_of_each_order_its_evidence_and_when_that_supports_it(
    made: tuple[Path, dict[str, Any]],
) -> None:
    text = (made[0] / "gallery.md").read_text("utf-8")
    sections = dict(zip(NAMES, re.split(r"(?m)^## .*$", text)[1:], strict=True))
    for name in OURS:
        assert "\n**Evidence.** " in sections[name], (
            f"{name}: say in its docstring what was found, and in which setting"
        )
        assert "`{using: " in sections[name] or f"`using: {name}`" in sections[name], "and what is shown"
    assert "\n**When the evidence supports it.** " in sections["by_score"]
    taus = {name: float(re.findall(r"· tau (\S+) ·", sections[name])[0]) for name in ("by_score", "shuffled")}
    assert taus["by_score"] == 1 and abs(taus["shuffled"]) < 0.03


@pytest.mark.slow
def test_a_gallery_is_the_same_each_time(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    gallery.write(tmp_path, ["stair", "jittered"])
    for name in ("stair", "jittered"):
        assert (tmp_path / f"{name}.svg").read_bytes() == (made[0] / f"{name}.svg").read_bytes()


@pytest.mark.slow
def test_an_order_from_elsewhere_is_drawn_and_one_that_cannot_be_is_said_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders_of_a_gallery.py").write_text(ELSEWHERE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"orders_of_a_gallery:{name}" for name in ("Backwards", "Told", "Untold", "Breaks")]
    backwards, told, untold, breaks = gallery.write(tmp_path / "page", [*names])["orders"]
    assert backwards == {"name": names[0], "picture": "orders_of_a_gallery_Backwards.svg"} and told["picture"]
    assert untold["picture"] is None and "the option length cannot be made up. Say `example" in untold["problem"]
    assert breaks["picture"] is None and "broken" in breaks["problem"]
    text = (tmp_path / "page" / "gallery.md").read_text("utf-8")
    assert "**Evidence.** None whatever." in text and f"No picture: {untold['problem']}" in text


@pytest.mark.slow
def test_the_command_writes_a_gallery_of_one_order_and_refuses_what_is_none(tmp_path: Path) -> None:
    ended = selector("plugins", "folded", "--gallery", tmp_path / "page", "--json")
    assert (ended.code, ended.json["orders"]) == (0, [{"name": "folded", "picture": "folded.svg"}])
    assert Path(ended.json["page"]).read_text("utf-8").startswith("# Gallery of orders\n")
    assert selector("plugins", "foldet", "--gallery", tmp_path / "none").code == 2
    (tmp_path / "file").write_text("")
    refused = selector("plugins", "folded", "--gallery", tmp_path / "file", "--json")
    assert refused.code == 2 and "Name a folder that can be written" in json.loads(refused.out)["error"]["message"]
    assert not (tmp_path / "none").exists()
