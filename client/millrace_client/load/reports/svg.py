"""A chart as SVG that takes its colours and its size from the page around it."""

import math
from collections.abc import Callable, Sequence
from html import escape

from millrace_client.load.reports.charts import Chart, Point

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 28, 12, 46
_DOTS = 40  # a line of more points has none


def svg(chart: Chart) -> str:
    """The whole chart."""
    return _Drawing(chart).svg()


class _Drawing:
    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        (low, high) = chart.y
        self._x, self._y, self._log_x = chart.x, (low, high if high > low else low + 1), chart.log_x

    def svg(self) -> str:
        chart = self._chart
        parts = [self._tick_x(at) for at in self._ticks_x()] + [self._tick_y(at) for at in _ticks(*self._y)]
        parts += [self._band(low, high) for low, high in chart.bands]
        parts += [self._line(name, points) for name, points in chart.lines.items()]
        parts += [self._bar(*bar) for bar in chart.bars] + [self._level(y, name) for name, y in chart.levels.items()]
        parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(chart.labels[0])}</text>')
        turned = f'text-anchor="middle" transform="rotate(-90 20 {_HEIGHT / 2})"'
        parts.append(f'<text x="20" y="{_HEIGHT / 2}" {turned}>{escape(chart.labels[1])}</text>')
        label = f'role="img" aria-label="{escape(chart.title)}"'
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" {label}>{"".join(parts)}</svg>'

    def _line(self, name: str, points: Sequence[Point]) -> str:
        parts = [f'<polyline class="line {name}" points="{self._path(points)}"/>']
        for point in points if len(points) <= _DOTS else ():
            at_x, at_y = self._at(point)
            tip = escape(f"{name}: {point[0]:g}, {point[1]:.3g}")
            parts.append(
                f'<circle class="dot {name}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="3"><title>{tip}</title></circle>'
            )
        return "".join(parts)

    def _band(self, low: Sequence[Point], high: Sequence[Point]) -> str:
        return f'<polygon class="band" points="{self._path([*low, *reversed(high)])}"/>'

    def _bar(self, left: float, right: float, height: float) -> str:
        (x0, y0), (x1, y1) = self._at((left, height)), self._at((right, self._y[0]))
        size = f'width="{max(x1 - x0 - 0.5, 0.5):.1f}" height="{y1 - y0:.1f}"'
        return f'<rect class="bar" x="{x0:.1f}" y="{y0:.1f}" {size}/>'

    def _level(self, y: float, name: str) -> str:
        path = self._path([(self._x[0], y), (self._x[1], y)])
        at_x, at_y = self._at((self._x[1], y))
        text = f'<text x="{at_x:.1f}" y="{at_y - 4:.1f}" text-anchor="end">{escape(name)}</text>'
        return f'<polyline class="level" points="{path}"/>{text}'

    def _at(self, point: Point) -> Point:
        scale: Callable[[float], float] = math.log10 if self._log_x else float
        low, high = scale(self._x[0]), scale(self._x[1])
        share_x = (scale(point[0]) - low) / ((high - low) or 1)
        share_y = (point[1] - self._y[0]) / (self._y[1] - self._y[0])
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + share_x * width, _TOP + (1 - min(share_y, 1)) * height

    def _path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._at, points))

    def _ticks_x(self) -> list[float]:
        if not self._log_x:
            return _ticks(*self._x)
        low, high = math.ceil(math.log10(self._x[0])), math.floor(math.log10(self._x[1]))
        return [10.0**power for power in range(low, high + 1)] or [self._x[0], self._x[1]]

    def _tick_x(self, at: float) -> str:
        x, y = self._at((at, self._y[0]))
        return f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{at:g}</text>'

    def _tick_y(self, at: float) -> str:
        x, y = self._at((self._x[0], at))
        line = f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        return f'{line}<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{at:g}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    rough = (high - low) / 5 or 1
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
