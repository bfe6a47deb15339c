"""Flame graphs: stacks as boxes on boxes, as wide as often they were seen."""

import html

import probe

WIDTH, ROW, TOP, LEAST = 1000, 17, 40, 0.4
COLOURS = {"ext4": "#e6735c", "xfs": "#e6735c", "block": "#c9a0dc", "writeback": "#e0a83a", "memory": "#7fb77e",
           "KVM": "#6fa8dc", "idle": "#cccccc", "other": "#e8d9a8"}


def _tree(stacks):
    root = {}
    for stack in stacks:
        level = root
        for frame in stack:
            node = level.setdefault(frame, [0, {}])
            node[0] += 1
            level = node[1]
    return root


def _boxes(level, x, depth, scale, total):
    for name, (count, below) in sorted(level.items()):
        width = count * scale
        if width >= LEAST:
            yield name, x, depth, width, count / total
            yield from _boxes(below, x, depth + 1, scale, total)
        x += width


def graph(title, stacks):
    """An SVG of stacks, outermost frame first. Hovering over a box tells its share."""
    stacks = [stack or ["user"] for stack in stacks]
    boxes = list(_boxes(_tree(stacks), 0, 0, WIDTH / len(stacks), len(stacks)))
    height = TOP + ROW * (max(box[2] for box in boxes) + 2)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
           'style="font-family:monospace;font-size:11px">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<text x="8" y="22" style="font-size:14px">{html.escape(title)}, {len(stacks)} samples</text>']
    for name, x, depth, width, share in boxes:
        y = height - ROW * (depth + 1.5)
        colour = COLOURS.get(probe.category([name]), COLOURS["other"])
        label = html.escape(name[:int(width / 6.8)]) if width > 20 else ""
        out.append(f'<g><title>{html.escape(name)} {share:.1%}</title><rect x="{x:.1f}" y="{y:.1f}" '
                   f'width="{width:.1f}" height="{ROW - 1}" fill="{colour}"/>'
                   f'<text x="{x + 3:.1f}" y="{y + 12:.1f}">{label}</text></g>')
    return "\n".join(out + ["</svg>", ""])
