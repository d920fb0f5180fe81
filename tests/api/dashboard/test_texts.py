"""Texts of the pages: the catalogue of each language is complete, and the browser chooses the language."""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from jinja2 import Environment, nodes
from starlette.requests import Request

import api.dashboard
import core
from api.dashboard.texts import catalogues, of_request, tr
from core.service.datasets.checks import WARNINGS
from tests.api.client import (
    ADMIN_KEY,
    PNG_START,
    Api,
    Client,
    adapter_file,
    draw_generations,
    images_zip,
    png,
    validate_datasets,
    zip_of,
)
from tests.api.dashboard.conftest import Browser
from tests.api.dashboard.test_uploads import begin, send

GERMAN = {"Accept-Language": "de-DE,de;q=0.9,en;q=0.8"}
SHOWN = {
    *(
        "badge",
        "button",
        "link_button",
        "write",
        "muted",
        "empty",
        "card",
        "field",
        "number",
        "fraction",
        "choice",
        "said",
        "bar",
    ),
    *("dialog", "form_dialog", "confirm", "refused", "delete_button", "table", "link", "checkbox", "skip_link"),
}
"""Functions that show their first arguments to the user."""
UNTRANSLATED = {"", "#", "DiffFit", "URL", "Id"}
PLURALS = {"files", "requests", "workers", "tests", "times", "days", "types"}
"""Texts that `words.several` makes."""
CODED = {"Refused": 0, "ArchiveInvalid": 0, "DeliveryFailed": 0, "Remark": 1}
"""Classes of messages with codes, and the positions of the codes among the arguments."""
OTHER_CODES = {"internal_error", "bad_request", "value_error", "gone", "failing"}
"""Codes of unexpected errors, of invalid requests, and of webhooks that the service has disabled."""
WITHOUT = {f"without_{name}" for name in ("base", "broker", "storage", "worker")}
"""Warnings of `/readyz`."""
NOT_SHOWN = {
    *("backup_failed", "base_missing", "checkpoint_invalid", "database_role_unfit", "database_sign_in_rejected"),
    "scratch_too_small",
    *("idempotency_mismatch", "unsupported_media_type"),
}
"""Codes of errors at the start of a process, and of requests that pages do not send."""


def modules() -> Iterator[ast.Module]:
    for path in Path(api.dashboard.__file__).parent.glob("**/*.py"):
        yield ast.parse(path.read_text("utf-8"))


def templates() -> Iterator[nodes.Template]:
    for path in Path(api.dashboard.__file__).parent.glob("templates/*.html"):
        yield Environment(autoescape=True).parse(path.read_text("utf-8"))


