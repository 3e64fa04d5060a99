"use strict";
// From a picture file to the square that the network is given: the arithmetic of PyTorch's
// antialiased bilinear resizing of bytes, to the last bit (a canvas scales in another way).

// Python rounds halves to the even neighbour.
function roundHalfEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

// How much each old pixel counts in each new one: whole numbers, of which `one` stand for 1.
function resizeWeights(oldSize, newSize) {
  const scale = oldSize / newSize;
  const reach = Math.max(scale, 1);
  const rows = [];
  let largest = 0;
  for (let i = 0; i < newSize; i++) {
    const centre = scale * (i + 0.5);
    const first = Math.max(0, Math.floor(centre - reach));
    const last = Math.min(oldSize, Math.ceil(centre + reach) + 1);
    const weights = [];
    for (let j = first; j < last; j++) {
      weights.push(Math.max(0, 1 - Math.abs((j + 0.5 - centre) / reach)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    rows.push({ first, weights: weights.map((w) => w / sum) });
    largest = Math.max(largest, ...rows[i].weights);
  }
  let one = 2;
  while (one < 2 ** 22 && largest * 2 * one + 0.5 < 2 ** 15) one *= 2;
  for (const row of rows) row.weights = Int32Array.from(row.weights, (w) => Math.floor(w * one + 0.5));
  return { rows, one };
}

const toByte = (sum, one) => Math.min(255, Math.max(0, Math.floor(sum / one + 0.5)));

// Resize one direction of `lines` lines. A pixel of line `l` is at `l * line + i * step`, in both.
function resizeLines(from, to, lines, table, at) {
  for (let l = 0; l < lines; l++) {
    for (let i = 0; i < table.rows.length; i++) {
      const { first, weights } = table.rows[i];
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        let k = l * at.fromLine + first * at.fromStep + channel;
        for (let j = 0; j < weights.length; j++, k += at.fromStep) sum += weights[j] * from[k];
        to[l * at.toLine + i * at.toStep + channel] = toByte(sum, table.one);
      }
    }
  }
}

// The rows `top` to `top + rows` of a picture as bytes (red, green, blue, alpha), on white.
function readStrip(bitmap, top, rows) {
  const canvas = new OffscreenCanvas(bitmap.width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, rows);
  context.drawImage(bitmap, 0, -top);
  return context.getImageData(0, 0, bitmap.width, rows).data;
}

// The picture, `width` pixels wide and as high as it was. Strips keep a large photo small in memory.
function narrow(bitmap, width) {
  const table = resizeWeights(bitmap.width, width);
  const out = new Uint8Array(bitmap.height * width * 3);
  const at = { fromLine: bitmap.width * 4, fromStep: 4, toLine: width * 3, toStep: 3 };
  const strip = Math.max(1, Math.floor(2 ** 20 / bitmap.width));
  for (let top = 0; top < bitmap.height; top += strip) {
    const rows = Math.min(strip, bitmap.height - top);
    resizeLines(readStrip(bitmap, top, rows), out.subarray(top * width * 3), rows, table, at);
  }
  return out;
}

// The picture as `width` × `height` pixels (red, green, blue).
function resize(bitmap, width, height) {
  const narrowed = narrow(bitmap, width);
  const out = new Uint8Array(width * height * 3);
  const step = width * 3;
  const at = { fromLine: 3, fromStep: step, toLine: 3, toStep: step };
  resizeLines(narrowed, out, width, resizeWeights(bitmap.height, height), at);
  return out;
}

// The square of `size` × `size` pixels, stretched, or padded with grey.
function toSquare(bitmap, size, rule) {
  if (rule === "stretch") return resize(bitmap, size, size);
  const fit = (side, other) => Math.max(1, roundHalfEven(size * Math.min(1, side / other)));
  const width = fit(bitmap.width, bitmap.height);
  const height = fit(bitmap.height, bitmap.width);
  const left = roundHalfEven((size - width) * 0.5);
  const top = roundHalfEven((size - height) * 0.5);
  const square = new Uint8Array(size * size * 3).fill(128);
  const small = resize(bitmap, width, height);
  for (let y = 0; y < height; y++) {
    const row = small.subarray(y * width * 3, (y + 1) * width * 3);
    square.set(row, ((top + y) * size + left) * 3);
  }
  return square;
}

// What a file shows, upright, with the colours that are written in it.
function decode(blob) {
  const asWritten = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  return createImageBitmap(blob, { ...asWritten, imageOrientation: "from-image" });
}
