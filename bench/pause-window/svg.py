"""Small SVG charts: lines and points over a linear or a named x axis, with a linear or logarithmic y axis."""

import html
import math

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 68, 190, 46, 52
# Distinct for the colour-blind too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
STYLE = "font-family:Helvetica,Arial,sans-serif;font-size:12px"


def _text(x, y, text, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{html.escape(str(text))}</text>'


def _label(value):
    return f"{value:g}"


class Axis:
    """Values to pixels, and where its ticks are."""

    def __init__(self, low, high, start, end, log=False):
        if log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            if low == high:
                high *= 10
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def at(self, value):
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / ((self.high - self.low) or 1)
        return self.start + part * (self.end - self.start)

    def ticks(self):
        if self.log:
            return [10**e for e in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        span = (self.high - self.low) or 1
        step = 10 ** math.floor(math.log10(span / 4))
        step *= next(k for k in (1, 2, 5, 10) if span / (step * k) <= 6)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, int(self.high / step + 1e-9) + 1)]


class Series:
    def __init__(self, name, points, dashed=False, dots=False):
        self.name, self.points, self.dashed, self.dots = name, points, dashed, dots


def chart(title, x_title, y_title, series, names=None, log=True):
    """One chart as text. Points are (x, y); with `names`, x is a place in that list."""
    series = [s for s in series if s.points]
    ys = [y for s in series for _, y in s.points if y > 0 or not log]
    if not ys:
        return None
    xs = [x for s in series for x, _ in s.points]
    x_axis = Axis(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT) if names else \
        Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_axis = Axis(min(ys) if log else 0, max(ys), HEIGHT - BOTTOM, TOP, log)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" style="{STYLE}">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           _text(LEFT, 24, title, extra='font-size="15"')]
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        out += [f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>', _text(LEFT - 8, y + 4, _label(tick), "end")]
    for i, tick in enumerate(names) if names else ((t, _label(t)) for t in x_axis.ticks()):
        out.append(_text(x_axis.at(i), HEIGHT - BOTTOM + 18, tick, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out += [f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#444"/>',
            _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_title, "middle"),
            _text(18, middle, y_title, "middle", f'transform="rotate(-90 18 {middle:.1f})"')]
    for i, one in enumerate(series):
        out += _draw(one, x_axis, y_axis, COLOURS[i % len(COLOURS)], TOP + 8 + 18 * i)
    return "\n".join(out + ["</svg>", ""])


def _draw(one, x_axis, y_axis, colour, legend_y):
    points = [(x_axis.at(x), y_axis.at(y)) for x, y in one.points]
    dash = ' stroke-dasharray="5 4"' if one.dashed else ""
    x = WIDTH - RIGHT + 14
    out = []
    if not one.dots:
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')
        out.append(f'<path d="M{x} {legend_y}h16" stroke="{colour}" stroke-width="2"{dash}/>')
    if one.dots or len(points) < 60:
        radius = 2 if one.dots else 2.6
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius}" fill="{colour}"/>' for px, py in points]
    if one.dots:
        out.append(f'<circle cx="{x + 8}" cy="{legend_y}" r="3" fill="{colour}"/>')
    return out + [_text(x + 22, legend_y + 4, one.name)]
