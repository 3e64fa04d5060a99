"use strict";
// Where the evidence is: cover parts of the picture with grey and see how much less likely the
// name becomes (Zeiler & Fergus 2014). It needs no gradient, which the exported model has not.

const CELLS = 10; // of the map, each way; the grey square covers two by two of them
const HEAT = [[255, 255, 255], [254, 204, 92], [253, 141, 60], [240, 59, 32], [189, 0, 38]];

// A copy of the square with a grey square in it, whose corner is at the cell (column, row).
function cover(square, size, column, row) {
  const copy = square.slice();
  const edge = (cell) => Math.round((cell * size) / CELLS);
  for (let y = edge(row); y < edge(row + 2); y++) {
    copy.fill(128, (y * size + edge(column)) * 3, (y * size + edge(column + 2)) * 3);
  }
  return copy;
}

// How much less likely class `index` becomes, for each cell: the mean over the squares on it.
async function occlusionMap(square, size, index, probabilitiesOf) {
  const before = (await probabilitiesOf([square]))[0][index];
  const sum = new Float32Array(CELLS * CELLS);
  const count = new Float32Array(CELLS * CELLS);
  for (let row = 0; row < CELLS - 1; row++) {
    const covered = [];
    for (let column = 0; column < CELLS - 1; column++) covered.push(cover(square, size, column, row));
    const after = await probabilitiesOf(covered);
    after.forEach((probabilities, column) => {
      for (const cell of [0, 1, CELLS, CELLS + 1].map((k) => row * CELLS + column + k)) {
        sum[cell] += Math.max(0, before - probabilities[index]);
        count[cell] += 1;
      }
    });
  }
  const map = sum.map((value, i) => value / count[i]);
  const most = Math.max(...map);
  return most > 0 ? map.map((value) => value / most) : map;
}

// The map at a point, both from 0 to 1, between the centres of its cells.
function mapAt(map, x, y) {
  const place = (v) => Math.min(CELLS - 1, Math.max(0, v * CELLS - 0.5));
  const [column, row] = [place(x), place(y)];
  const [left, top] = [Math.floor(column), Math.floor(row)];
  const [right, bottom] = [Math.min(left + 1, CELLS - 1), Math.min(top + 1, CELLS - 1)];
  const mix = (a, b, share) => a + (b - a) * share;
  const upper = mix(map[top * CELLS + left], map[top * CELLS + right], column - left);
  const lower = mix(map[bottom * CELLS + left], map[bottom * CELLS + right], column - left);
  return mix(upper, lower, row - top);
}

// White, yellow, orange, red, dark red: each darker than the one before.
function heatColour(share, channel) {
  const step = share * (HEAT.length - 1);
  const i = Math.min(HEAT.length - 2, Math.floor(step));
  return HEAT[i][channel] + (HEAT[i + 1][channel] - HEAT[i][channel]) * (step - i);
}

// The square in light grey under the colours of the map, as a canvas.
function overlay(square, size, map) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    const [red, green, blue] = square.subarray(i * 3, i * 3 + 3);
    const light = 0.4 + (0.6 * (0.299 * red + 0.587 * green + 0.114 * blue)) / 255;
    const share = mapAt(map, ((i % size) + 0.5) / size, (Math.floor(i / size) + 0.5) / size);
    for (let c = 0; c < 3; c++) image.data[i * 4 + c] = light * heatColour(share, c);
    image.data[i * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
