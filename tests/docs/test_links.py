"""Links within the documents point to existing files and headings."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.service.config import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for pattern in ("*.md", "client/*.md", "core/**/*.md", "docs/**/*.md", "recipes/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def links(document: Path) -> Iterator[str]:
    """Yields the targets of links and images, outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(document: Path) -> set[str]:
    """Returns the anchors of the document's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_existing_targets(document: Path) -> None:
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_documents_contain_links() -> None:
    assert sum(1 for document in DOCUMENTS for _ in links(document)) > 20


def test_settings_that_documents_name_exist() -> None:
    server_settings = {f"DIFFFIT_{name.upper()}" for name in Settings.model_fields}
    client_settings = {"DIFFFIT_URL", "DIFFFIT_API_KEY", "DIFFFIT_PROFILE", "DIFFFIT_CONFIG"}
    for document in DOCUMENTS:
        named = set(re.findall(r"\bDIFFFIT_[A-Z0-9_]*[A-Z0-9]\b", document.read_text()))
        assert named <= server_settings | client_settings, (document, named - server_settings - client_settings)


def test_error_codes_of_the_guide_exist() -> None:
    rows = re.findall(r"^\| [\d, ]+ \| (`.+?`) \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert named
    modules = [ROOT / "api/errors.py", *ROOT.glob("core/**/errors.py")]
    codes = {code for path in modules for code in re.findall(r'code, (?:status, )?title = "(\w+)"', path.read_text())}
    assert named <= codes