def in_templates() -> set[str]:
    """Returns the texts that the templates of plain pages translate."""
    told = (call for template in templates() for call in template.find_all(nodes.Call))
    arguments = [call.args[0] for call in told if isinstance(call.node, nodes.Name) and call.node.name == "tr"]
    return {each.value for each in arguments if isinstance(each, nodes.Const)}


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def literals(node: ast.AST) -> set[str]:
    nodes = ast.walk(node)
    return {each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def calls() -> Iterator[ast.Call]:
    return (node for module in modules() for node in ast.walk(module) if isinstance(node, ast.Call))


def constants() -> Iterator[tuple[str, ast.expr]]:
    """Yields the names and the values of the modules' dictionaries, without their keys."""
    for node in (node for module in modules() for node in module.body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name):
            yield from ((node.targets[0].id, value) for value in node.value.values)


def codes() -> set[str]:
    """Returns the codes of all messages of the API that a page may show."""
    raised: set[str] = set()
    root = Path(core.__file__).parents[1]
    for path in (*root.glob("core/**/*.py"), *root.glob("api/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and name_of(node) in CODED:
                raised |= literals(node.args[CODED[name_of(node)]])
            elif isinstance(node, ast.ClassDef):
                raised |= {code for statement in node.body for code in assigned_codes(statement)}
    return (raised | {*WARNINGS} | OTHER_CODES | WITHOUT) - NOT_SHOWN - {""}


def assigned_codes(statement: ast.stmt) -> set[str]:
    """Returns the text that a statement such as `code, status = "conflict", 409` assigns to `code`."""
    if not isinstance(statement, ast.Assign):
        return set()
    target, value = statement.targets[0], statement.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        target, value = target.elts[0], value.elts[0]
    return literals(value) if ast.unparse(target) == "code" else set()


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("code", catalogues())
def test_catalogue_has_every_text_of_the_code_and_no_other(code: str) -> None:
    texts = catalogues()[code].texts
    said = {word for call in calls() if name_of(call) == "tr" for word in literals(call.args[0])}
    said |= {word for call in calls() if name_of(call) == "several" for arg in call.args[1:] for word in literals(arg)}
    options = {ast.unparse(call.args[0]).rpartition(".")[2] for call in calls() if name_of(call) == "tr_all"}
    said |= {word for name, value in constants() if name in options for word in literals(value)}
    said |= in_templates()
    missing = {text for text in said if re.search("[A-Za-z]{2}", text)} - set(texts)
    assert not missing
    assert set(texts) <= {text for module in modules() for text in literals(module)} | in_templates() | PLURALS
    assert all(texts.values())
    wrong = {text for text, translated in texts.items() if fields(text) != fields(translated)}
    assert not wrong


def test_every_text_that_is_shown_is_in_the_page_language() -> None:
    """Checks the literals only: other arguments are names that users gave, or translated elsewhere."""
    shown = (arg for call in calls() if name_of(call) in SHOWN and name_of(call) != "badge" for arg in call.args[:2])
    plain = [arg for arg in shown if isinstance(arg, ast.Constant | ast.JoinedStr)]
    said = {arg.value for arg in plain if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    assert not {text for text in said if re.match("[A-Z]", text)} - UNTRANSLATED
    written = "".join(data.data for template in templates() for data in template.find_all(nodes.TemplateData))
    text = re.sub("<script.*?</script>|<[^>]*>", " ", written, flags=re.DOTALL)
    assert set(text.split()) <= {"·", "DiffFit"}
    for arg in (arg for arg in plain if isinstance(arg, ast.JoinedStr)):
        parts = "".join(part.value for part in arg.values if isinstance(part, ast.Constant))
        assert parts.startswith("/") or not re.search("[A-Za-z]{2}", parts), ast.unparse(arg)


@pytest.mark.parametrize(
    ("header", "decimal"),
    [("de", ","), ("de-AT, en;q=0.5", ","), ("en-GB, de", "."), ("fr, de;q=0.4, en;q=0.3", ","), ("fr", "."), ("", "."),
     ("de;q=0", "."), ("de;q=x, en", "."), ("EN;q=0.1, DE;q=0.2", ","), (",;q=,", ".")],
)  # fmt: skip
def test_browser_chooses_the_language(header: str, decimal: str) -> None:
    request = Request({"type": "http", "headers": [(b"accept-language", header.encode())]})
    assert of_request(request).decimal == decimal


def test_numbers_are_written_as_the_language_does() -> None:
    assert catalogues()["de"].number(1234.5, ",.2f") == "1.234,50"
    assert tr("{step:,} of {steps:,}", step=1000, steps=20) == "1,000 of 20"


@pytest.mark.parametrize("code", catalogues())
def test_catalogue_has_a_sentence_for_every_code_of_the_api_and_no_other(code: str) -> None:
    problems = catalogues()[code].problems
    assert set(problems) == codes()
    assert {field for text in problems.values() for field in fields(text)} <= {"detail"}


def test_message_without_a_sentence_stays_as_it_is() -> None:
    german = catalogues()["de"]
    assert german.problem("from_the_future", "It is so.") == "It is so."
    assert german.problem("invalid_request", "x: {y}") == "Ungültige Angabe. x: {y}"


@pytest.fixture
def tenant(pages: Api, browser: Browser, request: pytest.FixtureRequest) -> Client:
    tenant = pages.tenant(f"Zoë {request.node.name}")
    browser.http.headers.update(GERMAN)
    browser.sign_in(tenant.headers["Authorization"].removeprefix("Bearer "))
    return tenant


def check(page: httpx.Response) -> None:
    """Checks that a page is in German, and contains none of the longer English texts."""
    assert page.status_code == 200
    assert '<html lang="de"' in page.text
    german = catalogues()["de"].texts
    english = {text for text, said in german.items() if " " in text and "{" not in text and text not in said}
    assert not {text for text in english if text in page.text}


def test_pages_of_a_tenant_are_german(browser: Browser, pages: Api, tenant: Client) -> None:
    check(browser.get("/dashboard/domains"))
    domain = tenant.made("/v1/domains", {"name": "Köpfe"})["id"]
    dataset = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip()).json()["id"]
    check(browser.get(f"/dashboard/domains/{domain}/images"))
    validate_datasets(pages.services)
    for distilled in (None, 2.5):
        file = adapter_file(distill_guidance=distilled)
        version = tenant.upload(f"/v1/domains/{domain}/adapters", file).json()["id"]
    tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0})
    draw_generations(pages.services)
    finetune = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "distill_guidance": 2})["id"]
    tenant.made(f"/v1/finetunes/{finetune}/cancel")
    webhook = tenant.made("/v1/webhooks", {"url": "https://93.184.216.34/hook"})["id"]
    steps = ("images", "training", "versions", "playground", f"playground?adapter_id={version}", "gallery", "compare")
    paths = [f"/domains/{domain}/{step}" for step in (*steps, f"datasets/{dataset}")]
    paths += ["/domains", "/gallery", "/usage", "/webhooks", f"/webhooks/{webhook}", f"/finetunes/{finetune}"]
    for path in paths:
        check(browser.get(f"/dashboard{path}"))
    assert "Köpfe" in browser.get("/dashboard/domains").text


