"""Keeps the worst language habits out."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("api", "benchmarks", "client", "core", "local", "migrations", "recipes", "tests", "worker")
VAGUE = ("one", "found", "about", "made", "known")
MAX_VAGUE = 20
OPENING = re.compile(r"(Of|What|Whose|Who|Those|That|How|As|Where|Which|Whom|For whom)\b")


def trees() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), parse(path)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yields docstrings, and the strings that document attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str()) as text):
                    yield text


def names(tree: ast.Module) -> Iterator[str]:
    """Yields variables where they are assigned, and arguments."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    bad = [
        f"{path}:{text.lineno}: {text.value}"
        for path, tree in trees()
        for text in docstrings(tree)
        if OPENING.match(str(text.value).strip())
    ]
    assert bad == []


def test_few_names_are_vague() -> None:
    counts = Counter({path: sum(name in VAGUE for name in names(tree)) for path, tree in trees()})
    assert counts.total() <= MAX_VAGUE, counts.most_common(20)
