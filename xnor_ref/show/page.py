"""Pages of HTML: text is escaped unless it is HTML already, and a page holds all that it needs."""

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import xnor_ref
from xnor_ref.charts.chart import Chart
from xnor_ref.charts.files import palette, svg
from xnor_ref.errors import InputError, OutputError
from xnor_ref.storage import PathLike, write_atomically

MARK = b'<meta name="generator" content="xnor_ref show'  # what the pages of this room are known by
_EMPTY = ("img", "br", "meta", "line", "path", "rect", "circle")
_STYLE = """
:root{--panel:#f3f5f8;--accent:var(--c0);--good:var(--c2);--bad:var(--c1)}@media(prefers-color-scheme:dark){:root{
--panel:#1d2127}}*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}main,header,nav,footer{max-width:1120px;margin:0 auto;
padding:0 16px}h1{font-size:1.5rem;line-height:1.25;margin:24px 0 4px}h2{font-size:1.2rem;margin:40px 0 8px;
padding-top:12px;border-top:1px solid var(--rule)}h3{font-size:1rem;margin:20px 0 4px}p{max-width:72ch;margin:6px 0}
.dim,figcaption,caption{color:var(--dim);font-size:.875rem}a{color:var(--accent)}nav{display:flex;flex-wrap:wrap;
gap:2px 16px;font-size:.9rem;margin-top:12px}.facts{display:grid;
grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:8px;margin:16px 0}.facts>div{background:var(--panel);
border-radius:8px;padding:8px 12px}.facts b{display:block;font-size:1.15rem;line-height:1.3}.facts span{
color:var(--dim);font-size:.8rem}.grid{display:grid;
grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:16px}.small{
grid-template-columns:repeat(auto-fill,minmax(96px,1fr));gap:10px}figure{margin:0;min-width:0}figure svg{width:100%;
height:auto;display:block}.scroll{overflow-x:auto;max-width:100%;-webkit-overflow-scrolling:touch}table{
border-collapse:collapse;font-size:.875rem;margin:8px 0}th,td{padding:3px 10px 3px 0;text-align:left;
vertical-align:top;border-bottom:1px solid var(--rule)}th{color:var(--dim);font-weight:600}.scroll th,.scroll td{
overflow-wrap:normal}td.r,th.r{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr.total td{
font-weight:600;border-top:2px solid var(--dim)}pre{background:var(--panel);padding:10px 12px;border-radius:8px;
overflow-x:auto;font-size:.85rem;white-space:pre-wrap}img{image-rendering:pixelated;max-width:100%;height:auto;
vertical-align:top}.thumb img{width:100%;border-radius:6px}.thumb{font-size:.8rem;line-height:1.3}.missing{
border-left:4px solid var(--c1);background:var(--panel);padding:8px 12px;border-radius:0 8px 8px 0}.bar{display:block;
height:10px;border-radius:3px;background:var(--c0);min-width:1px}.matrix td,.matrix th{padding:2px 4px;
text-align:center;border:1px solid var(--rule);font-variant-numeric:tabular-nums;min-width:28px}
@media(max-width:480px){.matrix{font-size:.7rem}.matrix td,.matrix th{min-width:0;padding:2px 1px}}.matrix th.side{
text-align:right;white-space:nowrap}.matrix th.top{vertical-align:bottom;padding:4px 1px}.matrix th.top span{
writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}.keys{display:flex;flex-wrap:wrap;gap:2px 14px;
font-size:.85rem}.keys i{display:inline-block;width:14px;height:4px;vertical-align:middle;margin-right:5px;
border-radius:2px}summary{cursor:pointer;font-weight:600;padding:4px 0}.card{background:var(--panel);
border-radius:8px;padding:10px 14px;margin:0;min-width:0}.cards{display:grid;gap:12px;align-items:start;
margin-top:12px;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}.wide{grid-column:1/-1}.maps{
display:flex;flex-wrap:wrap;gap:14px}.maps figure{max-width:100%}footer{color:var(--dim);font-size:.8rem;
margin-top:48px;padding-bottom:32px}@media print{body{font-size:12px}.card,figure{break-inside:avoid}}
"""


class Html(str):
    """Text that is HTML already; any other text is escaped where it enters a page."""


def text(value: Any) -> Html:
    """A value as HTML; control characters, which HTML has no place for, are shown escaped."""
    if isinstance(value, Html):
        return value
    plain = (c if c.isprintable() or c in "\n\xa0" else c.encode("unicode_escape").decode() for c in str(value))
    shown = "".join(plain)
    return Html(html.escape(shown))


def el(name: str, *inside: Any, **attributes: Any) -> Html:
    """An element; `class_` is written class, `_` in other names -; an attribute that is None is left out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    if name in _EMPTY and not inside:
        return Html(f"<{name}{head}/>")
    return Html(f"<{name}{head}>{join(inside)}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    """Parts one after the other."""
    return Html("".join(text(part) for part in parts))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], right: Iterable[int] = (), total: bool = False) -> Html:
    """A table that scrolls sideways where it is wider than the screen; columns in `right` are set right."""
    sides = ["r" if at in set(right) else None for at in range(len(head))]
    lines = [el("tr", *(el("td", cell, class_=side) for cell, side in zip(row, sides))) for row in rows]
    if total and lines:
        lines[-1] = Html(lines[-1].replace("<tr>", '<tr class="total">', 1))
    top = el("thead", el("tr", *(el("th", cell, class_=side) for cell, side in zip(head, sides))))
    return el("div", el("table", top, el("tbody", *lines)), class_="scroll")


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Numbers that come first, each with what it counts."""
    return el("div", *(el("div", el("b", value), el("span", name)) for name, value in pairs), class_="facts")


def missing(why: Any) -> Html:
    """What a page would show here, and why it cannot."""
    return el("p", why, class_="missing")


def percent(value: float | None, digits: int = 1) -> str:
    """'93.1 %', on one line; a dash for a number that is missing or not finite."""
    return "–" if value is None or not is_number(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number; files hold null and NaN too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def page(title: str, about: Any, sections: Iterable[tuple[str, Html]]) -> bytes:
    """A whole page: its title, what it is about, and sections under their headings, those without content left out."""
    named = [(f"s{at}", heading, inside) for at, (heading, inside) in enumerate(sections) if inside]
    links = el("nav", *(el("a", heading, href=f"#{key}") for key, heading, _ in named))
    body = [el("section", el("h2", heading, id=key), inside) for key, heading, inside in named]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK.decode()} {xnor_ref.__version__}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{palette()}{_STYLE}</style>\n</head>\n<body>\n"
    )
    top = el("header", el("h1", title), about)
    foot = el("footer", f"Made by xnor_ref {xnor_ref.__version__}, command show.")
    return "".join([head, top, links, el("main", *body), foot, "\n</body>\n</html>\n"]).encode()


def charts(of: Iterable[Chart]) -> Html:
    """Charts side by side, as many as the screen is wide for."""
    return el("div", *(el("figure", Html(svg(chart))) for chart in of), class_="grid")


def check_target(path: PathLike) -> None:
    """Raise InputError or OutputError where a page must not be written: it may replace nothing but such a page."""
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.parent}")
    if target.exists():
        try:
            with open(target, "rb") as file:
                ours = MARK in file.read(2000)
        except OSError as error:
            raise OutputError(f"cannot write {target}: {error.strerror}") from error
        if not ours:
            raise InputError(f"{target} is there already and no page of this command; name another file")


def save(path: PathLike, content: bytes) -> None:
    """Write a page. Raises InputError and OutputError as `check_target` does."""
    check_target(path)
    write_atomically(path, content)
