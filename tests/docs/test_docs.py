"""The documentation is true: links lead somewhere, code blocks run, YAML loads, tables agree with the code.

What follows the language on a block's first line says what is done with it: ``file=NAME`` writes the block into the
page's folder, ``run`` executes Python there or, in a ``console`` block, every ``$ meshsec ...`` line, whose output
must be the lines below it. Other Python is compiled and its imports from meshsec must exist; all YAML must load. A
page that writes no mesh of its own finds that of the examples in ``mesh/``.

``python tests/docs/test_docs.py`` writes into every such console block what is printed now.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from meshsec import Mesh, Reason
from meshsec.cli import main
from meshsec.resources import load_mesh, parse

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
BLOCK: Final = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING: Final = re.compile(r"^#+ +(.*)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        """The file it is written to, if it says so."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    @property
    def runs(self) -> bool:
        """Whether it is executed."""
        return "run" in self.words


def blocks(page: Path) -> Iterator[Block]:
    """A page's fenced blocks that name a language."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[1], tuple(found[2].split()), found[3])


BLOCKS: Final = [block for page in PAGES for block in blocks(page)]


def name_of(item: Path | Block) -> str:
    """How a page or a block is called in a test's name."""
    if isinstance(item, Block):
        return f"{item.page.relative_to(ROOT)}:{item.line}"
    return str(item.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    titles = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading in it."""
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        file, _, fragment = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=name_of)
def test_python_is_python_and_what_it_imports_exists(block: Block) -> None:
    """Even a block that is not run can be compiled and imports only what meshsec has."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "meshsec":
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if alias.name != "*" and not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=name_of)
def test_yaml_loads(block: Block, tmp_path: Path) -> None:
    """Policies are parsed as policies, everything else as mesh.yaml."""
    if "apiVersion:" in block.text:
        assert parse(block.text, source=name_of(block))
        return
    (tmp_path / "mesh.yaml").write_text(block.text, encoding="utf-8")
    assert load_mesh(tmp_path).folder == tmp_path


PAGES_THAT_RUN: Final = [page for page in PAGES if any(block.runs for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=name_of)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written, code is executed and commands are given in the order of the page."""
    _mesh_for(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "a_page_of_the_documentation"}
    try:
        for block in blocks(page):
            _do(block, tmp_path, names)
    finally:
        for mesh in names.values():
            if isinstance(mesh, Mesh):
                mesh.close()


def _mesh_for(page: Path, folder: Path) -> None:
    if any(block.file and block.file.startswith("mesh/") for block in blocks(page)):
        (folder / "mesh").mkdir()
    else:
        shutil.copytree(ROOT / "examples" / "mesh", folder / "mesh")


def _do(block: Block, folder: Path, names: dict[str, object]) -> None:
    if block.file:
        target = folder / block.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, encoding="utf-8")
    if block.runs and block.language == "python":
        exec(compile(block.text, name_of(block), "exec"), names)
    elif block.runs and block.language == "console":
        assert block.text == _session(block.text)


def _session(text: str) -> str:
    """A console block as it is when its commands are given now."""
    session = []
    for line in text.splitlines():
        if line.startswith("$ "):
            program, *arguments = shlex.split(line[2:])
            assert program == "meshsec", f"{line}: only meshsec itself is run"
            session += [line, CliRunner().invoke(main, arguments).output.rstrip()]
    return "\n".join(session) + "\n"


def _renew(page: Path) -> None:
    """Write what the commands of a page print now into its console blocks."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _mesh_for(page, Path(folder))
        for block in blocks(page):
            if block.file:
                (Path(folder) / block.file).write_text(block.text, encoding="utf-8")
            if block.runs and block.language == "console":
                text = page.read_text(encoding="utf-8")
                page.write_text(text.replace(block.text, _session(block.text)), encoding="utf-8")


def test_every_reason_is_explained() -> None:
    """docs/reference/reasons.md has a row for each Reason, in the order of the enumeration."""
    rows = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/reference/reasons.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert rows == [str(reason) for reason in Reason]


if __name__ == "__main__":
    for page in PAGES_THAT_RUN:
        _renew(page)
