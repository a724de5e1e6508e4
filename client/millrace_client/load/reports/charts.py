"""Charts as SVG that takes its colours and its size from the page around it."""

import math
from collections.abc import Callable, Sequence
from html import escape

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 28, 12, 46
Point = tuple[float, float]


class Chart:
    """Two axes; `x` and `y` are (smallest, largest), of which logarithmic ones begin above 0."""

    def __init__(self, title: str, x: Point, y: Point, labels: tuple[str, str], *, log_x: bool = False) -> None:
        self._title, self._labels = title, labels
        self._x, self._y = x, (y[0], y[1] if y[1] > y[0] else y[0] + 1)
        self._log_x = log_x
        self._parts: list[str] = []

    def line(self, points: Sequence[Point], name: str) -> None:
        """A line with a dot at each point; `name` is its class."""
        self._parts.append(f'<polyline class="line {name}" points="{self._path(points)}"/>')
        if len(points) <= 40:
            for point in points:
                at_x, at_y = self._at(point)
                tip = escape(f"{name}: {point[0]:g}, {point[1]:.3g}")
                self._parts.append(
                    f'<circle class="dot {name}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="3"><title>{tip}</title></circle>'
                )

    def band(self, low: Sequence[Point], high: Sequence[Point]) -> None:
        """The area between two lines."""
        self._parts.append(f'<polygon class="band" points="{self._path([*low, *reversed(high)])}"/>')

    def bar(self, left: float, right: float, height: float) -> None:
        """A bar from the x-axis."""
        (x0, y0), (x1, y1) = self._at((left, height)), self._at((right, self._y[0]))
        size = f'width="{max(x1 - x0 - 0.5, 0.5):.1f}" height="{y1 - y0:.1f}"'
        self._parts.append(f'<rect class="bar" x="{x0:.1f}" y="{y0:.1f}" {size}/>')

    def level(self, y: float, name: str) -> None:
        """A line at a value of the y-axis."""
        path = self._path([(self._x[0], y), (self._x[1], y)])
        self._parts.append(f'<polyline class="level" points="{path}"/>')
        at_x, at_y = self._at((self._x[1], y))
        self._parts.append(f'<text x="{at_x:.1f}" y="{at_y - 4:.1f}" text-anchor="end">{escape(name)}</text>')

    def svg(self) -> str:
        """The whole chart."""
        axes = [self._tick_x(at) for at in self._ticks_x()] + [self._tick_y(at) for at in _ticks(*self._y)]
        x_label = f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(self._labels[0])}</text>'
        turned = f'text-anchor="middle" transform="rotate(-90 20 {_HEIGHT / 2})"'
        y_label = f'<text x="20" y="{_HEIGHT / 2}" {turned}>{escape(self._labels[1])}</text>'
        inside = "".join([*axes, *self._parts, x_label, y_label])
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(self._title)}">{inside}</svg>'

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
