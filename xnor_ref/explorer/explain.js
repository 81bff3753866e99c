// What a layer does, in words, and one of its outputs as a sum of numbers that can be seen.
"use strict";

const Explain = (() => {
  const { el, shown, table } = Drawing;
  const { bitLayer, visit, isBit, popcount, isOne, level, gamma, planeSize } = Operations;
  const { fround } = Math;

  const BINARY =
    "The signs of the input meet the signs of the weights. Two signs multiply to +1 where they are equal, " +
    "so the sum of all products is the number of equal bits less the number of different bits: XNOR, and a count.";
  const WORDS = {
    conv2d: [
      "Real convolution",
      "A window slides over the input. Each output is the sum of the numbers in the window, " +
        "each multiplied by a weight. These weights are ordinary numbers (32 bits each), not bits.",
    ],
    linear: ["Real linear layer", "Each output is the sum of all inputs, each multiplied by a weight of 32 bits."],
    affine: [
      "BatchNorm",
      "Multiplies each channel by a number and adds another one. Training chose both, so that the " +
        "values of a channel spread around zero. In a binary network this decides which signs come out.",
    ],
    relu: ["ReLU", "Negative numbers become 0, the others stay."],
    prelu: ["PReLU", "Numbers from 0 up stay; negative ones are multiplied by a slope that was learned."],
    hardtanh: ["Hardtanh", "Numbers are clipped to the range from −1 to 1."],
    max_pool: ["Max pooling", "The largest number of each window, so that the picture shrinks."],
    avg_pool: ["Average pooling", "The mean of each window, so that the picture shrinks."],
    global_avg_pool: ["Global average pooling", "Each channel becomes one number: the mean of all its pixels."],
    flatten: ["Flatten", "The same numbers, written one after the other."],
    add: ["Shortcut", "Adds two earlier results. What the one branch has lost, the other still carries."],
    concat: ["Concatenation", "The channels of several earlier results, one after the other."],
    sign: ["Sign", "+1 for numbers from 0 up, −1 for the others."],
    scale: [
      "Learned scale",
      "Multiplies each number by Γ (gamma), which was learned: the scale of XNOR-Net++, in place of " + "α and K.",
    ],
    binary_conv2d: ["Binary convolution", BINARY],
    binary_linear: ["Binary linear layer", BINARY],
    kbit_conv2d: [
      "Convolution of a few bits",
      "Inputs and weights are small whole numbers, written with a few bits. Each " +
        "pair of bit planes is multiplied by XNOR and counted; the counts are added with their place values.",
    ],
    kbit_linear: [
      "Linear layer of a few bits",
      "Inputs and weights are small whole numbers, written with a few bits. Each " +
        "pair of bit planes is multiplied by XNOR and counted; the counts are added with their place values.",
    ],
    sign_weight_conv2d: [
      "Convolution with binary weights",
      "The weights are bits, the inputs are real. A number is added " +
        "where the bit is 1, and subtracted where it is 0. Nothing is multiplied.",
    ],
    sign_weight_linear: [
      "Linear layer with binary weights",
      "The weights are bits, the inputs are real. A number is added " +
        "where the bit is 1, and subtracted where it is 0. Nothing is multiplied.",
    ],
  };

  const GLOSSARY = {
    "bit, sign": "1 stands for +1, 0 for −1. The sign of a number is +1 from 0 up, else −1. Zero counts as +1.",
    channel: "One map of numbers. A colour picture has three; a layer gives one for each of its filters.",
    filter: "The weights that make one output channel. Its window slides over the whole input.",
    XNOR: "Compares two bits: 1 if they are equal, 0 if they differ.",
    popcount: "How many bits of a word are 1. Processors count 64 bits with one instruction.",
    word: "64 bits side by side, written here as 16 hexadecimal digits (4 bits each; the lowest bit is the last).",
    n: "How many bits are compared for one output: channels × height × width of the window.",
    Z: "n − 2 × (bits that differ): the sum of n products of signs, a whole number.",
    "α (alpha)":
      "One number for each filter: how large its weights were, on average, before only their signs were kept.",
    A: "For each pixel, the mean of |x| over the channels: how large the inputs were.",
    K: "The mean of A over the window: what the signs of the inputs have lost.",
    Y: "The layer's output, Z × α × K. Each product is rounded to 32 bits.",
    padding: "What stands beyond the border of the picture: 0 adds nothing, +1 and −1 count as signs.",
  };

  const step = (...inside) => el("li", {}, ...inside);
  const steps = (...lines) => el("ol", { class: "steps" }, lines.flat().filter(Boolean));
  const strong = (x) => el("b", {}, typeof x === "number" ? shown(x) : x);
  const where = ({ shape }, { o, y, x }) =>
    shape.length === 3 ? `output channel ${o}, row ${y}, column ${x}` : `output ${o}`;
  const hex = (high, low) => [high, low].map((part) => (part >>> 0).toString(16).padStart(8, "0")).join("");
  const indexOf = (layer, at) =>
    layer.shape.length === 3 ? (at.o * layer.shape[1] + at.y) * layer.shape[2] + at.x : at.o;

  // The bits that meet for one output, in the file's order: sign i of the row is channel i % channels of tap
  // i / channels. x is 1 or 0, and null where a tap beyond the border counts nothing. a, b: planes of inputs, weights.
  function meeting(layer, found, at, a = 0, b = 0) {
    const of = bitLayer(layer);
    const group = Math.floor(at.o / (of.filters / of.groups));
    const row = 2 * layer.tensors.bits.shape.at(-1);
    const first = (b * of.filters + at.o) * row;
    const border = of.padValue ? Number(of.padValue > 0) : null;
    const x = new Array(of.n).fill(border);
    visit(of.window, at.y, at.x, (tap, pixel) => {
      for (let c = 0; c < of.channels; c++)
        x[tap * of.channels + c] = isBit(found.words[a], (group * of.pixels + pixel) * of.words, c);
    });
    const w = Array.from({ length: of.n }, (_, i) => isBit(layer.tensors.bits.data, first, i));
    return { of, x, w, ...counted(x, w) };
  }

  // The same as words of 64 bits, with the ones of their XNOR.
  function counted(x, w) {
    const half = (bits, begin) => {
      let word = 0;
      for (let i = 0; i < 32 && begin + i < bits.length; i++) if (bits[begin + i]) word |= 1 << i;
      return word;
    };
    const known = x.map((bit) => bit !== null);
    const words = [];
    for (let begin = 0; begin < x.length; begin += 64) {
      const [low, high] = [begin, begin + 32].map((start) => {
        const pair = [half(x, start), half(w, start), half(known, start)];
        return [...pair, ~(pair[0] ^ pair[1]) & pair[2]];
      });
      const texts = [0, 1, 3].map((i) => hex(high[i], low[i]));
      words.push([...texts, popcount(low[3]) + popcount(high[3])]);
    }
    const n = known.filter(Boolean).length;
    const equal = words.reduce((sum, word) => sum + word[3], 0);
    return { words, n, equal, z: n - 2 * (n - equal) };
  }

  function wordTable({ words }) {
    const rows = words.map(([x, w, xnor, ones], i) => [i, x, w, xnor, ones]);
    return table(["word", "input", "weight", "XNOR", "ones"], rows);
  }

  // n, the bits that differ and Z, in words.
  function countSteps({ of, n, equal, z }) {
    const taps = of.taps === 1 ? "" : ` (${of.taps} places of the window × ${of.channels} channels)`;
    const left = of.n - n ? ` Of these, ${of.n - n} lie beyond the border and count nothing, which leaves ${n}.` : "";
    return [
      step(`The filter has ${of.n} bits${taps}.${left} So `, strong(`n = ${n}`), "."),
      step("The XNOR words hold ", strong(equal), ` ones: so many bits are equal. The other ${n - equal} differ.`),
      step(el("span", { class: "big" }, `Z = n − 2 × ${n - equal} = ${n} − ${2 * (n - equal)} = ${shown(z)}`)),
    ];
  }

  // From Z to Y by way of alpha and K.
  function scaleSteps(layer, found, at, of) {
    const { alpha } = layer.tensors;
    const i = indexOf(layer, at);
    const z = found.Z[i];
    const lines = [];
    let y = fround(z);
    if (alpha) {
      const next = fround(y * alpha.data[at.o]);
      lines.push(
        step(
          `α of filter ${at.o} is `,
          strong(alpha.data[at.o]),
          `. Z × α = ${shown(z)} × `,
          `${shown(alpha.data[at.o])} = `,
          strong(next),
          " (rounded to 32 bits).",
        ),
      );
      y = next;
    }
    if (found.K) {
      const group = Math.floor(at.o / (of.filters / of.groups));
      const k = found.K[group * (found.K.length / of.groups) + (i % planeSize(layer.shape))];
      const next = fround(y * k);
      lines.push(
        step(
          "K here is ",
          strong(k),
          ": ",
          meanText(layer, found, at, of, group),
          ` ${shown(y)} × ${shown(k)} = `,
          strong(next),
          ".",
        ),
      );
      y = next;
    }
    lines.push(step(el("span", { class: "big" }, `Y = ${shown(y)}`)));
    return lines;
  }

  function meanText(layer, found, at, of, group) {
    if (!layer.kernel_size) return `the mean of |x| over all ${of.n} inputs.`;
    const values = [];
    visit(of.window, at.y, at.x, (tap, pixel) => values.push(fround(found.A[group * of.pixels + pixel])));
    const taps = layer.input_scale === "valid" ? values.length : of.taps;
    const list = values.slice(0, 9).map(shown).join(" + ") + (values.length > 9 ? " + …" : "");
    const rest = values.length < taps ? " (A counts as 0 beyond the border)" : "";
    return `the mean of A over the window, (${list}) / ${taps}${rest}.`;
  }

  function binary(layer, found, at) {
    const meet = meeting(layer, found, at);
    const bits = layer.tensors.threshold
      ? "BatchNorm before this layer is folded into thresholds: an input bit is 1 where x is past its channel's threshold."
      : "An input bit is 1 where x is 0 or more.";
    const order =
      meet.of.taps === 1
        ? ""
        : ` Bit i belongs to place i / ${meet.of.channels} and channel i mod ${meet.of.channels}.`;
    return [
      el(
        "div",
        { class: "two" },
        el("div", {}, el("p", {}, bits), picture(meet)),
        el(
          "div",
          {},
          el("p", {}, `The same bits as words of 64, as they stand in the model file.${order}`),
          wordTable(meet),
          steps(countSteps(meet), scaleSteps(layer, found, at, meet.of)),
        ),
      ),
    ];
  }

  // The bits themselves: for every place of the window a line of input bits, of weight bits, and of their XNOR.
  function picture({ of: { channels, taps, window }, x, w, n, equal }) {
    const [cell, line, gutter, most] = [12, 42, 34, 72];
    const columns = Math.min(channels, 32);
    const begins = [];
    for (let tap = 0; tap < taps; tap++) for (let c = 0; c < channels; c += columns) begins.push(tap * channels + c);
    const rows = begins.slice(0, most);
    const canvas = el("canvas", {
      class: "bits",
      role: "img",
      width: gutter + columns * cell,
      height: rows.length * line,
    });
    canvas.setAttribute(
      "aria-label",
      `Bits of input and filter: ${equal} of ${n} are equal. The table has them as words.`,
    );
    const context = canvas.getContext("2d");
    context.font = "12px monospace";
    const colour = (bit) => (bit === null ? "void" : bit ? "one" : "zero");
    rows.forEach((begin, row) => {
      const tap = Math.floor(begin / channels);
      context.fillStyle = Drawing.css("fg");
      const kw = window.columns.taps;
      if (begin % channels === 0 && taps > 1)
        context.fillText(`${Math.floor(tap / kw)},${tap % kw}`, 2, row * line + 22);
      for (let i = begin; i < Math.min(begin + columns, (tap + 1) * channels); i++) {
        const equal = x[i] === null ? "void" : x[i] === w[i] ? "same" : "mid";
        [colour(x[i]), colour(w[i]), equal].forEach((name, part) => {
          context.fillStyle = Drawing.css(name);
          context.fillRect(gutter + (i - begin) * cell, row * line + part * cell, cell - 1, cell - 1);
        });
      }
    });
    canvas.bitAt = (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((((event.clientX - box.left) / box.width) * canvas.width - gutter) / cell);
      const begin = rows[Math.floor(((event.clientY - box.top) / box.height) * rows.length)];
      return column < 0 || column >= columns || begin === undefined ? null : begin + column;
    };
    const key = (name, text) => el("span", {}, el("i", { style: `background:var(--${name})` }), text);
    const beyond = x.includes(null) ? key("void", "beyond the border") : null;
    const more = begins.length > rows.length ? ` The first ${rows.length} of ${begins.length} rows are shown.` : "";
    const each =
      taps > 1
        ? "Every place of the window (row, column) has three lines"
        : "There are three lines for every 32 channels";
    return [
      el(
        "p",
        { class: "dim" },
        `${each}: input bits, filter bits, and where they are equal. Click a bit to flip that of the filter.${more}`,
      ),
      el("p", { class: "legend" }, key("one", "1"), key("zero", "0"), key("same", "equal: XNOR is 1"), beyond),
      el("div", { class: "scroll" }, canvas),
    ];
  }

  function kbit(layer, found, at) {
    const ternary = layer.input_levels === "ternary";
    const rows = [];
    let sum = 0;
    let meet;
    for (let a = layer.input_bits - 1; a >= 0; a--)
      for (let b = layer.weight_bits - 1; b >= 0; b--) {
        meet = meeting(layer, found, at, a, b);
        const factor = ternary ? 2 ** b / 2 : 2 ** (a + b);
        rows.push([a, b, meet.n, meet.n - meet.equal, meet.z, factor, meet.z * factor]);
        sum += meet.z * factor;
      }
    return [
      el(
        "p",
        {},
        "Every bit plane of the input meets every bit plane of the weights. A plane's count is multiplied by its ",
        ternary
          ? "place value; two input planes make −1, 0 and 1, so the sum is halved."
          : "place value, a power of two.",
      ),
      table(["input plane", "weight plane", "n", "differ", "n − 2 × differ", "place value", "product"], rows),
      el("p", {}, "The words of the lowest planes:"),
      wordTable(meet),
      steps(
        step(el("span", { class: "big" }, `Z = sum of the products = ${shown(sum)}`)),
        scaleSteps(layer, found, at, meet.of),
      ),
    ];
  }

  function signWeights(layer, found, at) {
    const of = bitLayer(layer);
    const group = Math.floor(at.o / (of.filters / of.groups));
    const first = at.o * 2 * layer.tensors.bits.shape.at(-1);
    const x = found.inputs[0].data;
    const rows = [];
    let sum = 0;
    visit(of.window, at.y, at.x, (tap, pixel) => {
      for (let c = 0; c < of.channels; c++) {
        const bit = isBit(layer.tensors.bits.data, first, tap * of.channels + c);
        const number = x[(group * of.channels + c) * of.pixels + pixel];
        sum = fround(bit ? sum + number : sum - number);
        rows.push([tap, c, bit, bit ? "+" : "−", shown(number), shown(sum)]);
      }
    });
    const z = found.Z[indexOf(layer, at)];
    const { alpha } = layer.tensors;
    const y = found.output.data[indexOf(layer, at)];
    return [
      el(
        "p",
        {},
        "Each number of the window is added or subtracted, one after the other, as its weight's bit says. Every sum is ",
        "rounded to 32 bits, so the order matters.",
      ),
      table(["place", "channel", "bit", "", "x", "sum so far"], rows.slice(0, 400)),
      rows.length > 400 ? el("p", { class: "dim" }, `The first 400 of ${rows.length} numbers are shown.`) : null,
      steps(
        step(el("span", { class: "big" }, `Sum = ${shown(z)}`)),
        alpha && step(`α of filter ${at.o} is `, strong(alpha.data[at.o]), "."),
        step(el("span", { class: "big" }, `Y = ${shown(y)}`)),
      ),
    ];
  }

  function real(layer, found, at) {
    const { weight, bias } = layer.tensors;
    const [input] = found.inputs;
    const flat = input.shape.length === 1;
    const [, channels, kh = 1, kw = 1] = weight.shape;
    const group = flat ? 0 : Math.floor((at.o * layer.groups) / weight.shape[0]);
    const rows = [];
    const meet = (tap, pixel) => {
      for (let c = 0; c < channels; c++) {
        const w = weight.data[(at.o * channels + c) * kh * kw + tap];
        const x = input.data[(group * channels + c) * planeSize(input.shape) + pixel];
        rows.push([tap, c, x, w, x * w]);
      }
    };
    if (flat) meet(0, 0);
    else visit(Operations.windowOf(layer, input.shape.slice(1)), at.y, at.x, meet);
    const largest = [...rows].sort((a, b) => Math.abs(b[4]) - Math.abs(a[4])).slice(0, 12);
    return [
      el("p", {}, `${rows.length} products are added. The largest ones:`),
      table(
        ["place", "channel", "x", "weight", "x × weight"],
        largest.map((row) => row.map(shown)),
      ),
      steps(
        bias && step("The bias (a number that is always added) is ", strong(bias.data[at.o]), "."),
        step(el("span", { class: "big" }, `Y = ${shown(found.output.data[indexOf(layer, at)])}`)),
      ),
    ];
  }

  function pooled(layer, found, at) {
    const [input] = found.inputs;
    const values = [];
    if (layer.op === "global_avg_pool") {
      const plane = planeSize(input.shape);
      values.push(...input.data.subarray(at.o * plane, (at.o + 1) * plane));
    } else {
      const window = Operations.windowOf(layer, input.shape.slice(1));
      visit(window, at.y, at.x, (tap, pixel) => values.push(input.data[at.o * planeSize(input.shape) + pixel]));
    }
    const list = values.slice(0, 40).map(shown).join(", ") + (values.length > 40 ? ", …" : "");
    const what = layer.op === "max_pool" ? "largest" : "mean";
    return [el("p", {}, `The ${what} of ${values.length} numbers: ${list}.`), last(layer, found, at)];
  }

  const last = (layer, found, at) =>
    steps(step(el("span", { class: "big" }, `Y = ${shown(found.output.data[indexOf(layer, at)])}`)));

  // Layers that make one output of the input at the same place.
  function single(layer, found, at) {
    const i = indexOf(layer, at);
    const t = layer.tensors;
    const x = found.inputs[0].data[i];
    const scale = t.slope && t.slope.data[t.slope.data.length === 1 ? 0 : at.o];
    const says = {
      affine: () =>
        `x × scale + shift = ${shown(x)} × ${shown(t.scale.data[at.o])} + ${shown(t.shift.data[at.o])}; the ` +
        "product is rounded, and then the sum.",
      relu: () => `The larger of x = ${shown(x)} and 0.`,
      prelu: () =>
        x >= 0 ? `x = ${shown(x)} is not negative and stays.` : `x × slope = ${shown(x)} × ${shown(scale)}.`,
      hardtanh: () => `x = ${shown(x)}, clipped to the range from −1 to 1.`,
      flatten: () => "The number stays as it is.",
      concat: () => "The number is copied from one of the inputs.",
      add: () => `${shown(x)} + ${shown(found.inputs[1]?.data[i] ?? 0)}.`,
      sign: () => `The sign of x = ${shown(x)}.`,
      scale: () => `x × Γ = ${shown(x)} × ${shown(gamma(t, i, at.o, layer.shape))}.`,
    };
    return [el("p", {}, says[layer.op]()), last(layer, found, at)];
  }

  const HOW = {
    conv2d: real,
    linear: real,
    max_pool: pooled,
    avg_pool: pooled,
    global_avg_pool: pooled,
    binary_conv2d: binary,
    binary_linear: binary,
    kbit_conv2d: kbit,
    kbit_linear: kbit,
    sign_weight_conv2d: signWeights,
    sign_weight_linear: signWeights,
  };

  // One output as a sum: elements to show.
  function output(layer, found, at) {
    const title = el("h3", {}, `${layer.name}: ${where(layer, at)}`);
    return [title, ...(HOW[layer.op] || single)(layer, found, at).filter(Boolean)];
  }

  // The maps of a layer for input channel c and output channel o: what the cards show.
  function cards(layer, found, c, o) {
    const [input] = found.inputs;
    const bits = layer.tensors.bits;
    const of = bits && bitLayer(layer);
    const group = of ? Math.floor(o / (of.filters / of.groups)) : 0;
    const list = [];
    const add = (side, name, text, data, kind, first, shape) =>
      list.push({ side, name, text, data, kind, first, shape });
    const ofInput = input.shape.length === 3 ? c * planeSize(input.shape) : 0;
    add("input", "X", "the input", input.data, "real", ofInput, input.shape);
    if (layer.op.startsWith("binary")) {
      const one = isOne(layer.tensors);
      const plane = planeSize(input.shape);
      const signs = input.data.map((x, i) => (one(x, Math.floor(i / plane)) ? 1 : -1));
      add("input", "sign(X)", "its bits", signs, "signs", ofInput, input.shape);
    }
    if (found.levels) add("input", "levels", "whole numbers", found.levels, "real", ofInput, input.shape);
    if (found.A && layer.kernel_size) {
      const one = [1, ...input.shape.slice(1)];
      add("input", "A", "mean of |X| over the channels", found.A, "real", group * of.pixels, one);
      const [outputs, size] = [planeSize(layer.shape), [1, ...layer.shape.slice(1)]];
      add("output", "K", "mean of A over the window", found.K, "real", group * outputs, size);
    }
    const first = layer.shape.length === 3 ? o * planeSize(layer.shape) : 0;
    if (found.Z)
      add(
        "output",
        "Z",
        found.levels ? "the counts, times place values" : found.words ? "the count: n − 2 × different" : "the sum",
        found.Z,
        "real",
        first,
        layer.shape,
      );
    add("output", "Y", found.Z ? "the output: Z, scaled" : "the output", found.output.data, "real", first, layer.shape);
    return list;
  }

  return { WORDS, GLOSSARY, output, cards, where, indexOf };
})();