def test_errors_of_the_api_are_german(browser: Browser, pages: Api, tenant: Client) -> None:
    missing = browser.get("/dashboard/domains/dom_none/images").text
    assert ("Das gibt es nicht" in missing, "There is no domain 'dom_none'" in missing) == (True, True)
    assert "Not found" not in missing
    domain = tenant.made("/v1/domains", {"name": "Köpfe"})["id"]
    upload = begin(browser, domain, b"no zip")["id"]
    etag = send(browser, domain, "PUT", f"{upload}/parts/1", content=b"no zip").headers["etag"]
    refused = send(browser, domain, "POST", f"{upload}/complete", json={"parts": [{"number": 1, "etag": etag}]}).json()
    assert refused["title"] == "Upload abgelehnt"
    assert refused["detail"].startswith("Das ist kein lesbares Zip.")
    files = {f"apple/{index}.png": png(index) for index in range(2)} | {"apple/torn.png": PNG_START}
    tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(files))
    validate_datasets(pages.services)
    shown = browser.get(f"/dashboard/domains/{domain}/images").text
    assert "Klassen mit weniger als 5 Bildern" in shown


def test_pages_of_an_administrator_are_german(browser: Browser, pages: Api, tenant: Client) -> None:
    check(browser.get("/dashboard/domains"))
    browser.sign_in(ADMIN_KEY)
    id = pages.admin.read("/v1/admin/tenants")["data"][0]["id"]
    for path in ("/tenants", f"/tenants/{id}", "/adapters", "/fleet", "/audit", "/audit?tenant_id=Zo"):
        check(browser.get(f"/dashboard{path}"))


def test_pages_without_a_session_are_german(browser: Browser) -> None:
    browser.http.headers.update(GERMAN)
    for path in ("/sign-in?problem=unauthenticated", "/sign-in?problem=ended"):
        check(browser.get(f"/dashboard{path}"))
    missing = browser.get("/dashboard/nothing/here")
    assert ('<html lang="de"' in missing.text, "Seite nicht gefunden" in missing.text) == (True, True)
    browser.http.headers.update({"Accept-Language": "en"})
    assert '<html lang="en-US"' in browser.get("/dashboard/sign-in").text
