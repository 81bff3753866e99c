"""Which classes a network takes for which, and what it is wrong about with the most confidence."""

import numpy as np
from numpy.typing import NDArray

from xnor_ref.show.images import as_shown, picture, signed, zoom_for
from xnor_ref.show.page import Html, el, join, percent, table
from xnor_ref.show.source import Answers

NAMED = 20  # classes whose matrix has numbers and names; larger ones are a picture
PAIRS, THUMBS = 10, 24
Counts = NDArray[np.int64]


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax of each row, in float64."""
    z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def confusion(answers: Answers) -> Counts:
    """Images by their class (row) and by the class that the network names (column)."""
    n = answers.data.num_classes
    pairs = answers.data.val.labels * n + answers.logits.argmax(axis=1)
    return np.bincount(pairs, minlength=n * n).reshape(n, n)


def confusion_section(answers: Answers) -> Html:
    """The matrix, the pairs that are confused most often, and the classes that are recognised least."""
    counts, names = confusion(answers), answers.data.classes
    right = np.trace(counts)
    text = f"{right:,} of {counts.sum():,} validation images are recognised ({percent(right / counts.sum())}). "
    text += "Each row is a true class, each column an answer; the diagonal is right."
    matrix = _numbers(counts, names) if len(names) <= NAMED else _image(counts)
    return join((el("p", text), matrix, el("div", _pairs(counts, names), _weakest(counts, names), class_="grid")))


def _shade(value: float, right: bool) -> str:
    return f"background:color-mix(in srgb,var(--{'good' if right else 'bad'}) {round(75 * value)}%,transparent)"


def _numbers(counts: Counts, names: tuple[str, ...]) -> Html:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = el("tr", el("th"), *(el("th", el("span", name), class_="top", scope="col") for name in names))
    rows = [
        el(
            "tr",
            el("th", names[i], class_="side", scope="row"),
            *(el("td", counts[i, j] or "", style=_shade(share[i, j], i == j)) for j in range(len(names))),
        )
        for i in range(len(names))
    ]
    return el("div", el("table", head, *rows, class_="matrix"), class_="scroll")


def _image(counts: Counts) -> Html:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = signed(np.where(np.eye(len(counts), dtype=bool), share, -np.sqrt(share)), 1.0)
    what = f"confusion matrix of {len(counts)} classes"
    return el(
        "figure",
        picture(pixels, zoom_for(pixels, 640), what, style="border:1px solid var(--rule)"),
        el("figcaption", "Blue: the share of a class that is right. Orange: the share that is taken for another one."),
    )


def _pairs(counts: Counts, names: tuple[str, ...]) -> Html:
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows = [(names[i], names[j], wrong[i, j]) for i, j in zip(*np.unravel_index(order, wrong.shape)) if wrong[i, j]]
    if not rows:
        return Html()
    return el("div", el("h3", "Confused most often"), table(("class", "taken for", "images"), rows, right=[2]))


def _weakest(counts: Counts, names: tuple[str, ...]) -> Html:
    total = counts.sum(axis=1)
    there = [i for i in np.argsort(np.diag(counts) / np.maximum(total, 1), kind="stable") if total[i]][:PAIRS]
    rows = [(names[i], percent(counts[i, i] / total[i], 0), total[i]) for i in there]
    return el("div", el("h3", "Recognised least"), table(("class", "right", "images"), rows, right=[1, 2]))


def mistakes_section(answers: Answers) -> Html:
    """The wrong answers with the highest probability, as pictures."""
    data, given = answers.data, probabilities(answers.logits)
    first, labels = answers.logits.argmax(axis=1), data.val.labels
    sure = given[np.arange(len(labels)), first]
    wrong = np.flatnonzero(first != labels)
    chosen = wrong[np.argsort(-sure[wrong], kind="stable")][:THUMBS]
    if not len(chosen):
        return el("p", "Every validation image is recognised.")
    tiles = []
    for i in chosen:
        pixels = as_shown(np.asarray(data.val.images[i : i + 1]), data.mean, data.std)[0]
        is_, named = data.classes[labels[i]], data.classes[first[i]]
        caption = (el("b", named), f" {percent(sure[i], 0)}", el("br"), el("span", f"is {is_}", class_="dim"))
        tiles.append(el("figure", picture(pixels, 1, f"{is_}, taken for {named}"), el("div", *caption), class_="thumb"))
    text = f"Of {len(wrong):,} wrong answers, those that the network is most sure of: its answer, and what it is."
    return join((el("p", text), el("div", *tiles, class_="grid small")))
