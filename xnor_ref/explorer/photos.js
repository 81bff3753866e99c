// From a photo to a network's pixels, with the arithmetic of Pillow: cropped to the middle, then reduced by a bicubic
// filter whose support grows with the reduction, in integers, first along rows and then along columns.
"use strict";

const Photos = (() => {
  const PRECISION = 22; // bits after the point of a coefficient

  function bicubic(x) {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  }

  // For each output: the first pixel that it takes, and the coefficients from there on.
  function coefficients(pixels, begin, end, outputs) {
    const scale = (end - begin) / outputs;
    const reduction = Math.max(scale, 1);
    const support = 2 * reduction;
    return Array.from({ length: outputs }, (_, output) => {
      const centre = begin + (output + 0.5) * scale;
      const first = Math.max(0, Math.trunc(centre - support + 0.5));
      const last = Math.min(pixels, Math.trunc(centre + support + 0.5));
      const weights = [];
      for (let pixel = first; pixel < last; pixel++) weights.push(bicubic((pixel - centre + 0.5) * (1 / reduction)));
      const sum = weights.reduce((a, b) => a + b, 0);
      const whole = weights.map((w) => {
        const share = (sum ? w / sum : w) * 2 ** PRECISION;
        return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
      });
      return { first, whole };
    });
  }

  // One pass along an axis: every output is a weighted sum of pixels that lie `step` apart, rounded to 8 bits. There are
  // `lines` such axes, `along` apart. Pixels have three numbers.
  function pass(data, weights, lines, [step, along], [outStep, outAlong], out) {
    const half = 1 << (PRECISION - 1);
    for (let line = 0; line < lines; line++)
      for (let output = 0; output < weights.length; output++) {
        const { first, whole } = weights[output];
        let red = half,
          green = half,
          blue = half;
        for (let i = 0, at = line * along + first * step; i < whole.length; i++, at += step) {
          red += data[at] * whole[i];
          green += data[at + 1] * whole[i];
          blue += data[at + 2] * whole[i];
        }
        const to = line * outAlong + output * outStep;
        out[to] = red >> PRECISION; // the array clips to 0 and 255
        out[to + 1] = green >> PRECISION;
        out[to + 2] = blue >> PRECISION;
      }
    return out;
  }

  // Pixels (height, width, 4) as the browser gives them, to (outHeight, outWidth, channels). One channel is grey.
  // `columnsFirst`: from version 13 on Pillow begins with the columns where that is less work.
  function resized({ data, width, height }, outHeight, outWidth, channels, columnsFirst) {
    const across = Math.min(width, (height * outWidth) / outHeight);
    const down = Math.min(height, (width * outHeight) / outWidth);
    const left = (width - across) / 2;
    const top = (height - down) / 2;
    const { fround } = Math; // a box is four float32 numbers
    const columns = coefficients(width, fround(left), fround(left + across), outWidth);
    const rows = coefficients(height, fround(top), fround(top + down), outHeight);
    const room = (pixels) => new Uint8ClampedArray(pixels * 3);
    const rgb = room(outHeight * outWidth);
    if (columnsFirst && height - outHeight > 2 * Math.max(0, width - outWidth)) {
      const low = pass(data, rows, width, [width * 4, 4], [width * 3, 3], room(outHeight * width));
      pass(low, columns, outHeight, [3, width * 3], [3, outWidth * 3], rgb);
    } else {
      const narrow = pass(data, columns, height, [4, width * 4], [3, outWidth * 3], room(height * outWidth));
      pass(narrow, rows, outWidth, [outWidth * 3, 3], [outWidth * 3, 3], rgb);
    }
    if (channels === 3) return rgb;
    const grey = (_, i) => (19595 * rgb[3 * i] + 38470 * rgb[3 * i + 1] + 7471 * rgb[3 * i + 2] + 0x8000) >> 16;
    return Uint8ClampedArray.from({ length: outHeight * outWidth }, grey);
  }

  return { resized };
})();
