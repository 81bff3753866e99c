// The page itself: what is chosen, what is shown of it, and what a change changes.
"use strict";

const Explorer = (() => {
  const { el, shown, slider, grid } = Drawing;
  const $ = (id) => document.getElementById(id);
  const state = {
    network: null,
    bytes: 0,
    pixels: null,
    picture: "",
    found: [],
    before: [],
    layer: 0,
    at: { o: 0, y: 0, x: 0 },
    c: 0,
    edits: new Map(),
    run: 0,
    valid: 0,
    base: null,
    about: {},
  };
  const layerNow = () => state.network.layers[state.layer];
  const edited = (layer) => state.edits.get(layer.index)?.layer || layer;
  const isBits = (layer) => Boolean(layer.tensors.bits);
  const times = (shape) => shape.join(" × ");

  function problem(text) {
    $("problem").textContent = text || "";
    $("problem").hidden = !text;
  }

  // --- the network ----------------------------------------------------------------------------------------------

  async function open(bytes, name) {
    const network = Reader.network(bytes);
    const [channels] = network.shape;
    if (channels !== 1 && channels !== 3) throw new Error(`${name} takes ${channels} channels; a picture has 1 or 3`);
    if ((await Reader.intact(bytes)) === false)
      throw new Error(`${name} is damaged: its digest is not that of its content`);
    Object.assign(state, { network, bytes: bytes.length, edits: new Map(), layer: 0, found: [] });
    const first = network.layers.findIndex((layer) => layer.op.startsWith("binary"));
    state.layer = Math.max(0, first === -1 ? network.layers.findIndex(isBits) : first);
    const bits = network.layers.reduce((sum, { tensors: { bits } }) => sum + (bits ? bitCount(bits, network) : 0), 0);
    const size =
      bytes.length < 1e6
        ? `${shown(Math.round(bytes.length / 100) / 10)} kB`
        : `${shown(Math.round(bytes.length / 1e5) / 10)} MB`;
    $("lead").replaceChildren(
      `Here is a whole neural network, ${size} of it. `,
      bits
        ? "Most of its weights (the numbers that training found) are single bits: 1 stands for +1, and 0 for −1. Choose a " +
            "picture, follow it layer by layer, and click any number to see the bits that it was counted from."
        : "This one has no binary layers. Choose a picture and follow it layer by layer.",
    );
    const facts = {
      "the file": size,
      layers: network.layers.length,
      "bits that hold weights": bits.toLocaleString("en"),
      "input, channels × height × width": times(network.shape),
      classes: network.classes.length,
    };
    $("facts").replaceChildren(
      ...Object.entries(facts).map(([key, value]) => el("div", {}, el("b", {}, `${value}`), el("span", {}, key))),
    );
    const made = Object.entries(network.producer || {}).map(([key, value]) => `${key} ${value}`);
    $("origin").textContent = made.length ? `The network was made by ${made.join(", ")}.` : "";
    const trained = network.training?.dataset;
    $("sample-note").textContent =
      "The drawings are of the data set shapes. " +
      (trained === "shapes"
        ? "This network has not seen them before."
        : "This network was not trained on drawings like these: a photo of one of its classes will do better.");
    listLayers();
    middle();
  }

  const bitCount = (bits, { layers }) => {
    const layer = layers.find(({ tensors }) => tensors.bits === bits);
    return Operations.signsOfRow(layer) * bits.shape.slice(0, -1).reduce((a, b) => a * b, 1);
  };

  // --- running --------------------------------------------------------------------------------------------------

  // Run all layers from `first` on; longer runs leave the page time to draw. Of several runs the last one counts, and it
  // begins where the one before it did, if that was not finished.
  async function run(first = 0) {
    const own = ++state.run;
    state.valid = first = Math.min(first, state.valid);
    const { network } = state;
    const image = Operations.normalised(network, state.pixels);
    const found = state.found.slice(0, first);
    const start = performance.now();
    let drawn = start;
    for (const layer of network.layers.slice(first)) {
      if (performance.now() - drawn > 80) {
        $("status").textContent = `Layer ${layer.index + 1} of ${network.layers.length} …`;
        await new Promise((resolve) => setTimeout(resolve));
        if (own !== state.run) return false;
        drawn = performance.now();
      }
      found.push(Operations.runLayer(network, edited(layer), image, found));
    }
    Object.assign(state, { found, valid: Infinity });
    if (!state.edits.size) Object.assign(state, { before: found, base: state.pixels });
    const took = performance.now() - start;
    $("status").textContent =
      `${first ? "Computed again" : "Computed here"} in ${took < 10 ? took.toFixed(1) : Math.round(took)} ms.`;
    return true;
  }

  const ranked = (found) => Operations.ranked(found.at(-1).output.data, state.network.classes);

  function showAnswer() {
    const was = new Map(ranked(state.before).map(({ label, probability }) => [label, probability]));
    const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 2 : 1)} %`;
    const rows = ranked(state.found)
      .slice(0, 5)
      .map(({ name, label, probability }) => {
        const before = state.edits.size ? el("span", { class: "was" }, `before: ${percent(was.get(label))}`) : null;
        return el(
          "li",
          { style: `--share:${(100 * probability).toFixed(1)}%` },
          el("span", {}, name),
          el("span", { class: "share" }, percent(probability), before),
        );
      });
    $("answer").replaceChildren(...rows);
  }

  async function show(pixels, picture) {
    problem("");
    Object.assign(state, { pixels, picture, edits: new Map(), valid: 0 });
    Drawing.pixels($("seen"), pixels, state.network.shape);
    const [channels, height, width] = state.network.shape;
    $("seen").setAttribute("aria-label", `${picture}, ${height} × ${width} pixels`);
    $("seen-note").textContent =
      `What the network sees of ${picture}: ${height} × ${width} pixels${channels === 1 ? ", grey" : ""}.`;
    if (!(await run())) return;
    showAnswer();
    showLayer();
  }

  // A picture of any size, as the browser decodes it, brought to the network's size.
  async function showPicture(blob, name) {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob, options);
    } catch {
      throw new Error(`${name} is not a picture that this browser can read`);
    }
    const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error(`${name} is too large for this browser`);
    context.fillStyle = "#fff"; // under what is transparent
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    const data = context.getImageData(0, 0, bitmap.width, bitmap.height);
    const [channels, height, width] = state.network.shape;
    await show(Photos.resized(data, height, width, channels, state.about.columns_first), name);
  }

  async function openFile(file) {
    try {
      if (file.name.endsWith(".safetensors")) {
        const before = state.network;
        await open(new Uint8Array(await file.arrayBuffer()), file.name);
        if (before) await showSample(0);
      } else await showPicture(file, file.name);
      document.querySelectorAll("#samples button").forEach((button) => button.setAttribute("aria-pressed", "false"));
    } catch (error) {
      problem(error.message);
    }
  }

  async function showSample(i) {
    const { png, name } = state.about.samples[i];
    const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
    await showPicture(new Blob([bytes], { type: "image/png" }), name);
    document
      .querySelectorAll("#samples button")
      .forEach((button, at) => button.setAttribute("aria-pressed", `${at === i}`));
  }

  // --- layers ---------------------------------------------------------------------------------------------------

  function listLayers() {
    const buttons = state.network.layers.map((layer) => {
      const [title] = Explain.WORDS[layer.op];
      const text = [el("b", {}, el("i"), layer.name), el("small", {}, title), el("small", {}, times(layer.shape))];
      return el(
        "button",
        {
          role: "tab",
          type: "button",
          class: isBits(layer) ? "bits" : null,
          "aria-controls": "panel",
          onclick: () => choose(layer.index),
        },
        text,
      );
    });
    $("layers").replaceChildren(...buttons);
  }

  function choose(index, focus = false) {
    state.layer = Math.min(Math.max(index, 0), state.network.layers.length - 1);
    middle();
    showLayer();
    const button = $("layers").children[state.layer];
    if (focus) button.focus();
  }

  // The marked output is in the middle at first: there no window meets the border.
  function middle() {
    const [, height = 1, width = 1] = layerNow().shape;
    state.at = { o: 0, y: height >> 1, x: width >> 1 };
    state.c = 0;
  }

  $("layers").onkeydown = (event) => {
    const move = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const end = { Home: 0, End: state.network.layers.length - 1 }[event.key];
    if (move === undefined && end === undefined) return;
    event.preventDefault();
    choose(end ?? state.layer + move, true);
  };

  function showLayer() {
    if (!state.found[state.layer]) return; // the first run still goes on, and will end here
    const layer = layerNow();
    [...$("layers").children].forEach((button, i) => {
      button.setAttribute("aria-selected", `${i === state.layer}`);
      button.tabIndex = i === state.layer ? 0 : -1;
      if (i === state.layer) {
        const box = $("layers"); // scrolled by hand, so that the page stays where it is
        box.scrollTop += button.offsetTop - box.offsetTop - box.clientHeight / 2;
        box.scrollLeft += button.offsetLeft - box.offsetLeft - box.scrollLeft - box.clientWidth / 3;
      }
    });
    const [title, text] = Explain.WORDS[layer.op];
    $("layer-title").textContent = `${layer.name}: ${title}`;
    const from = layer.inputs.map((i) => (i < 0 ? "the picture" : state.network.layers[i].name)).join(" and ");
    const bits = isBits(layer)
      ? ` Its weights are ${bitCount(layer.tensors.bits, state.network).toLocaleString("en")} bits.`
      : "";
    $("layer-text").textContent =
      `${text} It reads ${from} (${layer.inputShapes.map(times).join(" and ")}) and gives ${times(layer.shape)}.${bits}`;
    showChoices();
    showMaps();
    showTiles();
    showChanges();
  }

  function showChoices() {
    const layer = layerNow();
    const [inputs] = layer.inputShapes[0];
    const list = [];
    if (layer.inputShapes[0].length === 3 && inputs > 1)
      list.push(
        slider("Input channel", { max: inputs - 1, value: state.c }, (c) => {
          state.c = c;
          showMaps();
        }),
      );
    if (layer.shape[0] > 1) {
      const name = layer.shape.length === 3 ? (isBits(layer) ? "Filter" : "Output channel") : "Output";
      list.push(slider(name, { max: layer.shape[0] - 1, value: state.at.o }, (o) => pick({ ...state.at, o })));
    }
    $("choices").replaceChildren(...list);
  }

  // The part of the input that the marked output sees: [top, left, bottom, right], and null where that is all of it.
  function seen(layer) {
    const [, height, width] = layer.inputShapes[0];
    if (layer.inputShapes[0].length < 3 || layer.shape.length < 3) return null;
    const { y, x } = state.at;
    const windowed = layer.kernel_size || layer.kernel || layer.op === "conv2d";
    if (!windowed) return [y, x, y + 1, x + 1];
    const rows = [],
      columns = [];
    Operations.visit(Operations.windowOf(layer, [height, width]), y, x, (tap, pixel) => {
      rows.push(Math.floor(pixel / width));
      columns.push(pixel % width);
    });
    return rows.length
      ? [Math.min(...rows), Math.min(...columns), Math.max(...rows) + 1, Math.max(...columns) + 1]
      : null;
  }

  function cellOf(layer) {
    const { o, y, x } = state.at;
    if (layer.shape.length === 3) return [y, x, y + 1, x + 1];
    const [, columns] = grid(layer.shape);
    const [row, column] = [Math.floor(o / columns), o % columns];
    return [row, column, row + 1, column + 1];
  }

  function showMaps() {
    const layer = edited(layerNow());
    const found = state.found[layer.index];
    const window = seen(layer);
    const cell = cellOf(layer);
    const cards = Explain.cards(layer, found, state.c, state.at.o);
    const focused = document.activeElement?.dataset?.map;
    $("cards").replaceChildren(
      ...cards.map((card) => {
        const [rows, columns] = grid(card.shape);
        const most = card.kind === "real" ? card.data.reduce((best, x) => Math.max(best, Math.abs(x)), 0) : 1;
        const canvas = el("canvas", { "data-map": card.name });
        Drawing.map(canvas, { ...card, rows, columns, most }, card.side === "output" ? cell : window);
        const pickable = card.side === "output";
        const value = (row, column) =>
          `row ${row}, column ${column}: ${shown(card.data[card.first + row * columns + column] ?? 0)}`;
        const read = el("output", {}, value(...(pickable ? cell : window || [0, 0])));
        const spot = (event) => {
          const box = canvas.getBoundingClientRect();
          const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
          const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
          return [Math.min(Math.max(row, 0), rows - 1), Math.min(Math.max(column, 0), columns - 1)];
        };
        canvas.onpointermove = (event) => {
          read.textContent = value(...spot(event));
        };
        canvas.onpointerleave = () => {
          read.textContent = value(...(pickable ? cell : window || [0, 0]));
        };
        const label = `${card.name}, ${card.text}. ${rows} rows, ${columns} columns.`;
        if (pickable) {
          canvas.tabIndex = 0;
          canvas.setAttribute("role", "application");
          canvas.setAttribute("aria-roledescription", "map of numbers");
          canvas.setAttribute("aria-label", `${label} Arrow keys move the mark; marked is ${value(...cell)}.`);
          canvas.onclick = (event) => pickCell(layer, ...spot(event), card.name);
          canvas.onkeydown = (event) => keyOnMap(event, layer, card.name);
        } else {
          canvas.setAttribute("role", "img");
          canvas.setAttribute("aria-label", label);
        }
        return el(
          "figure",
          { class: pickable ? "pick" : null },
          el("figcaption", {}, el("b", {}, card.name), card.text),
          canvas,
          read,
        );
      }),
    );
    if (focused) document.querySelector(`#cards canvas[data-map="${focused}"]`)?.focus({ preventScroll: true });
    const key = (name, text) => el("span", {}, el("i", { style: `background:var(--${name})` }), text);
    const frame = el(
      "span",
      {},
      el("i", { style: "border:2px solid var(--mark)" }),
      "the marked output, and what it sees of the input",
    );
    const signs = cards.some(({ kind }) => kind === "signs") ? [key("one", "bit 1, +1"), key("zero", "bit 0, −1")] : [];
    $("keys").replaceChildren(
      ...signs,
      key("high", "large positive"),
      key("mid", "0"),
      key("low", "large negative"),
      frame,
    );
    showSum();
  }

  function pickCell(layer, row, column, map) {
    if (layer.shape.length === 3) return pick({ ...state.at, y: row, x: column }, map);
    const o = row * grid(layer.shape)[1] + column;
    if (o < layer.shape[0]) pick({ o, y: 0, x: 0 }, map);
  }

  function keyOnMap(event, layer, map) {
    const [down, right] =
      { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] || [];
    if (down !== undefined) {
      event.preventDefault();
      const [rows, columns] = grid(layer.shape);
      const [row, column] = cellOf(layer);
      const clip = (i, count) => Math.min(Math.max(i, 0), count - 1);
      pickCell(layer, clip(row + down, rows), clip(column + right, columns), map);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      $("number").scrollIntoView();
    }
  }

  function pick(at, map) {
    state.at = at;
    if (map) document.querySelector(`#cards canvas[data-map="${map}"]`)?.focus({ preventScroll: true });
    showChoices();
    showMaps();
  }

  // --- all channels, all filters --------------------------------------------------------------------------------

  const MOST_TILES = 64;

  function tiles(box, count, draw, name) {
    const some = (most) => {
      const buttons = Array.from({ length: Math.min(count, most) }, (_, o) => {
        const canvas = el("canvas");
        draw(canvas, o);
        return el(
          "button",
          { type: "button", "aria-label": `${name} ${o}`, onclick: () => pick({ ...state.at, o }) },
          canvas,
          `${o}`,
        );
      });
      if (count > most) buttons.push(el("button", { type: "button", onclick: () => some(count) }, `all ${count}`));
      box.replaceChildren(...buttons);
    };
    some(MOST_TILES);
  }

  function showTiles() {
    const layer = edited(layerNow());
    const { data } = state.found[layer.index].output;
    const maps = $("all-maps"),
      filters = $("all-filters");
    maps.hidden = layer.shape.length < 3;
    const weights = layer.tensors.bits || (layer.op === "conv2d" && layer.tensors.weight);
    filters.hidden = !weights;
    const fill = () => {
      if (maps.open && !maps.hidden) {
        const [, rows, columns] = layer.shape;
        const most = data.reduce((best, x) => Math.max(best, Math.abs(x)), 0);
        tiles(
          maps.querySelector(".tiles"),
          layer.shape[0],
          (canvas, o) =>
            Drawing.map(canvas, { data, first: o * rows * columns, rows, columns, kind: "real", most }, null, 72),
          "channel",
        );
      }
      if (filters.open && !filters.hidden) drawFilters(layer, filters);
    };
    maps.ontoggle = filters.ontoggle = fill;
    fill();
  }

  function drawFilters(layer, box) {
    const { bits, weight } = layer.tensors;
    const note = box.querySelector("p");
    if (bits) {
      const { channels, taps, filters, n } = Operations.bitLayer(layer);
      const row = 2 * bits.shape.at(-1);
      const columns = taps === 1 ? Math.min(channels, 32) : channels;
      const signs = (o) => Int8Array.from({ length: n }, (_, i) => 2 * Operations.isBit(bits.data, o * row, i) - 1);
      note.textContent =
        taps === 1
          ? `Each filter is ${n} bits.`
          : `Each filter is ${n} bits: a row for each of the ${taps} places of the window, a column for each of ${channels} channels.`;
      if (bits.shape.length === 3) note.textContent += " The lowest bit plane is shown.";
      tiles(
        box.querySelector(".tiles"),
        filters,
        (canvas, o) =>
          Drawing.map(canvas, { data: signs(o), rows: Math.ceil(n / columns), columns, kind: "signs" }, null, 128),
        "filter",
      );
      return;
    }
    const [filters, channels, rows, columns] = weight.shape;
    note.textContent = `Each filter is ${channels} × ${rows} × ${columns} numbers${channels === 3 ? ", shown as a picture in red, green and blue" : "; that of the chosen input channel is shown"}.`;
    const most = weight.data.reduce((best, x) => Math.max(best, Math.abs(x)), 0);
    tiles(
      box.querySelector(".tiles"),
      filters,
      (canvas, o) => {
        const first = o * channels * rows * columns;
        if (channels === 3) {
          const at = (i) => weight.data[first + (i % 3) * rows * columns + Math.floor(i / 3)];
          const own = Array.from({ length: 3 * rows * columns }, (_, i) => Math.round(127.5 * (1 + at(i) / most)));
          Drawing.pixels(canvas, own, [3, rows, columns], 72);
        } else
          Drawing.map(
            canvas,
            {
              data: weight.data,
              first: first + (state.c % channels) * rows * columns,
              rows,
              columns,
              kind: "real",
              most,
            },
            null,
            72,
          );
      },
      "filter",
    );
  }

  // --- one number -----------------------------------------------------------------------------------------------

  function showSum() {
    const layer = edited(layerNow());
    const inside = Explain.output(layer, state.found[layer.index], state.at);
    if (layer.index === state.network.layers.length - 1)
      inside[0].append(`, the class ${state.network.classes[state.at.o]}`);
    $("sum").replaceChildren(...inside);
    const bits = document.querySelector("#sum .bits");
    if (bits)
      bits.onclick = (event) => {
        const i = bits.bitAt(event);
        if (i !== null) change({ flip: [state.at.o, i] });
      };
    const found = state.found[layer.index];
    const at = Explain.indexOf(layer, state.at);
    const z = found.Z ? `Z = ${shown(found.Z[at])}, ` : "";
    $("now").textContent = `${Explain.where(layer, state.at)}: ${z}Y = ${shown(found.output.data[at])}.`;
  }

  // --- changes --------------------------------------------------------------------------------------------------

  function showChanges() {
    const layer = layerNow();
    $("effect").textContent = "";
    if (!isBits(layer)) {
      $("changes").replaceChildren(el("p", {}, "Choose a layer with a filled square: its bits can be flipped here."));
      return;
    }
    const now = state.edits.get(layer.index) || { share: 0, pad: layer.pad_value };
    const n = Operations.signsOfRow(layer);
    state.bit = Math.min(state.bit || 0, n - 1);
    const one = slider("A bit of the chosen filter", { max: n - 1, value: state.bit }, (i) => {
      state.bit = i;
    });
    const parts = [
      el("p", {}, `What do the bits of ${layer.name} matter? Change some, and see what becomes of the answer.`),
      slider(
        "Flip this share of its bits at random",
        { max: 50, value: now.share, text: (share) => `${share} %` },
        (share) => change({ share }),
      ),
      one,
      el(
        "p",
        {},
        el(
          "button",
          { type: "button", id: "flip", onclick: () => change({ flip: [state.at.o, state.bit] }) },
          "Flip this bit",
        ),
      ),
    ];
    if ("pad_value" in layer) {
      const text = (value) => ({ "-1": "−1", 0: "0", 1: "+1" })[value];
      parts.push(
        slider("Padding: what stands beyond the border", { min: -1, max: 1, value: now.pad, text }, (pad) =>
          change({ pad }),
        ),
      );
    }
    parts.push(el("p", {}, el("button", { type: "button", id: "undo", onclick: undo }, "Undo all changes")));
    $("changes").replaceChildren(...parts);
    if (state.edits.size) showEffect();
  }

  // Random numbers that are the same for everybody: mulberry32.
  function random(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  async function change({ flip, ...settings }) {
    const layer = layerNow();
    if (state.base !== state.pixels) return; // there is nothing yet to compare with
    const edit = state.edits.get(layer.index) || { share: 0, flips: new Set(), pad: layer.pad_value };
    Object.assign(edit, settings);
    if (flip) {
      const key = flip.join(":");
      if (!edit.flips.delete(key)) edit.flips.add(key);
    }
    const { bits } = layer.tensors;
    const row = 2 * bits.shape.at(-1);
    const n = Operations.signsOfRow(layer);
    const data = bits.data.slice();
    const next = random(1);
    edit.flipped = 0;
    const turn = (o, i) => {
      data[o * row + (i >>> 5)] ^= 1 << (i & 31);
      edit.flipped++;
    };
    if (edit.share)
      for (let o = 0; o < data.length / row; o++) for (let i = 0; i < n; i++) if (next() * 100 < edit.share) turn(o, i);
    for (const key of edit.flips) turn(...key.split(":").map(Number));
    edit.layer = { ...layer, pad_value: edit.pad, tensors: { ...layer.tensors, bits: { ...bits, data } } };
    if (edit.flipped || edit.pad !== layer.pad_value) state.edits.set(layer.index, edit);
    else state.edits.delete(layer.index);
    if (!(await run(layer.index))) return;
    showAnswer();
    showMaps();
    showTiles();
    showEffect();
  }

  async function undo() {
    state.edits.clear();
    if (!(await run())) return;
    showAnswer();
    showLayer();
    $("effect").textContent = "All bits are as they were.";
  }

  function showEffect() {
    const layer = layerNow();
    const edit = state.edits.get(layer.index);
    if (!state.edits.size) {
      $("effect").textContent = "All bits are as they were.";
      return;
    }
    const [was, is] = [state.before, state.found].map((found) => ranked(found)[0]);
    const percent = ({ name, probability }) => `${name}, ${(100 * probability).toFixed(1)} %`;
    const parts = [];
    if (edit) {
      const [old, z] = [state.before, state.found].map((found) => found[layer.index].Z);
      const changed = z.reduce((sum, value, i) => sum + (value !== old[i]), 0);
      const count = edit.flipped === 1 ? "1 bit" : `${edit.flipped.toLocaleString("en")} bits`;
      parts.push(`${count} of ${layer.name} ${edit.flipped === 1 ? "is" : "are"} flipped.`);
      if (edit.pad !== layer.pad_value)
        parts.push(`Beyond the border stands ${shown(edit.pad)} instead of ${shown(layer.pad_value)}.`);
      parts.push(`Z changes at ${changed.toLocaleString("en")} of ${z.length.toLocaleString("en")} outputs.`);
    }
    const same = was.label === is.label ? "The answer stays" : "The answer changes";
    parts.push(`${same}: ${percent(was)} before, ${percent(is)} now.`);
    $("effect").textContent = parts.join(" ");
  }

  // --- start ----------------------------------------------------------------------------------------------------

  async function start() {
    Drawing.readColours();
    state.about = JSON.parse($("about").textContent);
    const { samples } = state.about;
    $("samples").replaceChildren(
      ...samples.map(({ png, name }, i) =>
        el(
          "button",
          {
            type: "button",
            "aria-label": name,
            "aria-pressed": "false",
            onclick: () => showSample(i).catch((error) => problem(error.message)),
          },
          el("img", { src: `data:image/png;base64,${png}`, alt: "" }),
        ),
      ),
    );
    $("glossary").replaceChildren(
      ...Object.entries(Explain.GLOSSARY).flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)]),
    );
    $("file").onchange = (event) => {
      if (event.target.files[0]) openFile(event.target.files[0]);
      event.target.value = "";
    };
    document.ondragover = (event) => {
      event.preventDefault();
      document.body.classList.add("drop");
    };
    document.ondragleave = (event) => {
      if (!event.relatedTarget) document.body.classList.remove("drop");
    };
    document.ondrop = (event) => {
      event.preventDefault();
      document.body.classList.remove("drop");
      if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
    };
    matchMedia("(prefers-color-scheme:dark)").onchange = () => {
      Drawing.readColours();
      showLayer();
    };
    try {
      const text = $("model").textContent.trim();
      await open(
        Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),
        "this page's network",
      );
      await showSample(0);
    } catch (error) {
      problem(error.message);
    }
    document.body.dataset.ready = "yes";
  }

  start();
  return { state, show, choose, pick, change, undo, openFile };
})();
