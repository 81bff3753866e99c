"""Draw the README's picture: `python docs/picture.py` writes docs/xnor.svg.

The dot product is computed by the package. The measured figures are read from the pages that say how to measure them.
"""

import re
from pathlib import Path

import numpy as np

from xnor_ref import pack_bits, xnor_conv2d

DOCS = Path(__file__).resolve().parent
STYLE = """
  svg { --paper: #ffffff; --ink: #1c2430; --soft: #5b6675; --line: #d3d9e0;
    --plus: #1f6fb2; --minus: #c2571a; --bit: #ffffff; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #161b22; --ink: #e6edf3; --soft: #9aa7b4; --line: #3a434e;
      --plus: #58a6e8; --minus: #f0904f; --bit: #0d1117; }
  }
  text { font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; font-size: 15px; fill: var(--ink); }
  .title { font-size: 18px; font-weight: 600; } .soft { fill: var(--soft); font-size: 13.5px; }
  .number { font-family: ui-monospace, Menlo, Consolas, monospace; text-anchor: middle; }
  .big { font-size: 20px; font-weight: 600; } .plus { fill: var(--plus); } .minus { fill: var(--minus); }
  .on { fill: var(--plus); } .off { fill: var(--minus); } .bit { fill: var(--bit); font-weight: 600; }
  .paper { fill: var(--paper); stroke: var(--line); } line { stroke: var(--line); }
"""


def measured():
    """(what, float, bits) of each figure, from the pages."""
    start = (DOCS / "getting-started.md").read_text()
    float_size, packed_size = re.findall(r"^(?:float|packed) network .* ([\d.]+ kB)$", start, re.MULTILINE)
    disagree = re.search(r"disagree: (0 of [\d,]+);", start)[1]
    speed = (DOCS / "performance.md").read_text()
    row = next(line for line in speed.splitlines() if "(the paper's) |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    least, microseconds = int(re.match(r"\d+", cells[7])[0]), int(cells[6])
    layer, bits = 256 * 256 * 9, pack_bits(np.ones((256, 256, 3, 3), np.float32), axis=1).nbytes
    return [
        ("weights of a layer, 256 → 256 channels, 3×3", f"{layer * 4 / 1e3:,.0f} kB", f"{bits / 1e3:.0f} kB"),
        (
            "time of this layer, one image, one thread",
            f"{least * microseconds / 1e3:.1f} ms (torch)",
            f"{microseconds / 1e3:.2f} ms",
        ),
        ("file of a small trained network", float_size, packed_size),
        ("images on which trained and packed network disagree", "", disagree),
    ]


def text(x, y, content, kind=""):
    return f'<text x="{x}" y="{y}" class="{kind}">{content}</text>'


def big(content):
    return f'<tspan class="big">{content}</tspan>'


def real_numbers(x, y, values, digits=1):
    """A row of numbers, coloured by their sign."""
    shown = [f"{value:+.{digits}f}".replace("-", "−") for value in values]
    return [text(x + 52 * i, y, v, f"number {'minus' if v[0] == '−' else 'plus'}") for i, v in enumerate(shown)]


def bits(x, y, values):
    """A row of bits, as boxes."""
    return [
        f'<rect x="{x + 34 * i - 14}" y="{y - 19}" width="28" height="26" rx="4" class="{"on" if v else "off"}"/>'
        + text(x + 34 * i, y, str(int(v)), "number bit")
        for i, v in enumerate(values)
    ]


def draw():
    """The picture, as SVG."""
    x = np.float32([0.9, -1.4, 0.2, 0.7, -0.3, 1.1, -0.8, 0.5])
    w = np.float32([0.5, -0.6, -0.1, 0.8, 0.3, 0.4, -0.9, 0.6])
    real = float(x @ w)
    equal = (x >= 0) == (w >= 0)
    count, alpha, k = int(equal.sum()), float(np.abs(w).mean()), float(np.abs(x).mean())
    y = float(xnor_conv2d(x.reshape(1, 8, 1, 1), w.reshape(1, 8, 1, 1))[0, 0, 0, 0])
    assert np.isclose(y, alpha * k * (2 * count - 8))
    parts = ['<rect x="1" y="1" width="898" height="478" rx="10" class="paper"/>']
    parts += [text(30, 38, "a real layer", "title"), text(520, 38, "the same layer in XNOR-Net", "title")]
    for place, (name, numbers) in enumerate((("X", x), ("W", w))):
        row = 78 + 40 * place
        parts += [text(30, row, name, "soft"), *real_numbers(90, row, numbers)]
        parts += [text(520, row, f"sign({name})", "soft"), *bits(604, row, numbers >= 0)]
    parts += [text(30, 158, "X·W", "soft"), *real_numbers(90, 158, x * w, digits=2)]
    parts += [text(520, 158, "XNOR", "soft"), *bits(604, 158, equal)]
    parts += [text(30, 206, f"8 multiplications, their sum is {big(f'{real:.2f}')}")]
    z = 2 * count - 8
    parts += [text(520, 206, f"popcount {count}, so Z = 2 · {count} − 8 = {big(z)}")]
    parts += [text(520, 236, f"Y = α K Z = {alpha:.3f} · {k:.3f} · {z} = {big(f'{y:.2f}')}")]
    parts += [text(30, 236, "16 numbers in a vector instruction", "soft")]
    parts += [text(520, 262, "512 signs in a vector instruction", "soft")]
    parts += ['<line x1="30" y1="290" x2="870" y2="290"/>', text(30, 322, "measured", "title")]
    parts += [text(520, 322, "float32"), text(690, 322, "bits")]
    for place, (what, slow, fast) in enumerate(measured()):
        row = 354 + 34 * place
        parts += [text(30, row, what), text(520, row, slow), text(690, row, fast, "big")]
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 480" width="900" height="480" role="img">
<title>A dot product of real numbers, and the same of signs by XNOR and popcount, with measured sizes and times</title>
<style>{STYLE}</style>
{body}
</svg>
"""


if __name__ == "__main__":
    (DOCS / "xnor.svg").write_text(draw())
