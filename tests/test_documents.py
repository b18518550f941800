"""Every document, file, folder, name and command that is named where a reader looks exists.

A reader looks into Markdown, docstrings and comments, the headers of sweep files, and the JSON schema. What counts as
a name of ours: a path that begins with one of ROOMS, a file of one of the KINDS, a dotted name below `harness` or
`analysis`, a command line of `harness`, `make` or `python -m`. Anything else (out/, a user's mine.yaml) is what commands
make or users bring, and is not looked for.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import io
import re
import shlex
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness import __version__, cli
from harness.config import RunConfig

ROOT = Path(__file__).parent.parent
ROOMS = ("harness", "analysis", "experiments", "tests", ".ci", ".github")
KINDS = (".md", ".py", ".toml", ".cff", ".ipynb")
PLACEHOLDERS = re.compile("NAME|RUN_ID")
"""What stands for any text within a path."""
Reader = Callable[[str, str], "Document"]
HISTORIES = ("LOG.md", "CHANGELOG.md")
"""They tell of what was there at their time: only their links are followed."""


@dataclass(frozen=True)
class Document:
    """A text that a reader reads: where it stands, all of it, and the parts of it that are code, each with whether it
    is a whole line to be typed."""

    place: str
    text: str
    code: tuple[tuple[str, bool], ...]

    @property
    def folder(self) -> Path:
        return (ROOT / self.place).parent


# -- what a reader reads -------------------------------------------------------------------------------------------------

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`+([^`]+)`+")


def inline(text: str) -> list[tuple[str, bool]]:
    return [(re.sub(r"\s+", " ", span), False) for span in INLINE.findall(text)]


def markdown(place: str, text: str) -> Document:
    """Blocks are lines to type, of Python and YAML apart; a span in a sentence may be a part of a command."""
    typed = [line for language, block in FENCE.findall(text) if not language for line in block.splitlines()]
    prose = FENCE.sub("", text)
    typed += [line.strip() for line in prose.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
    return Document(place, text, (*((line, True) for line in typed), *inline(prose)))


def python(place: str, source: str) -> Document:
    """Its docstrings, those of fields too, and its comments."""
    tree = ast.parse(source)
    strings = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    text = "\n".join([*strings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])
    return Document(place, text, tuple(inline(text)))


def sweep_file(place: str, source: str) -> Document:
    """Its comments; what follows `Command:` is to be typed, alternatives in brackets too."""
    text = "\n".join(re.findall(r"#(.*)", source))
    typed = [
        part.strip(" ()") for line in re.findall(r"Command:(.*)", text) for part in re.split(r"\(or:|;|\bthen\b", line)
    ]
    return Document(place, text, (*((line, True) for line in typed), *inline(text)))


def schema() -> Document:
    def descriptions(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("description"), str):
                yield node["description"]
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                yield from descriptions(each)

    text = "\n".join(descriptions(RunConfig.model_json_schema()))
    return Document("harness schema", text, tuple(inline(text)))


@cache
def files() -> tuple[Path, ...]:
    """The files of the repository: those at its root and in its rooms."""
    inside = (path for room in ROOMS for path in (ROOT / room).rglob("*") if "__pycache__" not in path.parts)
    return tuple(path for path in (*ROOT.iterdir(), *inside) if path.is_file())


@cache
def documents() -> tuple[Document, ...]:
    reading = {".md": markdown, ".py": python, ".yaml": sweep_file}
    paths = [path for path in files() if path.suffix in reading and path != Path(__file__)]
    texts = [(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"), path.suffix) for path in paths]
    return (*(reading[kind](place, text) for place, text, kind in texts), schema())


# -- what is named and not there -----------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def broken_links(document: Document) -> Iterator[str]:
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", document.text):
        path = document.folder / target if target else ROOT / document.place
        if not path.exists():
            yield f"link to {target}"
        elif anchor and anchor not in map(
            slug, re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        ):
            yield f"link to {target}#{anchor}"


@cache
def exists(folder: Path, name: str) -> bool:
    """Whether there is a file or folder of that name; `*` stands for any text."""
    return any(True for _ in folder.glob(name)) if "*" in name else (folder / name).exists()


def missing_files(document: Document) -> Iterator[str]:
    text = re.sub(r"\w+://\S+|\]\([^)]*\)", " ", document.text)
    for name in re.findall(r"(?<![\w./\-*])\.?[\w*][\w.*\-]*(?:/[\w.*\-]+)*/?", text):
        name = name.rstrip(".-")
        if (name.split("/")[0] in ROOMS and "/" in name) or Path(name.rstrip("/")).suffix in KINDS:
            sought = PLACEHOLDERS.sub("*", name).rstrip("/")
            if not (
                exists(ROOT, sought) or exists(document.folder, sought) or sought in {path.name for path in files()}
            ):
                yield name
    for title in re.findall(r"\b(?!YAML)([A-Z]{4,}) \d+\.\d", text):  # a section of a document, and no version of YAML
        if not any(path.name == f"{title}.md" for path in files()):
            yield f"{title}.md"


def missing_names(document: Document) -> Iterator[str]:
    for span, _ in document.code:
        for name in re.findall(r"(?<![\w./\-])((?:harness|analysis)(?:\.[A-Za-z_]\w*)+)(?![\w/\-]|\.\w)", span):
            if not is_defined(name):
                yield name


@cache
def is_defined(name: str) -> bool:
    """Whether a dotted name is a module, or can be reached as an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(found, attribute):
                return attribute in getattr(found, "__annotations__", {})
            found = getattr(found, attribute)
        return True
    return False


