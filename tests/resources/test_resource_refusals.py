"""Every refusal: one change to a good resource or mesh.yaml, and the problem's line, column, field and words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshsec.errors import ConfigError
from meshsec.resources import _yaml, load, load_mesh

HERE = Path(__file__).parent
GOOD = {path.stem: path.read_text(encoding="utf-8") for path in sorted((HERE / "good").glob("*.yaml"))}
LOADERS = [getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader]


def rows() -> Iterator[Any]:
    """The table in refusals.txt; its head says how it is written."""
    _, *sections = (HERE / "refusals.txt").read_text(encoding="utf-8").split("\n@@ ")
    for section in sections:
        name, *cases = section.strip("\n").split("\n\n")
        for case in cases:
            lines = [(line[0], line[2:]) for line in case.split("\n")]
            old, new, field, words = ("\n".join(text for mark, text in lines if mark == kind) for kind in "-+!?")
            yield pytest.param(name, old, new, field or None, words, id=f"{name}: {words}")


def read(name: str, text: str, folder: Path) -> object:
    """What the file says, if it is accepted."""
    file = folder / "file.yaml"
    file.write_text(text, encoding="utf-8")
    return load_mesh(file) if name == "mesh" else load(file)


@pytest.fixture(params=LOADERS, ids=["libyaml", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of PyYAML's two parsers, whichever this machine would take."""
    monkeypatch.setattr(_yaml, "_LOADER", request.param)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("name", GOOD)
def test_the_unchanged_file_is_accepted(name: str, tmp_path: Path) -> None:
    """What the rows below change is good as it stands."""
    assert read(name, GOOD[name], tmp_path)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("name", "old", "new", "field", "words"), list(rows()))
def test_one_change_is_refused_at_its_place(
    name: str, old: str, new: str, field: str | None, words: str, tmp_path: Path
) -> None:
    """The problem names file, line, column, field and what would be right."""
    assert GOOD[name].count(old) == 1, "the row must change one place"
    marked = GOOD[name].replace(old, new)
    before = marked.partition("§")[0]
    place = before.count("\n") + 1, len(before) - before.rfind("\n")
    with pytest.raises(ConfigError) as caught:
        read(name, marked.replace("§", ""), tmp_path)
    found = [((item.line, item.column), item.field, item.message) for item in caught.value.problems]
    assert any(at == place and on == field and words in message for at, on, message in found), (place, found)
    assert {item.source for item in caught.value.problems} == {str(tmp_path / "file.yaml")}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff"])
def test_half_a_character_is_refused(escape: str, tmp_path: Path) -> None:
    """No text may hold it: it could not even be written to a log."""
    with pytest.raises(ConfigError, match=r"surrogate|invalid Unicode") as caught:
        read("foreign", GOOD["foreign"].replace("two", f'"{escape}"'), tmp_path)
    assert caught.value.problems[0].line == 5
