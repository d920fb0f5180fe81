"""Charts of the losses of fine-tunes in the theme's colours, drawn by ECharts, which NiceGUI contains."""

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from api.dashboard.texts import current, number, tr
from difffit.models import Metrics

_QUIET = {"color": "var(--muted)"}
_COLORS = ("var(--accent)", "var(--busy)")
_TOOLTIP = {
    "trigger": "axis",
    "backgroundColor": "var(--surface)",
    "borderColor": "var(--line)",
    "textStyle": {"color": "var(--ink)"},
    "axisPointer": {"lineStyle": _QUIET},
}


def compared_losses(runs: Mapping[str, Metrics]) -> None:
    """Adds a chart with the training and held-out losses of two fine-tunes, by their names."""
    series: list[dict[str, Any]] = []
    last: list[str] = []
    for color, (name, metrics) in zip(_COLORS, runs.items(), strict=False):
        training = [[point.step, round(point.loss, 5)] for point in metrics.data]
        held_out = [[point.step, round(point.held_out_loss, 5)] for point in metrics.evaluations]
        thin = {"lineStyle": {"color": color, "width": 1, "type": "dashed"}, "showSymbol": len(training) == 1}
        series.append({**_series(tr("{name}: training", name=name), color), **thin, "data": training})
        series.append({**_series(tr("{name}: held-out", name=name), color), "symbolSize": 5, "data": held_out})
        if points := held_out or training:
            last.append(tr("{name} {loss:.4f} at step {step:,}", name=name, loss=points[-1][1], step=points[-1][0]))
    options = _options(series)
    options["grid"]["top"] = 64
    options["legend"] |= {"left": 0, "right": 0}
    chart = ui.echart(options, renderer="svg").classes("chart tall", remove="nicegui-echart").props("role=img")
    chart.props["aria-label"] = tr("Losses by step: {losses}", losses=", ".join(last))


class LossCurve:
    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self.held_out: list[list[float]] = []
        series = [
            {**_series(tr("training"), "var(--accent)"), "showSymbol": False},
            {**_series(tr("held-out"), "var(--ink)"), "symbolSize": 5},
        ]
        self.chart = ui.echart(_options(series), renderer="svg").classes("chart", remove="nicegui-echart")
        self.chart.props("role=img")
        self.chart.props["aria-label"] = tr("Loss by step")

    def add(self, step: int, loss: float) -> None:
        self.points.append([step, round(loss, 5)])
        series = self.chart.options["series"][0]
        series["data"], series["showSymbol"] = self.points, len(self.points) == 1  # a single point has no line
        self._describe(step)

    def add_held_out(self, step: int, loss: float) -> None:
        self.held_out.append([step, round(loss, 5)])
        self.chart.options["series"][1]["data"] = self.held_out
        self._describe(step)

    def _describe(self, step: int) -> None:
        series = {tr("loss"): self.points, tr("held-out loss"): self.held_out}
        last = ", ".join(f"{name} {number(points[-1][1], '.4f')}" for name, points in series.items() if points)
        self.chart.props["aria-label"] = tr("Loss by step: {losses} at step {step:,}", losses=last, step=step)


def _options(series: list[dict[str, Any]]) -> dict[str, Any]:
    lines = {"lineStyle": {"color": "var(--line)"}}
    axis = {"type": "value", "axisLabel": _QUIET, "nameTextStyle": _QUIET, "splitLine": lines, "axisLine": lines}
    return {
        "animation": False,
        "grid": {"left": 56, "right": 20, "top": 28, "bottom": 40},
        "tooltip": {**_TOOLTIP, ":formatter": _formatter()},
        "legend": {"top": 0, "right": 20, "textStyle": _QUIET},
        "xAxis": {**axis, "name": tr("step"), "nameLocation": "middle", "nameGap": 26, "splitLine": {"show": False}},
        "yAxis": {**axis, "name": tr("loss"), "scale": True},
        "series": series,
    }


def _formatter() -> str:
    """Returns JavaScript that renders the tooltip from the points under the mouse, as HTML. The names of the series are
    escaped, since they contain the names that users gave their versions."""
    language, digits = json.dumps(current().quasar), "{minimumFractionDigits: 4, maximumFractionDigits: 4}"
    value = f"point.value[1].toLocaleString({language}, {digits})"
    name = "point.seriesName.replace(/[&<>]/g, sign => `&#${sign.charCodeAt(0)};`)"
    return (
        f"points => {json.dumps(tr('Step {step}', step=''))} + points[0].value[0].toLocaleString({language})"
        f" + points.map(point => `<br>${{{name}}}: ${{{value}}}`).join('')"
    )


def _series(name: str, color: str) -> dict[str, Any]:
    style = {"lineStyle": {"color": color, "width": 2}, "itemStyle": {"color": color}}
    # For the emphasis ECharts would derive colours, which it cannot from a CSS variable: the line would vanish.
    return {"name": name, "type": "line", "data": [], "emphasis": {"disabled": True}, **style}
