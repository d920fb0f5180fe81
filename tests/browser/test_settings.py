"""Settings of fine-tunes and generations: how they are chosen and kept, and the requests that they become."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from difffit.requests import FINETUNE_DEFAULTS
from tests.browser.conftest import LONG, Dashboard, Visitor, domain_with_version


@pytest.fixture(scope="module")
def domain(visitor: Visitor) -> Iterator[str]:
    """Yields the id of a domain with a version."""
    with domain_with_version(visitor, "Settings", {"fruit": 8, "heart": 4}) as created:
        yield created


def newest(visitor: Visitor, domain: str, noun: str) -> dict[str, object]:
    row: dict[str, object] = visitor.caller.get(f"/v1/domains/{domain}/{noun}")["data"][0]
    return row


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


def choose(page: Page, label: str, option: str) -> None:
    field(page, label).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_training_form_starts_with_the_defaults_of_the_api(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/training")
    expect(field(page, "Start from")).to_have_value("The base model")
    field(page, "Batch size").fill("3")
    expect(page.get_by_text("shows it each image")).to_be_visible()
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/finetunes/**")
    started = newest(visitor, domain, "finetunes")
    visitor.caller.send("POST", f"/v1/finetunes/{started['id']}/cancel")
    expected = {**FINETUNE_DEFAULTS, "batch_size": 3, "early_stopping": None, "from_adapter_id": None}
    assert {name: started[name] for name in expected} == expected


def test_training_continues_from_a_version(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    version = newest(visitor, domain, "adapters")
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/finetunes/{version['finetune_id']}")
    page.get_by_role("link", name="Continue from it").click()
    expect(field(page, "Start from")).to_have_value(f"Version {version['version']}")
    field(page, "Batch size").fill("4")
    suggestion = page.get_by_role("button", name="Use the suggested")
    expect(suggestion).to_have_text("Use the suggested 240 steps")
    suggestion.click()
    expect(field(page, "Steps")).to_have_value("240")
    expect(suggestion).to_have_count(0)
    page.get_by_text("More settings").click()
    expect(field(page, "Preset")).to_be_hidden()
    choose(page, "Equally often", "Every class")
    choose(page, "Keep", "The last step")
    field(page, "Test every").fill("2")
    field(page, "Stop early after").fill("2")
    dashboard.keep("training-settings")
    field(page, "Steps").fill("4")
    expect(page).to_have_url(re.compile("steps=4(&|$)"))

    page.reload()
    page.get_by_text("More settings").click()
    for label, value in (("Keep", "The last step"), ("Test every", "2"), ("Stop early after", "2"), ("Steps", "4")):
        expect(field(page, label)).to_have_value(value)
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/finetunes/**")
    expect(page.get_by_text("Started from")).to_be_visible()
    expect(page.get_by_text(f"Version {version['version']}", exact=True)).to_be_visible()
    started = newest(visitor, domain, "finetunes")
    expected = {"steps": 4, "sampling": "balanced", "keep": "last", "evaluate_every": 2, "early_stopping": 2}
    assert {name: started[name] for name in expected} == expected
    assert started["from_adapter_id"] == version["id"]
    assert visitor.caller.wait(f"/v1/finetunes/{started['id']}", "queued", "running")["status"] == "succeeded"


def test_seed_is_random_until_it_is_chosen(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/playground")
    field(page, "Images").fill("1")
    field(page, "Steps").fill("2")
    generate = page.get_by_role("button", name="Generate", exact=True)
    cards = page.locator("[data-generation]")
    seeds: list[object] = []
    for count in (1, 2):
        generate.click()
        expect(cards).to_have_count(count)
        seeds.append(newest(visitor, domain, "generations")["seed"])
        expect(cards.first).to_contain_text(f"seed {seeds[-1]},")
    assert seeds[0] != seeds[1]
    expect(cards.last.locator("img[src*='/images/']")).to_be_visible(timeout=LONG)
    cards.last.get_by_role("button", name="Use this seed").click()
    expect(field(page, "First seed")).to_have_value(str(seeds[0]))
    field(page, "Strength").fill("1.6")
    expect(page.get_by_text("Enter a number from 0 to 1.5.")).to_be_visible()
    field(page, "Strength").fill("0.5")
    expect(page).to_have_url(re.compile("adapter_scale=0.5"))
    page.reload()
    expect(field(page, "First seed")).to_have_value(str(seeds[0]))
    generate.click()
    expect(cards.first).to_contain_text("strength 0.5")
    generation = newest(visitor, domain, "generations")
    assert (generation["seed"], generation["adapter_scale"]) == (seeds[0], 0.5)
    expect(cards.first.locator("img[src*='/images/']")).to_be_visible(timeout=LONG)
    cards.first.get_by_role("button", name="Settings of image 1").click()
    expect(page.get_by_role("dialog")).to_contain_text("Strength")


def test_two_versions_are_mixed(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    """The other version belongs to another domain. The settings of the image fill the form again."""
    with domain_with_version(visitor, "Mixed in", {"fruit": 2, "star": 2}) as other:
        mixed = newest(visitor, other, "adapters")
        page = dashboard.sign_in()
        page.goto(f"{dashboard.url}/domains/{domain}/playground")
        choose(page, "Class", "heart")
        versions = visitor.caller.get(f"/v1/domains/{domain}/adapters")["data"]  # other tests may have trained some
        expect(field(page, "Mix with")).to_be_visible(visible=len(versions) > 1)
        choose(page, "Class", "fruit")
        field(page, "Steps").fill("2")
        field(page, "Images").fill("1")
        weight = page.get_by_role("slider", name="Weight of the other version")
        expect(weight).to_be_hidden()
        choose(page, "Mix with", "Mixed in: Version 1")
        expect(page.get_by_text("Weight of the other version: 50%")).to_be_visible()
        weight.locator("[tabindex]").press("ArrowRight")
        expect(page.get_by_text("Weight of the other version: 55%")).to_be_visible()
        expect(page).to_have_url(re.compile("mix_weight=0.55"))
        page.get_by_role("button", name="Generate", exact=True).click()
        card = page.locator("[data-generation]").first
        expect(card).to_contain_text("mixed with 55% of Mixed in: Version 1")
        generation = newest(visitor, domain, "generations")
        assert (generation["mix_adapter_id"], generation["mix_weight"]) == (mixed["id"], 0.55)
        expect(card.locator("img[src*='/images/']")).to_be_visible(timeout=LONG)
        dashboard.keep("mix")
        card.get_by_role("button", name="Settings of image 1").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Version 1, mixed with 55% of Mixed in: Version 1")
        dialog.get_by_role("link", name="Use these settings").click()
        page.wait_for_url("**mix_adapter_id=**")
        expect(field(page, "Mix with")).to_have_value("Mixed in: Version 1")
        expect(page.get_by_text("Weight of the other version: 55%")).to_be_visible()


def test_noise_is_asked_of_the_sampler_that_takes_it(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/playground")
    generate = page.get_by_role("button", name="Generate", exact=True)
    expect(field(page, "Noise")).to_be_hidden()
    choose(page, "Sampler", "ddim")
    field(page, "Steps").fill("2")
    field(page, "Images").fill("1")
    field(page, "Noise").fill("7")
    generate.click()
    expect(field(page, "Noise")).to_be_focused()
    count = len(visitor.caller.get(f"/v1/domains/{domain}/generations")["data"])
    field(page, "Noise").fill("0.5")
    generate.click()
    cards = page.locator("[data-generation]")
    expect(cards).to_have_count(count + 1)
    assert newest(visitor, domain, "generations")["eta"] == 0.5
    field(page, "Noise").fill("7")
    choose(page, "Sampler", "dpmpp_2m")
    generate.click()
    expect(cards).to_have_count(count + 2)
    assert newest(visitor, domain, "generations")["eta"] == 0
    expect(cards.first.locator("img[src*='/images/']")).to_be_visible(timeout=LONG)


def test_learned_guidance_is_trained_shown_and_used(dashboard: Dashboard, visitor: Visitor, domain: str) -> None:
    page = dashboard.sign_in()
    page.goto(f"{dashboard.url}/domains/{domain}/training?steps=4&batch_size=2&train_class_table=false")
    page.get_by_text("More settings").click()
    expect(field(page, "Guidance steps")).to_be_hidden()
    expect(page.get_by_role("checkbox", name="Train the class embeddings")).not_to_be_checked()
    field(page, "Learn guidance up to").fill("3")
    field(page, "Guidance steps").fill("2")
    dashboard.keep("training-guidance")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/finetunes/**")
    started = newest(visitor, domain, "finetunes")
    expected = {"distill_guidance": 3, "distill_steps": 2, "train_class_table": False}
    assert {name: started[name] for name in expected} == expected
    expect(page.get_by_text("up to 3, in the last 2 steps")).to_be_visible()
    page.get_by_role("link", name="Generate with it").click(timeout=LONG)

    expect(page.get_by_role("status").filter(has_text="learned guidance up to 3")).to_be_visible()
    expect(field(page, "Guide against")).to_be_hidden()
    expect(field(page, "Guidance")).to_have_value("3")
    field(page, "Guidance").fill("3.5")
    expect(page.get_by_text("Enter a number from 1 to 3.")).to_be_visible()
    field(page, "Guidance").fill("2")
    field(page, "Steps").fill("2")
    field(page, "Images").fill("1")
    dashboard.keep("playground-guidance")
    page.get_by_role("button", name="Generate", exact=True).click()
    card = page.locator("[data-generation]").first
    expect(card).to_contain_text("guidance 2, learned")
    expect(card.locator("img[src*='/images/']")).to_be_visible(timeout=LONG)
    card.get_by_role("button", name="Settings of image 1").click()
    page.get_by_role("link", name="Use these settings").click()
    expect(field(page, "First seed")).not_to_have_value("")
    expect(field(page, "Guidance")).to_have_value("2")
    choose(page, "Version", "Active (version 1)")
    expect(field(page, "Guide against")).to_be_visible()
    field(page, "Guidance").fill("7")
    expect(page.get_by_text("Enter a number from")).to_have_count(0)
    page.goto(f"{dashboard.url}/domains/{domain}/versions")
    expect(page.get_by_text("Learned guidance up to 3")).to_be_visible()
