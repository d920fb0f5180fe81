"""Chart of a loss curve in the theme's colours, drawn by ECharts, which NiceGUI contains."""

from typing import Any

from nicegui import ui

_QUIET = {"color": "var(--muted)"}


class LossCurve:
    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self.chart = ui.echart(_options(self.points), renderer="svg").classes("chart", remove="nicegui-echart")
        self.chart.props('role=img aria-label="Loss by step"')

    def add(self, step: int, loss: float) -> None:
        self.points.append([step, round(loss, 5)])
        self.chart.options["series"][0]["data"] = self.points
        self.chart.props(f'aria-label="Loss by step: {loss:.4f} at step {step}"')


def _options(points: list[list[float]]) -> dict[str, Any]:
    lines = {"lineStyle": {"color": "var(--line)"}}
    axis = {"type": "value", "axisLabel": _QUIET, "nameTextStyle": _QUIET, "splitLine": lines, "axisLine": lines}
    return {
        "animation": False,
        "grid": {"left": 56, "right": 20, "top": 28, "bottom": 40},
        "tooltip": {"trigger": "axis"},
        "xAxis": {**axis, "name": "step", "nameLocation": "middle", "nameGap": 26, "splitLine": {"show": False}},
        "yAxis": {**axis, "name": "loss", "scale": True},
        "series": [
            {"type": "line", "data": points, "showSymbol": False, "lineStyle": {"color": "var(--accent)", "width": 2}}
        ],
    }
