// node run_engine.js FOLDER, a list of jobs on stdin: what the explorer's scripts compute, as JSON.
// A job is {model, pixels}, files: the raw bytes of one image or several. Arrays come back as their SHA-256.
"use strict";
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { runInThisContext } = require("node:vm");

for (const name of ["operations.js", "reader.js", "photos.js"]) {
  const path = join(process.argv[2], name);
  runInThisContext(readFileSync(path, "utf8"), path);
}
const api = runInThisContext("({ Operations, Reader, Photos })");

function hash(array) {
  const plain = array.map((number) => number + 0); // -0 counts as 0
  return createHash("sha256").update(new Uint8Array(plain.buffer)).digest("hex").slice(0, 16);
}

function traced(network, pixels) {
  const found = api.Operations.run(network, pixels);
  const layers = network.layers.map((layer, i) => {
    const { inputs, output, Z, A, K, levels } = found[i];
    const row = { output: hash(output.data) };
    if (Z) row.Z = hash(Z);
    if (K) row.K = hash(K);
    if (A && layer.kernel_size) row.A = hash(Float32Array.from(A));
    if (levels) row.levels = hash(levels);
    if (layer.op.startsWith("binary")) {
      const { isOne, planeSize } = api.Operations;
      const one = isOne(layer.tensors);
      const plane = planeSize(inputs[0].shape);
      row.signs = hash(Int8Array.from(inputs[0].data, (x, at) => (one(x, Math.floor(at / plane)) ? 1 : -1)));
    }
    return [layer.name, row];
  });
  return { layers: Object.fromEntries(layers), logits: Array.from(found.at(-1).output.data) };
}

async function answer(job) {
  const bytes = new Uint8Array(readFileSync(job.model));
  const network = api.Reader.network(bytes);
  const size = network.shape.reduce((a, b) => a * b, 1);
  const pixels = new Uint8Array(readFileSync(job.pixels));
  const images = [];
  for (let at = 0; at < pixels.length; at += size) images.push(traced(network, pixels.subarray(at, at + size)));
  return { intact: await api.Reader.intact(bytes), images };
}

function resized({ photo, width, height, size, channels, columnsFirst }) {
  const data = new Uint8Array(readFileSync(photo));
  return Array.from(api.Photos.resized({ data, width, height }, ...size, channels, columnsFirst));
}

(async () => {
  const results = [];
  for (const job of JSON.parse(readFileSync(0, "utf8"))) {
    try {
      results.push(job.photo ? resized(job) : await answer(job));
    } catch (error) {
      results.push({ error: error.message });
    }
  }
  process.stdout.write(JSON.stringify(results));
})();