def bad_commands(document: Document) -> Iterator[str]:
    for span, whole in document.code:
        if match := re.search(r"(?:^|[\s/])harness ([a-z\-].*)", span):
            yield from bad_harness_command(match[1], whole)
        for target in re.findall(r"(?:^|\s)make ([a-z][\w-]*)(?![\w=])", span):
            if not re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
                yield f"make {target}"
        for module in re.findall(r"python\S* -m ([a-z][\w.]*)", span):
            if not is_importable(module):
                yield f"python -m {module}"


@cache
def is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def bad_harness_command(text: str, whole: bool) -> Iterator[str]:
    """A line to type must be parsed as a whole; of a command in a sentence the subcommand and the options must exist."""
    try:
        words = shlex.split(re.split(r"[|>&]", text)[0], comments=True)
    except ValueError:  # an apostrophe: a sentence
        words = text.split()
    parser, left = cli._parser(), list(words)
    while left and (below := subcommands(parser)) and not left[0].startswith("-"):
        if left[0] not in below:
            yield f"harness {text}: {left[0]}"
            return
        parser = below[left.pop(0)]
    unknown = [
        word for word in left if word.startswith("--") and word.split("=")[0] not in parser._option_string_actions
    ]
    if unknown:
        yield f"harness {text}: {' '.join(unknown)}"
    elif whole:
        try:
            cli._parser().parse_args(words)
        except SystemExit as stop:
            if stop.code:
                yield f"harness {text}: not parsed"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(below[0].choices) if below else {}


def missing(document: Document) -> list[str]:
    """What a document names and is not there."""
    found = list(broken_links(document))
    if Path(document.place).name not in HISTORIES:
        found += [*missing_files(document), *missing_names(document), *bad_commands(document)]
    return [f"{document.place}: {each}" for each in found]


# -- the tests -----------------------------------------------------------------------------------------------------------


def test_what_is_named_exists() -> None:
    assert [each for document in documents() for each in missing(document)] == []


def test_every_document_is_read() -> None:
    read = {document.place for document in documents()}
    assert read >= {"README.md", "CONTRIBUTING.md", "experiments/QUESTION.md", "experiments/quickstart.yaml"}
    assert read >= {"harness/cli.py", "analysis/__init__.py", "tests/conftest.py", "harness schema"}


@pytest.mark.parametrize(
    ("reader", "text", "names"),
    [
        (markdown, "see [it](experiments/NOTHING.md)", "link to experiments/NOTHING.md"),
        (markdown, "see [it](README.md#no-such-part)", "link to README.md#no-such-part"),
        (markdown, "as SCIENCE.md says", "SCIENCE.md"),
        (markdown, "in `harness/nothing.py`", "harness/nothing.py"),
        (markdown, "in `experiments/nothing/`", "experiments/nothing/"),
        (markdown, "in experiments/results/no_*/", "experiments/results/no_*/"),
        (markdown, "call `harness.nothing.load`", "harness.nothing.load"),
        (markdown, "call `harness.config.RunConfiguration`", "harness.config.RunConfiguration"),
        (markdown, "type `harness trian`", "harness trian: trian"),
        (markdown, "type `harness sweep --dry`, twice", "harness sweep --dry: --dry"),
        (markdown, "type `harness bench wings`", "harness bench wings: wings"),
        (markdown, "so:\n\n    .venv/bin/harness status --watch\n", "harness status --watch: not parsed"),
        (markdown, "so:\n\n```\nharness evaluate x --weights best  # or so\n```\n", "harness evaluate x --weights best  # or so: not parsed"),
        (markdown, "type `make nothing`", "make nothing"),
        (markdown, "type `python -m nothing`", "python -m nothing"),
        (python, '"""As ARCHITECTURES.md has it."""', "ARCHITECTURES.md"),
        (python, "x = 1  # (ARCHITECTURES 1.6)", "ARCHITECTURES.md"),
        (python, 'x: int = 1\n"""See `harness trian`."""', "harness trian: trian"),
        (sweep_file, "# Command: harness sweep\nmethod: grid", "harness sweep: not parsed"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_found(reader: Reader, text: str, names: str) -> None:
    assert missing(reader("sample", text)) == [f"sample: {names}"]


@pytest.mark.parametrize(
    "text",
    [
        "written to `out/quickstart/runs/RUN_ID/config.json`, and `mine.yaml` is yours",
        "the metric `train/loss`, this harness makes, see https://example.org/harness/nothing.md",
        "[words](experiments/QUESTION.md#words), `experiments/claims/NAME.yaml`, `tests/`, LOG.md",
        "`harness COMMAND --help`, `harness sweep`, `make PYTHON=python3.12 ...`, `harness.store`",
        "so:\n\n    harness schema > run.schema.json\n    harness run model.width=0.125 --out out/x   # trains\n",
    ],
)
def test_what_is_there_or_not_ours_is_let_be(text: str) -> None:
    assert missing(markdown("sample", text)) == []


def test_the_readme_names_every_command() -> None:
    named = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in subcommands(cli._parser()) if f"harness {name}" not in named] == []


def test_the_citation_has_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
