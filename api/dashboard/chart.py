"""Chart of the losses of a fine-tune in the theme's colours, drawn by ECharts, which NiceGUI contains."""

from typing import Any

from nicegui import ui

_QUIET = {"color": "var(--muted)"}
_FORMATTER = (
    "points => `Step ${points[0].value[0].toLocaleString('en')}`"
    " + points.map(point => `<br>${point.seriesName}: ${point.value[1].toFixed(4)}`).join('')"
)
"""JavaScript that renders the tooltip from the points under the mouse."""
_TOOLTIP = {
    "trigger": "axis",
    "backgroundColor": "var(--surface)",
    "borderColor": "var(--line)",
    "textStyle": {"color": "var(--ink)"},
    "axisPointer": {"lineStyle": _QUIET},
    ":formatter": _FORMATTER,
}


class LossCurve:
    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self.held_out: list[list[float]] = []
        self.chart = ui.echart(_options(), renderer="svg").classes("chart", remove="nicegui-echart")
        self.chart.props('role=img aria-label="Loss by step"')

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
        series = {"loss": self.points, "held-out loss": self.held_out}
        last = ", ".join(f"{name} {points[-1][1]:.4f}" for name, points in series.items() if points)
        self.chart.props(f'aria-label="Loss by step: {last} at step {step}"')


def _options() -> dict[str, Any]:
    lines = {"lineStyle": {"color": "var(--line)"}}
    axis = {"type": "value", "axisLabel": _QUIET, "nameTextStyle": _QUIET, "splitLine": lines, "axisLine": lines}
    return {
        "animation": False,
        "grid": {"left": 56, "right": 20, "top": 28, "bottom": 40},
        "tooltip": _TOOLTIP,
        "legend": {"data": ["training", "held-out"], "top": 0, "right": 20, "textStyle": _QUIET},
        "xAxis": {**axis, "name": "step", "nameLocation": "middle", "nameGap": 26, "splitLine": {"show": False}},
        "yAxis": {**axis, "name": "loss", "scale": True},
        "series": [
            {**_series("training", "var(--accent)"), "showSymbol": False},
            {**_series("held-out", "var(--ink)"), "symbolSize": 5},
        ],
    }


def _series(name: str, color: str) -> dict[str, Any]:
    style = {"lineStyle": {"color": color, "width": 2}, "itemStyle": {"color": color}}
    # For the emphasis ECharts would derive colours, which it cannot from a CSS variable: the line would vanish.
    return {"name": name, "type": "line", "data": [], "emphasis": {"disabled": True}, **style}
