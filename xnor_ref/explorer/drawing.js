// Elements of the page, and numbers as pictures. Nothing here computes.
"use strict";

const Drawing = (() => {
  // An element with attributes, or properties where these are functions or booleans, and what it holds.
  function el(tag, attributes = {}, ...inside) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      if (typeof value === "function" || typeof value === "boolean") made[name] = value;
      else if (value !== null && value !== undefined) made.setAttribute(name, value);
    made.append(...inside.flat().filter((part) => part !== null && part !== undefined));
    return made;
  }

  // The shortest decimal that reads back to the same float32.
  function shown(x) {
    if (Number.isInteger(x)) return x.toLocaleString("en").replace("-", "−");
    for (let digits = 1; digits < 17; digits++) {
      const text = x.toPrecision(digits);
      if (Math.fround(Number(text)) === Math.fround(x)) return String(Number(text)).replace("-", "−");
    }
    return String(x);
  }

  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["one", "zero", "high", "low", "mid", "mark", "void", "same", "fg"]) {
      const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
      const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
      colours[name] = [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16));
    }
  }

  const css = (name) => `rgb(${colours[name].join(" ")})`;
  const between = (from, to, share) => from.map((part, i) => part + (to[i] - part) * share);

  // The colour of a number: two colours for signs, else from low by way of mid (zero) to high.
  function colour(x, kind, most) {
    if (kind === "signs") return x > 0 ? colours.one : x < 0 ? colours.zero : colours.void;
    const share = Math.min(1, Math.abs(x) / (most || 1));
    return between(colours.mid, x < 0 ? colours.low : colours.high, Math.sqrt(share));
  }

  // Rows and columns in which the values of a shape are drawn: an image's own, or a block of flat values.
  function grid(shape) {
    if (shape.length === 3) return [shape[1], shape[2]];
    const columns = Math.min(shape[0], Math.max(8, Math.ceil(Math.sqrt(shape[0]) / 8) * 8));
    return [Math.ceil(shape[0] / columns), columns];
  }

  // Draw rows x columns numbers of `data` from `first` on, and a frame around the cells [top, left, bottom, right].
  function map(canvas, { data, first = 0, rows, columns, kind, most }, frame, room = 420) {
    const scale = Math.max(1, Math.floor(room / Math.max(rows, columns)));
    canvas.width = columns * scale;
    canvas.height = rows * scale;
    const context = canvas.getContext("2d");
    for (let i = 0; i < rows * columns && first + i < data.length; i++) {
      context.fillStyle = `rgb(${colour(data[first + i], kind, most)
        .map(Math.round)
        .join(" ")})`;
      context.fillRect((i % columns) * scale, Math.floor(i / columns) * scale, scale, scale);
    }
    if (!frame) return;
    const [top, left, bottom, right] = frame.map((edge) => edge * scale);
    context.lineWidth = Math.max(2, scale / 5);
    context.strokeStyle = css("mark");
    const half = context.lineWidth / 2;
    context.strokeRect(left + half, top + half, right - left - 2 * half, bottom - top - 2 * half);
  }

  // Raw pixels, channels innermost.
  function pixels(canvas, data, [channels, height, width], room = 420) {
    const scale = Math.max(1, Math.floor(room / Math.max(height, width)));
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d");
    for (let i = 0; i < height * width; i++) {
      const rgb = [0, 1, 2].map((c) => data[i * channels + (channels >= 3 ? c : 0)]);
      context.fillStyle = `rgb(${rgb.join(" ")})`;
      context.fillRect((i % width) * scale, Math.floor(i / width) * scale, scale, scale);
    }
  }

  // A slider with its number beside it; `change` is called with every new value.
  function slider(label, { min = 0, max, value, step = 1, text }, change) {
    const name = el("span", {}, label);
    const range = el("input", { type: "range", min, max, step, value: `${value}`, "aria-label": label });
    const number = text
      ? el("output", {}, text(value))
      : el("input", { type: "number", min, max, step, value: `${value}`, "aria-label": `${label}, as a number` });
    const follow = (found) => {
      const next = Math.min(max, Math.max(min, Number(found)));
      range.value = next;
      if (text) number.textContent = text(next);
      else number.value = next;
      if (text) range.setAttribute("aria-valuetext", text(next));
      return next;
    };
    range.oninput = () => change(follow(range.value));
    if (!text) number.onchange = () => change(follow(number.value));
    if (text) range.setAttribute("aria-valuetext", text(value));
    return el("div", { class: "slider" }, name, range, number);
  }

  const table = (head, rows) =>
    el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" },
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            head.map((cell) => el("th", { scope: "col" }, cell)),
          ),
        ),
        el(
          "tbody",
          {},
          rows.map((row) =>
            el(
              "tr",
              {},
              row.map((cell) => el("td", {}, cell)),
            ),
          ),
        ),
      ),
    );

  return { el, shown, readColours, css, colours, grid, map, pixels, slider, table };
})();
