// The operations of a packed network, for one image. Values are { shape, data }: data is a Float32Array, planes of
// channels one after the other. Every number has the bits that the Python package gives it: the order of each sum is
// the same, and Math.fround rounds where the package rounds to float32.
"use strict";

const Operations = (() => {
  const { fround } = Math;
  const size = (shape) => shape.reduce((a, b) => a * b, 1);
  const value = (shape) => ({ shape, data: new Float32Array(size(shape)) });
  const planeSize = (shape) => (shape.length === 3 ? shape[1] * shape[2] : 1);

  // --- windows --------------------------------------------------------------------------------------------------

  // Where a window that slides along one axis meets the image: pixels[output * taps + tap], -1 beyond the border.
  function axis(pixels, taps, stride, [before, after], dilation) {
    const outputs = Math.floor((pixels + before + after - dilation * (taps - 1) - 1) / stride) + 1;
    const meets = new Int32Array(outputs * taps);
    for (let i = 0; i < meets.length; i++) {
      const pixel = Math.floor(i / taps) * stride + (i % taps) * dilation - before;
      meets[i] = pixel >= 0 && pixel < pixels ? pixel : -1;
    }
    return { outputs, taps, meets };
  }

  function windowOf(layer, [height, width]) {
    const [kh, kw] = layer.kernel_size || layer.kernel || layer.tensors.weight.shape.slice(2);
    const [rows, columns] = (layer.padding || [0, 0]).map((side) => (Array.isArray(side) ? side : [side, side]));
    const [sy, sx] = layer.stride || [1, 1];
    const [dy, dx] = layer.dilation || [1, 1];
    return { rows: axis(height, kh, sy, rows, dy), columns: axis(width, kw, sx, columns, dx), width };
  }

  // The taps of the window of output (oy, ox): `inside` gets (tap, pixel), `outside` gets (tap).
  function visit({ rows, columns, width }, oy, ox, inside, outside) {
    for (let ky = 0; ky < rows.taps; ky++) {
      const y = rows.meets[oy * rows.taps + ky];
      for (let kx = 0; kx < columns.taps; kx++) {
        const x = columns.meets[ox * columns.taps + kx];
        const tap = ky * columns.taps + kx;
        if (y >= 0 && x >= 0) inside(tap, y * width + x);
        else if (outside) outside(tap);
      }
    }
  }

  const slid = (layer, [, height, width], channels) => {
    const { rows, columns } = windowOf(layer, [height, width]);
    return [channels, rows.outputs, columns.outputs];
  };

  function everyOutput(window, work) {
    for (let oy = 0; oy < window.rows.outputs; oy++)
      for (let ox = 0; ox < window.columns.outputs; ox++) work(oy, ox, oy * window.columns.outputs + ox);
  }

  // --- real numbers ---------------------------------------------------------------------------------------------

  // A processor's fused multiply-add rounds product + total to float32 once. Here the sum is rounded to float64 first,
  // which matters only where it then lies in the middle between two float32 numbers, f and g.
  function middle(product, total, sum, f, g) {
    const part = sum - product;
    const error = product - (sum - part) + (total - part);
    if (error === 0 || !Number.isFinite(f)) return f;
    return error > 0 === g > f ? g : f;
  }

  // totals[o] = fma(x, weights[at + o], totals[o])
  function multiplyAdd(x, weights, at, totals) {
    for (let o = 0; o < totals.length; o++) {
      const product = x * weights[at + o];
      const sum = product + totals[o];
      let f = fround(sum);
      const rest = sum - f;
      if (rest !== 0) {
        const g = sum + rest;
        if (fround(g) === g) f = middle(product, totals[o], sum, f, g);
      }
      totals[o] = f;
    }
  }

  // Real weights (O, C, taps) of one group as (tap, C, O), so that the innermost loop runs over the filters.
  function turned(weight, first, filters, channels, taps) {
    const out = new Float64Array(filters * channels * taps);
    for (let o = 0; o < filters; o++)
      for (let c = 0; c < channels; c++)
        for (let tap = 0; tap < taps; tap++)
          out[(tap * channels + c) * filters + o] = weight[((first + o) * channels + c) * taps + tap];
    return out;
  }

  function realConvolution(layer, x) {
    const { weight, bias } = layer.tensors;
    const flat = x.shape.length === 1;
    const window = flat ? windowOf({ kernel: [1, 1] }, [1, 1]) : windowOf(layer, x.shape.slice(1));
    const groups = flat ? 1 : layer.groups;
    const channels = x.shape[0] / groups;
    const filters = weight.shape[0] / groups;
    const pixels = planeSize(x.shape);
    const y = value(layer.shape);
    const outputs = planeSize(layer.shape);
    const totals = new Float64Array(filters);
    for (let group = 0; group < groups; group++) {
      const own = turned(weight.data, group * filters, filters, channels, window.rows.taps * window.columns.taps);
      everyOutput(window, (oy, ox, place) => {
        totals.fill(0);
        visit(window, oy, ox, (tap, pixel) => {
          for (let c = 0; c < channels; c++) {
            const number = x.data[(group * channels + c) * pixels + pixel];
            if (number !== 0) multiplyAdd(number, own, (tap * channels + c) * filters, totals);
          }
        });
        for (let o = 0; o < filters; o++) {
          const filter = group * filters + o;
          y.data[filter * outputs + place] = bias ? fround(totals[o] + bias.data[filter]) : totals[o];
        }
      });
    }
    return { output: y };
  }

  // y = rule(x, channel) of every number.
  const each = (rule) => (layer, x) => {
    const y = value(layer.shape);
    const pixels = planeSize(x.shape);
    for (let i = 0; i < x.data.length; i++)
      y.data[i] = rule(x.data[i], Math.floor(i / pixels), layer.tensors, i, layer);
    return { output: y };
  };

  function pool(layer, x, start, more, finish) {
    const window = windowOf(layer, x.shape.slice(1));
    const y = value(layer.shape);
    const pixels = planeSize(x.shape);
    const outputs = planeSize(layer.shape);
    for (let c = 0; c < x.shape[0]; c++)
      everyOutput(window, (oy, ox, place) => {
        let result = start;
        let count = 0;
        visit(window, oy, ox, (tap, pixel) => {
          result = more(result, x.data[c * pixels + pixel]);
          count++;
        });
        y.data[c * outputs + place] = finish(result, count, window.rows.taps * window.columns.taps);
      });
    return { output: y };
  }

  function globalMean(layer, x) {
    const pixels = planeSize(x.shape);
    const y = value(layer.shape);
    for (let c = 0; c < x.shape[0]; c++) {
      let sum = 0;
      for (let p = 0; p < pixels; p++) sum += x.data[c * pixels + p];
      y.data[c] = sum / pixels;
    }
    return { output: y };
  }

  // Gamma of XNOR-Net++ at position i: the product of its factors, each product rounded.
  function gamma(t, i, channel, [, height = 1, width = 1]) {
    const pixel = i % (height * width);
    if (t.map) return t.map.data[i];
    let found = t.channel.data[channel];
    if (t.plane) found = fround(found * t.plane.data[pixel]);
    if (t.row) found = fround(found * t.row.data[Math.floor(pixel / width)]);
    return t.column ? fround(found * t.column.data[pixel % width]) : found;
  }

  function joined(layer, ...inputs) {
    const y = value(layer.shape);
    let at = 0;
    for (const { data } of inputs) {
      y.data.set(data, at);
      at += data.length;
    }
    return { output: y };
  }

  // --- bits -----------------------------------------------------------------------------------------------------

  const isBit = (words, at, i) => (words[at + (i >>> 5)] >>> (i & 31)) & 1;

  function popcount(word) {
    word -= (word >>> 1) & 0x55555555;
    word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
    return Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }

  // What is common to all layers with weights of bits.
  function bitLayer(layer) {
    const [inputs, height = 1, width = 1] = layer.inputShapes[0];
    const groups = layer.groups || 1;
    const window = windowOf({ kernel_size: [1, 1], ...layer }, [height, width]);
    const channels = inputs / groups; // of a group
    const taps = window.rows.taps * window.columns.taps;
    const filters = layer.tensors.bits?.shape.at(-2);
    const words = Math.ceil(channels / 32); // of a pixel, or of a tap
    const padValue = layer.pad_value || 0;
    return { window, groups, channels, taps, filters, words, padValue, pixels: height * width, n: channels * taps };
  }

  const signsOfRow = (layer) => bitLayer(layer).n;
  const filtersOf = (layer) => layer.tensors.bits.shape.at(-2);

  // The file's rows, all signs of a filter in a row, with a word or more of its own for each tap.
  const spreadRows = new WeakMap();
  function weightWords(bits, { channels, taps, words }) {
    if (spreadRows.has(bits)) return spreadRows.get(bits);
    const row = 2 * bits.shape.at(-1);
    const rows = bits.data.length / row;
    const out = new Uint32Array(rows * taps * words);
    for (let o = 0; o < rows; o++)
      for (let tap = 0; tap < taps; tap++)
        for (let c = 0; c < channels; c++)
          if (isBit(bits.data, o * row, tap * channels + c)) out[(o * taps + tap) * words + (c >>> 5)] |= 1 << (c & 31);
    spreadRows.set(bits, out);
    return out;
  }

  // Bits of every pixel, its channels group by group: word (group * pixels + pixel) * words + channel / 32.
  function packed(x, { groups, channels, words, pixels }, isOne) {
    const out = new Uint32Array(groups * pixels * words);
    for (let i = 0; i < x.data.length; i++) {
      const channel = Math.floor(i / pixels);
      if (!isOne(x.data[i], channel)) continue;
      const group = Math.floor(channel / channels);
      const c = channel % channels;
      out[(group * pixels + (i % pixels)) * words + (c >>> 5)] |= 1 << (c & 31);
    }
    return out;
  }

  // Z = n - 2 * (bits that differ), for every output: xor and popcount, word by word. `plane` of the weights, if any.
  function count(x, weights, of, plane = 0) {
    const { window, groups, channels, taps, words, pixels, padValue, filters } = of;
    const perGroup = filters / groups;
    const outputs = window.rows.outputs * window.columns.outputs;
    const z = new Int32Array(filters * outputs);
    const met = new Uint32Array(taps * words);
    const place = new Int32Array(taps);
    for (let group = 0; group < groups; group++)
      everyOutput(window, (oy, ox, output) => {
        let inside = 0;
        const beyond = [];
        visit(
          window,
          oy,
          ox,
          (tap, pixel) => {
            for (let k = 0; k < words; k++) met[inside * words + k] = x[(group * pixels + pixel) * words + k];
            place[inside++] = tap * words;
          },
          (tap) => beyond.push(tap),
        );
        for (let o = group * perGroup; o < (group + 1) * perGroup; o++) {
          const first = (plane * filters + o) * taps * words;
          let different = 0;
          if (inside === taps) for (let k = 0; k < met.length; k++) different += popcount(met[k] ^ weights[first + k]);
          else
            for (let i = 0; i < inside; i++)
              for (let k = 0; k < words; k++) different += popcount(met[i * words + k] ^ weights[first + place[i] + k]);
          let sum = inside * channels - 2 * different;
          if (padValue)
            for (const tap of beyond) {
              let ones = 0;
              for (let k = 0; k < words; k++) ones += popcount(weights[first + tap * words + k]);
              sum += padValue * (2 * ones - channels);
            }
          z[o * outputs + output] = sum;
        }
      });
    return z;
  }

  // A: the mean of |x| over the channels of a group, in 16 partial sums that are added by halves.
  function channelMeans(x, { groups, channels, pixels }) {
    const mean = new Float64Array(groups * pixels);
    const sums = new Float64Array(16);
    for (let i = 0; i < mean.length; i++) {
      const first = Math.floor(i / pixels) * channels * pixels + (i % pixels);
      sums.fill(0);
      for (let c = 0; c < channels; c++) sums[c % 16] += Math.abs(x.data[first + c * pixels]);
      for (let half = 8; half; half >>= 1) for (let s = 0; s < half; s++) sums[s] += sums[half + s];
      mean[i] = sums[0] / channels;
    }
    return mean;
  }

  // K: the mean of A over each window; its columns are added up first, then these.
  function windowMeans(mean, { window, groups, pixels, taps }, valid) {
    const outputs = window.rows.outputs * window.columns.outputs;
    const k = new Float32Array(groups * outputs);
    for (let group = 0; group < groups; group++)
      everyOutput(window, (oy, ox, output) => {
        const columns = new Float64Array(window.columns.taps);
        let inside = 0;
        visit(window, oy, ox, (tap, pixel) => {
          columns[tap % columns.length] += mean[group * pixels + pixel];
          inside++;
        });
        const total = columns.reduce((a, b) => a + b, 0);
        k[group * outputs + output] = total / (valid ? Math.max(1, inside) : taps);
      });
    return k;
  }

  const isOne = ({ threshold, flip }) =>
    threshold ? (x, c) => (flip.data[c] ? x <= threshold.data[c] : x >= threshold.data[c]) : (x) => x >= 0;

  // Y = fl(fl(Z * alpha) * K), and what it was made of.
  function scaled(layer, of, x, z, notes) {
    const { alpha } = layer.tensors;
    const y = value(layer.shape);
    const outputs = z.length / of.filters;
    const perGroup = of.filters / of.groups;
    let A = null;
    let K = null;
    if (layer.input_scale !== "off") {
      A = channelMeans(x, of);
      K = layer.kernel_size ? windowMeans(A, of, layer.input_scale === "valid") : Float32Array.from(A);
    }
    for (let i = 0; i < z.length; i++) {
      const filter = Math.floor(i / outputs);
      let result = fround(z[i]);
      if (alpha) result = fround(result * alpha.data[filter]);
      if (K) result = fround(result * K[Math.floor(filter / perGroup) * outputs + (i % outputs)]);
      y.data[i] = result;
    }
    return { output: y, Z: z, A, K, ...notes };
  }

  function binary(layer, x) {
    const of = bitLayer(layer);
    const words = packed(x, of, isOne(layer.tensors));
    return scaled(layer, of, x, count(words, weightWords(layer.tensors.bits, of), of), { words: [words] });
  }

  // The odd integer (or, ternary, the -1, 0 or 1) that stands for x.
  function level(layer) {
    const top = 2 ** layer.input_bits - 1;
    const half = fround(top / 2);
    if (layer.input_levels === "ternary") return (x) => (x > 0.5) - (x < -0.5);
    if (top === 1) return (x) => (x >= 0 ? 1 : -1);
    return (x) => 2 * Math.floor(fround(Math.min(Math.max(x, -1), 1) * half)) + 1;
  }

  function kbit(layer, x) {
    const of = bitLayer(layer);
    const levels = Int16Array.from(x.data, level(layer));
    const ternary = layer.input_levels === "ternary";
    const top = 2 ** layer.input_bits - 1;
    const weights = weightWords(layer.tensors.bits, of);
    const whole = { data: levels };
    const words = [];
    let total = null;
    for (let a = 0; a < layer.input_bits; a++) {
      const one = ternary ? [(m) => m >= 0, (m) => m > 0][a] : (m) => ((m + top) >> (1 + a)) & 1;
      words.push(packed(whole, of, one));
      for (let b = 0; b < layer.weight_bits; b++) {
        const z = count(words[a], weights, of, b);
        const shift = ternary ? b : a + b;
        if (total) z.forEach((part, i) => (total[i] += part << shift));
        else total = z;
      }
    }
    if (ternary) total.forEach((sum, i) => (total[i] = sum >> 1));
    return scaled(layer, of, x, total, { levels, words });
  }

  // Real inputs, added or subtracted one after the other, tap by tap and in a tap channel by channel.
  function signWeights(layer, x) {
    const of = bitLayer(layer);
    const { window, groups, channels, pixels } = of;
    const { bits, alpha } = layer.tensors;
    const row = 2 * bits.shape.at(-1);
    const perGroup = of.filters / groups;
    const y = value(layer.shape);
    const outputs = planeSize(layer.shape);
    const Z = new Float32Array(y.data.length);
    const totals = new Float32Array(perGroup);
    for (let group = 0; group < groups; group++) {
      const signs = new Float64Array(of.n * perGroup);
      for (let o = 0; o < perGroup; o++)
        for (let i = 0; i < of.n; i++)
          signs[i * perGroup + o] = 2 * isBit(bits.data, (group * perGroup + o) * row, i) - 1;
      everyOutput(window, (oy, ox, output) => {
        totals.fill(0);
        visit(window, oy, ox, (tap, pixel) => {
          for (let c = 0; c < channels; c++) {
            const number = x.data[(group * channels + c) * pixels + pixel];
            const at = (tap * channels + c) * perGroup;
            for (let o = 0; o < perGroup; o++) totals[o] += number * signs[at + o];
          }
        });
        for (let o = 0; o < perGroup; o++) Z[(group * perGroup + o) * outputs + output] = totals[o];
      });
    }
    Z.forEach((sum, i) => (y.data[i] = alpha ? sum * alpha.data[Math.floor(i / outputs)] : sum));
    return { output: y, Z };
  }

  // --- the table ------------------------------------------------------------------------------------------------

  const same = (layer, x) => x;
  const slide = (outputs) => (layer, x) => slid(layer, x, outputs(layer, x));
  const pooled = slide((layer, x) => x[0]);
  const bitConvolution = (run) => ({ shape: slide(filtersOf), run });
  const bitProduct = (run) => ({ shape: (layer) => [filtersOf(layer)], run });
  const realShape = (layer) => layer.tensors.weight.shape[0];

  const ALL = {
    conv2d: { shape: slide(realShape), run: realConvolution },
    linear: { shape: (layer) => [realShape(layer)], run: realConvolution },
    affine: { shape: same, run: each((x, c, t) => fround(x * t.scale.data[c]) + t.shift.data[c]) },
    relu: { shape: same, run: each((x) => Math.max(x, 0)) },
    prelu: {
      shape: same,
      run: each((x, c, t) => (x >= 0 ? x : t.slope.data[t.slope.data.length === 1 ? 0 : c] * x)),
    },
    hardtanh: { shape: same, run: each((x) => Math.min(Math.max(x, -1), 1)) },
    max_pool: { shape: pooled, run: (layer, x) => pool(layer, x, -Infinity, Math.max, (best) => best) },
    avg_pool: {
      shape: pooled,
      run: (layer, x) =>
        pool(
          layer,
          x,
          0,
          (a, b) => fround(a + b),
          (sum, inside, taps) => sum * fround(1 / ((layer.count_include_pad ?? 1) ? taps : inside)),
        ),
    },
    global_avg_pool: { shape: (layer, x) => [x[0]], run: globalMean },
    flatten: { shape: (layer, x) => [size(x)], run: joined },
    add: {
      shape: same,
      run: (layer, x, y) => ({ output: { shape: x.shape, data: x.data.map((number, i) => number + y.data[i]) } }),
    },
    concat: {
      shape: (layer, ...inputs) => [inputs.reduce((sum, [channels]) => sum + channels, 0), ...inputs[0].slice(1)],
      run: joined,
    },
    sign: { shape: same, run: each((x) => (x >= 0 ? 1 : -1)) },
    scale: { shape: same, run: each((x, c, t, i, layer) => x * gamma(t, i, c, layer.shape)) },
    binary_conv2d: bitConvolution(binary),
    binary_linear: bitProduct(binary),
    kbit_conv2d: bitConvolution(kbit),
    kbit_linear: bitProduct(kbit),
    sign_weight_conv2d: bitConvolution(signWeights),
    sign_weight_linear: bitProduct(signWeights),
  };

  // Raw pixels, channels innermost, as the network takes them.
  function normalised(network, pixels) {
    const { shape, mean, std } = network;
    const x = value(shape);
    const plane = planeSize(shape);
    for (let i = 0; i < x.data.length; i++) {
      const c = Math.floor(i / plane);
      x.data[i] = (pixels[(i % plane) * shape[0] + c] / 255 - mean[c]) / std[c];
    }
    return x;
  }

  // One layer of a network, from what the layers before it gave.
  function runLayer(network, layer, image, found) {
    const inputs = layer.inputs.map((at) => (at < 0 ? image : found[at].output));
    return { inputs, ...ALL[layer.op].run(layer, ...inputs) };
  }

  // All layers: a list of { inputs, output } with signs, A, K and Z where a layer has them.
  function run(network, pixels) {
    const image = normalised(network, pixels);
    const found = [];
    for (const layer of network.layers) found.push(runLayer(network, layer, image, found));
    return found;
  }

  // Classes by falling probability (softmax in float64).
  function ranked(logits, classes) {
    const top = logits.reduce((a, b) => Math.max(a, b));
    const powers = Array.from(logits, (logit) => Math.exp(logit - top));
    const sum = powers.reduce((a, b) => a + b);
    const rows = powers.map((power, label) => ({ label, name: classes[label], probability: power / sum }));
    return rows.sort((a, b) => b.probability - a.probability || a.label - b.label);
  }

  return {
    ALL,
    run,
    runLayer,
    normalised,
    ranked,
    signsOfRow,
    bitLayer,
    windowOf,
    visit,
    isBit,
    popcount,
    isOne,
    level,
    gamma,
    size,
    planeSize,
  };
})();
