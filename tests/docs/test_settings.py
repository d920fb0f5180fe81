"""The document of the settings matches their declaration."""

from tests.docs import settings


def test_document_of_the_settings_is_current() -> None:
    """`python -m tests.docs.settings` writes it again."""
    assert settings.PAGE.read_text() == settings.page()


def test_every_section_begins_with_an_existing_setting() -> None:
    assert set(settings.SECTIONS) <= {name for name, _ in settings.documented()}
