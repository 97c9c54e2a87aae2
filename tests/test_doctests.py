"""Every example runs: those in docstrings, and those in the documents of the repository."""

import doctest
import importlib
import io
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import rlgen
from rlgen.generative import capabilities, catalogue

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def docstrings() -> Iterator[ParameterSet]:
    for info in pkgutil.walk_packages(rlgen.__path__, "rlgen."):
        for example in doctest.DocTestFinder().find(importlib.import_module(info.name)):
            if example.examples:
                yield pytest.param(example, id=example.name.removeprefix("rlgen."))


@pytest.mark.parametrize("example", list(docstrings()))
def test_docstring(example: doctest.DocTest) -> None:
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, _ = runner.run(example, out=report.write)
    assert not failed, report.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_document(document: Path) -> None:
    """The blocks of one document are one program, and read nothing of the repository."""
    text = document.read_text()
    namespace = {"__name__": "__document__"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert blocks
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        code = "\n" * line + block[1]  # so that a traceback shows the document's line
        exec(compile(code, document, "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_what_a_document_points_at_exists(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    scripts = re.findall(r"(?:bash|python) (\S+\.(?:sh|py)|\.ci/run)", text)
    files = re.findall(r"`((?:rlgen|tests|scripts)/[\w./]+)`", text)
    for name in [*links, *scripts, *files]:
        assert (ROOT / name).exists(), name


def test_the_readme_is_right_about_capabilities() -> None:
    """Rows such as: | `Density` | `log_prob(x)` | ... | `MADE`, `MAF` |"""
    families = {family.name: family.cls for family in catalogue()}
    rows = re.findall(r"^\| `(\w+)` \| .*\| (.*) \|$", DOCUMENTS[0].read_text(), re.MULTILINE)
    assert rows
    for capability, examples in rows:
        for name in re.findall(r"`(\w+)`", examples):
            assert capability.lower() in capabilities(families[name]), f"{name}: {capability}"
