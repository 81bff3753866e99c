// Reads packed model files, as docs/model-format.md defines them: bytes in, a list of layers out.
"use strict";

const Reader = (() => {
  const ARRAYS = {
    F32: { name: "float32", bytes: 4, of: (buffer) => new Float32Array(buffer) },
    U64: { name: "uint64", bytes: 8, of: (buffer) => new Uint32Array(buffer) }, // low half first
    U8: { name: "uint8", bytes: 1, of: (buffer) => new Uint8Array(buffer) },
  };
  const VERSIONS = [1, 2, 3, 4, 5, 6];
  const product = (shape) => shape.reduce((a, b) => a * b, 1);

  function need(condition, message) {
    if (!condition) throw new Error(message);
  }

  // The two parts of a file: its description, and its tensors by name.
  function parts(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    need(bytes.length > 8, "this file is too short for a model file");
    const size = Number(view.getBigUint64(0, true));
    need(size <= 2 ** 24 && 8 + size <= bytes.length, "this is not a packed model file");
    let header, text;
    try {
      header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
      text = header.__metadata__.xnor_ref;
      delete header.__metadata__;
    } catch {
      need(false, "this is not a packed model file");
    }
    const tensors = {};
    for (const name of Object.keys(header).sort()) {
      const {
        dtype,
        shape,
        data_offsets: [begin, end],
      } = header[name];
      const kind = ARRAYS[dtype];
      need(kind && end - begin === product(shape) * kind.bytes, `tensor ${name} is damaged`);
      const raw = bytes.slice(8 + size + begin, 8 + size + end); // a copy begins where numbers may
      tensors[name] = { dtype: kind.name, shape, raw, data: kind.of(raw.buffer) };
    }
    return { text, description: JSON.parse(text), tensors };
  }

  // Whether the digest is that of the content; null where the browser cannot compute one.
  async function intact(bytes) {
    if (!globalThis.crypto?.subtle) return null;
    const { text, description, tensors } = parts(bytes);
    const content = text.replace(`"digest":"${description.digest}",`, "");
    const names = Object.keys(tensors);
    const list = JSON.stringify(names.map((name) => [name, tensors[name].dtype, tensors[name].shape]));
    const pieces = [new TextEncoder().encode(`{"metadata":${content},"tensors":${list}}`)];
    pieces.push(...names.map((name) => tensors[name].raw));
    const whole = await new Blob(pieces).arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
    return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("") === description.digest;
  }

  // The network of a model file: input, classes, and layers with their tensors and shapes.
  function network(bytes) {
    const { description, tensors } = parts(bytes);
    need(description.format === "xnor_ref packed network", "this is not a packed model file");
    need(VERSIONS.includes(description.version), `this page reads versions 1 to 6, not ${description.version}`);
    const { channels, height, width, mean, std } = description.input;
    const found = { ...description, layers: [], shape: [channels, height, width], mean, std };
    for (const node of description.graph) {
      const operation = Operations.ALL[node.op];
      need(operation, `this page cannot run the operation ${node.op} of layer ${node.name}`);
      const own = {};
      for (const [name, tensor] of Object.entries(tensors)) {
        const dot = name.lastIndexOf(".");
        if (name.slice(0, dot) === node.name) own[name.slice(dot + 1)] = tensor;
      }
      const inputShapes = node.inputs.map((at) => (at < 0 ? found.shape : found.layers[at].shape));
      const layer = { ...node, index: found.layers.length, tensors: own, inputShapes };
      if (own.tree) own.bits = rowsAlongTree(own.tree.data, node.out_channels, Operations.signsOfRow(layer));
      layer.shape = operation.shape(layer, ...inputShapes);
      found.layers.push(layer);
    }
    return found;
  }

  // The arithmetic decoder of layers along trees; all numbers stay below 2^53.
  function rowsAlongTree(stream, filters, n) {
    let at = 4;
    let code = ((stream[0] * 256 + stream[1]) * 256 + stream[2]) * 256 + stream[3];
    let range = 2 ** 32;
    const narrow = (start, size) => {
      code -= start;
      range = size;
      for (; range < 2 ** 24; range *= 256) code = code * 256 + (stream[at++] || 0);
    };
    const oneOf = (k) => {
      const step = Math.floor(range / k);
      const value = Math.min(Math.floor(code / step), k - 1);
      narrow(value * step, value < k - 1 ? step : range - value * step);
      return value;
    };
    const differs = (ones, left) => {
      const same = left - ones;
      const size = Math.floor(range / left) * same + Math.floor(((range % left) * same) / left);
      const found = code >= size;
      narrow(found ? size : 0, found ? range - size : size);
      return found;
    };
    const words = 2 * Math.ceil(n / 64);
    const rows = new Uint32Array(filters * words);
    const parent = Array.from({ length: filters }, () => oneOf(filters));
    const negated = [];
    for (let o = 0; o < filters; o++) {
      negated[o] = parent[o] !== o && oneOf(2) === 1;
      let ones = oneOf(n + 1);
      for (let i = 0; i < n && ones; i++) {
        if (ones < n - i && !differs(ones, n - i)) continue;
        rows[o * words + (i >>> 5)] |= 1 << (i & 31);
        ones--;
      }
    }
    const done = parent.map((from, o) => from === o);
    const finish = (start) => {
      const path = [];
      for (let o = start; !done[o]; o = parent[o]) path.push(o);
      for (const o of path.reverse()) {
        for (let i = 0; i < n; i += 32) {
          const mask = n - i >= 32 ? -1 : (1 << (n - i)) - 1;
          const from = rows[parent[o] * words + (i >>> 5)] ^ (negated[o] ? mask : 0);
          rows[o * words + (i >>> 5)] ^= from;
        }
        done[o] = true;
      }
    };
    parent.forEach((_, o) => finish(o));
    return { dtype: "uint64", shape: [filters, words / 2], data: rows };
  }

  return { network, intact };
})();
