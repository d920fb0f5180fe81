"""Unsaved changes of a data set: how they are described, taken back, and sent."""

import pytest

from api.dashboard.drafts import Draft

IMAGES = {"car": 4, "fruit": 20, "heart": 1}


def described(draft: Draft) -> list[str]:
    return [change.text for change in draft.changes(IMAGES)]


def test_draft_is_described_and_sent_as_one_edit() -> None:
    draft = Draft()
    assert described(draft) == []
    draft.toggle(7, "fruit")
    draft.toggle(3, "fruit")
    draft.toggle(9, "car")
    draft.added["ds_2"] = "Cars, 3 images"
    draft.drop("heart")
    draft.rename("fruit", "food")
    assert described(draft) == [
        "Remove 1 image of “car”.",
        "Remove 2 images of “fruit”.",
        "Add the images of “Cars, 3 images”.",
        "Remove the class “heart” with 1 image.",
        "Rename “fruit” to “food”.",
    ]
    assert draft.edit() == {
        "add": ["ds_2"],
        "remove": [3, 7, 9],
        "drop_classes": ["heart"],
        "rename_classes": {"fruit": "food"},
    }


def test_every_change_can_be_taken_back() -> None:
    draft = Draft()
    draft.toggle(7, "fruit")
    draft.toggle(9, "car")
    draft.added["ds_2"] = "Cars"
    draft.drop("heart")
    draft.rename("fruit", "food")
    while changes := draft.changes(IMAGES):
        changes[0].undo()
        assert described(draft) == [change.text for change in changes[1:]]
    assert draft == Draft()


def test_image_is_kept_by_a_second_press() -> None:
    draft = Draft()
    draft.toggle(7, "fruit")
    draft.toggle(7, "fruit")
    assert draft == Draft()


def test_removed_class_has_no_other_changes() -> None:
    """The API rejects the removal of a class that is already empty, or renamed."""
    draft = Draft()
    draft.toggle(7, "fruit")
    draft.rename("fruit", "food")
    draft.drop("fruit")
    assert described(draft) == ["Remove the class “fruit” with 20 images."]
    assert draft.note("fruit") == "Will be removed"
    draft.rename("fruit", "food")
    assert described(draft) == ["Rename “fruit” to “food”."]
    assert draft.note("fruit") == "Will become “food”"
    draft.rename("fruit", "fruit")
    assert draft == Draft()


def test_name_of_a_class_that_stays_merges_the_two() -> None:
    draft = Draft()
    draft.rename("car", "fruit")
    assert described(draft) == ["Merge “car” into “fruit”."]
    draft.drop("fruit")
    assert "Rename “car” to “fruit”." in described(draft)
    draft.clear()
    draft.rename("car", "fruit")
    draft.rename("fruit", "food")
    assert described(draft) == ["Rename “car” to “fruit”.", "Rename “fruit” to “food”."]


def test_draft_is_kept_as_text() -> None:
    draft = Draft()
    assert (draft.to_text(), Draft.from_text("")) == ("", draft)
    draft.toggle(7, "fruit")
    draft.added["ds_2"] = "Cars"
    draft.drop("heart")
    draft.rename("car", "food")
    assert Draft.from_text(draft.to_text()) == draft


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"removed": {"x": "fruit"}}', '{"dropped": [1]}'])
def test_broken_text_of_a_browser_is_no_draft(text: str) -> None:
    assert Draft.from_text(text).is_empty
