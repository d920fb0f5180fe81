"""Page that compares two versions of a domain: how they were trained, their losses, and images of the same seeds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.chart import compared_losses
from api.dashboard.comparison import Comparison
from api.dashboard.domain import domain_frame, find, usable_versions
from api.dashboard.frame import page
from api.dashboard.texts import number, tr
from api.dashboard.user import TenantUser, User, or_none
from difffit.models import Adapter, Dataset, Domain, Finetune, Metrics

_UNKNOWN = "–"


@page("/domains/{id}/compare")
async def compare(user: TenantUser, id: str, left: str = "", right: str = "", drawn: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Versions"):
        versions = await usable_versions(user, domain, left, right)
        if len(versions) < 2:
            kit.empty(tr("Nothing to compare yet"), tr("A comparison needs two versions. Every fine-tune creates one."))
            return
        first = versions.get(left) or versions.get(domain.active_adapter_id or "") or next(iter(versions.values()))
        others = [version for version in versions.values() if version is not first]
        second = versions[right] if right in versions and versions[right] is not first else others[0]
        _choices(domain, versions, first, second)
        _show_trainings(await asyncio.gather(_training(user, first), _training(user, second)))
        comparison = Comparison(user, domain, [first, second])
        comparison.build()
        await comparison.restore(drawn)


def _choices(domain: Domain, versions: dict[str, Adapter], first: Adapter, second: Adapter) -> None:
    names = {id: words.version(version) for id, version in versions.items()}
    if domain.active_adapter_id in names:
        names[domain.active_adapter_id] = tr("{version} (active)", version=names[domain.active_adapter_id])
    with kit.card(tr("Compare two versions")):
        with kit.box("fields"):
            left = kit.choice(tr("First version"), names, first.id)
            right = kit.choice(tr("Second version"), names, second.id)

        def show() -> None:
            path = f"/domains/{domain.id}/compare"
            ui.navigate.to(kit.with_query(path, {"left": left.value, "right": right.value}))

        with kit.box("row"):
            kit.button(tr("Compare"), show, kind="primary")
            kit.link_button(tr("All versions"), f"/domains/{domain.id}/versions")


@dataclass(frozen=True)
class _Training:
    """Version with its fine-tune, which uploaded versions lack, and with the fine-tune's losses and data set."""

    version: Adapter
    finetune: Finetune | None
    metrics: Metrics | None
    dataset: Dataset | None


async def _training(user: User, version: Adapter) -> _Training:
    finetune = await or_none(user.api.finetunes.get(version.finetune_id)) if version.finetune_id else None
    if finetune is None:
        return _Training(version, None, None, None)
    metrics, dataset = await asyncio.gather(
        or_none(user.api.finetunes.metrics(finetune.id)), or_none(user.api.datasets.get(finetune.dataset_id))
    )
    return _Training(version, finetune, metrics, dataset)


def _show_trainings(trainings: Sequence[_Training]) -> None:
    names = [words.version(training.version) for training in trainings]
    columns = [_properties(training) for training in trainings]
    properties = dict.fromkeys(name for column in columns for name in column)
    with kit.card(tr("Results and settings"), tr("Values that differ are bold.")):
        rows = [_row(name, [column.get(name, _UNKNOWN) for column in columns]) for name in properties]
        kit.table(tr("Results and settings of both versions"), (tr("Property"), *names), rows)
        if len({training.finetune and training.finetune.dataset_id for training in trainings}) > 1:
            kit.muted(tr("Held-out losses can be compared only between versions of the same data set."))
    curves = {name: training.metrics for name, training in zip(names, trainings, strict=True) if training.metrics}
    if curves:
        with kit.card(tr("Losses during training")):
            compared_losses(curves)


def _row(name: str, values: list[str]) -> list[kit.Cell]:
    tag = "span" if len(set(values)) == 1 else "strong"

    def cell(value: str) -> kit.Cell:
        return lambda: kit.write(value, tag, "long")

    return [name, *map(cell, values)]


def _properties(training: _Training) -> dict[str, str]:
    finetune, contents = training.finetune, _contents(training.version)
    return _results(finetune) | _settings(finetune, training.dataset) | contents if finetune else contents


def _results(finetune: Finetune) -> dict[str, str]:
    base, loss = finetune.held_out_loss_base, finetune.held_out_loss_adapter
    return {
        tr("Held-out loss"): _loss(loss),
        tr("Held-out loss of the base"): _loss(base),
        tr("Lower than the base's by"): number(1 - loss / base, ".0%") if loss is not None and base else _UNKNOWN,
        tr("Held-out loss without a class"): _loss(finetune.held_out_loss_adapter_null),
        tr("Training loss at the end"): _loss(finetune.loss),
    }


def _settings(finetune: Finetune, dataset: Dataset | None) -> dict[str, str]:
    step = finetune.steps if finetune.adapter_step is None else finetune.adapter_step
    return {
        tr("Data set"): (dataset.name or words.moment(dataset.created_at)) if dataset else tr("deleted"),
        tr("Training images"): words.count(dataset.images) if dataset else _UNKNOWN,
        tr("Step of the version"): tr("{step:,} of {steps:,}", step=step, steps=finetune.steps),
        tr("Batch size"): words.count(finetune.batch_size),
        tr("Learning rate"): number(finetune.learning_rate, "g"),
        tr("Seed"): str(finetune.seed),
        tr("Sampling"): finetune.sampling,
        tr("Learned guidance"): words.learned_guidance(finetune),
        tr("Class embeddings"): tr(words.CLASS_TABLE[finetune.train_class_table]),
        tr("Continued from a version"): tr("yes") if finetune.from_adapter_id else tr("no"),
        tr("Device time"): words.duration(finetune.seconds),
    }


def _contents(version: Adapter) -> dict[str, str]:
    return {
        tr("Classes"): ", ".join(version.class_names),
        tr("Method"): f"{version.method}, {version.preset}" if version.preset else version.method,
        tr("Trained parameters"): words.count(version.parameters),
        tr("Size"): words.size(version.size_bytes),
        tr("Created"): words.moment(version.created_at),
    }


def _loss(value: float | None) -> str:
    return _UNKNOWN if value is None else number(value, ".4f")
