"""Dialog that imports a data set from other hosts, where the operator allows it."""

from nicegui import app, ui

from api.dashboard import datasets, kit
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog, text_of
from api.dashboard.texts import tr, tr_all
from api.dashboard.user import User
from api.deps import Services

_SOURCES = {"images": "A list of URLs", "bucket": "A public S3 bucket"}
_URL_LENGTH, _PREFIX_LENGTH = 4000, 1000


def import_button(user: User, domain_id: str) -> None:
    """Adds a button that opens the dialog, if imports are allowed."""
    services: Services = app.state.main.state.services
    if services.settings.dataset_import_hosts:
        kit.button(tr("Import from other hosts"), lambda: _ask(user, domain_id), kind="quiet")


def _ask(user: User, domain_id: str) -> None:
    async def submit() -> None:
        is_bucket = source.value == "bucket"
        form = Form(name=name, **({"url": url, "prefix": prefix} if is_bucket else {"images": images}))
        if not form.is_valid():
            return
        with form.showing_problems():
            api, title = user.api.datasets, text_of(name)
            if is_bucket:
                dataset = await api.import_bucket(domain_id, url.value.strip(), prefix.value.strip(), name=title)
            else:
                dataset = await api.import_images(domain_id, _parsed(images.value), name=title)
            ui.navigate.to(datasets.path_of(dataset))

    with form_dialog(tr("Import from other hosts"), tr("Import"), submit):
        source = kit.choice(tr("Source"), tr_all(_SOURCES), "images")
        images = kit.field(
            tr("Images"),
            placeholder="fruit https://images.example.com/apple.png",
            hint=tr("One line per image: the class, a space, the URL."),
            lines=6,
        )
        images.validation = _problem
        url = kit.field(
            tr("URL of the bucket"),
            placeholder="https://drawings.s3.eu-central-1.amazonaws.com",
            hint=tr("Everyone must be allowed to list and read it."),
            needed=tr("Enter a URL."),
            most=_URL_LENGTH,
        )
        prefix = kit.field(
            tr("Folder in the bucket"), hint=tr("The folders in it are the classes."), most=_PREFIX_LENGTH
        )
        name = kit.field(tr("Name"), most=NAME_LENGTH)
        images.bind_visibility_from(source, "value", value="images")
        for field in (url, prefix):
            field.bind_visibility_from(source, "value", value="bucket")


def _problem(text: str | None) -> str | None:
    """Returns what is wrong with a list of images: the first line that is not of the expected form."""
    lines = _lines(text or "")
    for line in lines:
        if len(line.rsplit(maxsplit=1)) < 2:
            return tr("“{line}” needs a class, a space and a URL.", line=line[:80])
    return None if lines else tr("Enter a URL.")


def _parsed(text: str) -> list[tuple[str, str]]:
    """Returns the URL and the class name of each line."""
    return [(url, label) for label, url in (line.rsplit(maxsplit=1) for line in _lines(text))]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
