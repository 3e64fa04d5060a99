"use strict";
// Names characters in pictures. Everything is computed here; no picture leaves the machine.

const byId = (id) => document.getElementById(id);
const readable = (name) => name.replaceAll("_", " ");
const percent = (p) => `${(100 * p).toFixed(1)} %`;
let about; // model.json
let session; // of onnxruntime-web
let runtime; // onnxruntime-web itself
let busy = Promise.resolve(); // pictures wait here for each other

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(message) {
  byId("status").textContent = message;
}

async function load() {
  const start = performance.now();
  [about, runtime] = await Promise.all([
    fetch("model.json").then((response) => response.json()),
    import("./ort.js"),
  ]);
  runtime.env.wasm.numThreads = 1; // more need headers that simple servers do not send
  runtime.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", location.href).href };
  session = await runtime.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  return performance.now() - start;
}

// For squares from `toSquare`: { probabilities: an array for each, scores: a number for each }.
async function run(squares) {
  const { size, classes } = about;
  const data = new Uint8Array(squares.length * size * size * 3);
  squares.forEach((square, i) => data.set(square, i * square.length));
  const shape = [squares.length, size, size, 3];
  const out = await session.run({ pictures: new runtime.Tensor("uint8", data, shape) });
  const all = out.probabilities.data;
  const n = classes.length;
  return {
    probabilities: squares.map((_, i) => Array.from(all.subarray(i * n, (i + 1) * n))),
    scores: Array.from(out.familiarity.data),
  };
}

// The answer for a picture file: { square, probabilities, known }.
async function classify(blob) {
  const bitmap = await decode(blob);
  const square = toSquare(bitmap, about.size, about.resize_rule);
  bitmap.close();
  const { probabilities, scores } = await run([square]);
  const known = about.threshold === null || scores[0] >= about.threshold;
  return { square, probabilities: probabilities[0], known };
}

function topFive(probabilities) {
  const order = probabilities.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]);
  return order.slice(0, 5).map(([p, i]) => ({ name: readable(about.classes[i]), p, index: i }));
}

function barList(top) {
  const list = element("ol", "", { "aria-label": "Most likely names" });
  for (const { name, p } of top) {
    const row = element("li");
    row.append(element("span", name), element("span", percent(p)));
    row.append(element("progress", "", { value: p, max: 1, "aria-hidden": "true" }));
    list.append(row);
  }
  return list;
}

function scaleOfColours() {
  const scale = element("div", "", { class: "scale" });
  scale.append(element("i", "", { "aria-hidden": "true" }));
  scale.append(element("span", "supports it most"), "does not matter");
  return scale;
}

// A button that puts the map in the place of the picture, and back.
function whyButton(answer, name, index, picture) {
  const button = element("button", "Why?", { type: "button", "aria-pressed": "false" });
  let shown = null;
  button.addEventListener("click", async () => {
    button.disabled = true;
    if (!shown) {
      say(`Looking for what supports ${name} …`);
      const of = async (squares) => (await run(squares)).probabilities;
      const map = await occlusionMap(answer.square, about.size, index, of);
      shown = element("div");
      const canvas = overlay(answer.square, about.size, map);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `What supports ${name}, as a heat map`);
      shown.append(canvas, scaleOfColours());
    }
    const toMap = picture.isConnected;
    (toMap ? picture : shown).replaceWith(toMap ? shown : picture);
    button.setAttribute("aria-pressed", String(toMap));
    say(toMap ? `Red parts support ${name}: covered with grey, they make it less likely.` : "");
    button.disabled = false;
    button.focus();
  });
  return button;
}

function addCard(file, ...parts) {
  const card = element("li", "", { class: "card" });
  card.append(...parts, element("div", file, { class: "file" }));
  byId("answers").prepend(card);
  byId("clear").hidden = false;
}

function showAnswer(blob, file, answer) {
  const top = topFive(answer.probabilities);
  const head = answer.known ? top[0].name : `Not sure; nearest: ${top[0].name}`;
  const picture = element("img", "", { alt: file, src: URL.createObjectURL(blob) });
  const why = whyButton(answer, top[0].name, top[0].index, picture);
  addCard(file, picture, element("h2", head), barList(top), why);
  say(`${file}: ${head}, ${percent(top[0].p)}`);
}

function showError(file) {
  const text = "This file is not a picture that the browser can read.";
  addCard(file, element("p", text, { class: "wrong", role: "alert" }));
  say(`${file} cannot be read`);
}

async function answerOne(blob, file) {
  const start = performance.now();
  say(`Looking at ${file} …`);
  let answer;
  try {
    answer = await classify(blob);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error; // not the fault of the file
    showError(file);
    return;
  }
  showAnswer(blob, file, answer);
  byId("cost").textContent = `${loaded} Last answer: ${Math.round(performance.now() - start)} ms.`;
}

function answerAll(files) {
  for (const file of files) {
    busy = busy
      .then(() => answerOne(file, file.name || "picture"))
      .catch((error) => say(`Something went wrong: ${error.message}`));
  }
  return busy;
}

// A button for each picture that the folder holds for visitors to try.
function showExamples(files) {
  for (const [i, file] of files.entries()) {
    const button = element("button", "", { type: "button" });
    button.append(element("img", "", { src: file, alt: `Example ${i + 1}` }));
    button.addEventListener("click", async () => {
      const picture = await fetch(file).then((response) => response.blob());
      answerAll([new File([picture], file)]);
    });
    byId("examples").append(button);
  }
  byId("examples").hidden = files.length === 0;
}

function clear() {
  for (const image of document.querySelectorAll(".card img")) URL.revokeObjectURL(image.src);
  byId("answers").replaceChildren();
  byId("clear").hidden = true;
  say("No pictures");
  byId("files").focus();
}

function listenForFiles() {
  byId("files").addEventListener("change", (event) => {
    answerAll([...event.target.files]);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => answerAll([...event.clipboardData.files]));
  const mark = (on) => byId("drop").classList.toggle("over", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // or the browser opens what is dropped
    mark(true);
  });
  document.addEventListener("dragleave", () => mark(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    answerAll([...event.dataTransfer.files]);
  });
  byId("clear").addEventListener("click", clear);
}

function listenForCamera() {
  if (!navigator.mediaDevices) return; // needs https or localhost
  const [dialog, video] = [byId("viewfinder"), document.querySelector("video")];
  byId("camera").hidden = false;
  byId("camera").addEventListener("click", async () => {
    try {
      const wanted = { video: { facingMode: "environment" } };
      video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
      byId("shoot").disabled = true; // until there is an image
      dialog.showModal();
      await video.play();
      byId("shoot").disabled = false;
    } catch (error) {
      say(`The camera cannot be used: ${error.message}`);
    }
  });
  byId("shoot").addEventListener("click", async () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/png" });
    dialog.close();
    answerAll([new File([blob], "camera")]);
  });
  byId("cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    for (const track of video.srcObject.getTracks()) track.stop();
  });
}

let loaded = "";
async function begin() {
  const took = await load();
  const size = `${(about.bytes / 1e6).toFixed(1)} MB`;
  loaded = `${size} loaded and ready in ${(took / 1000).toFixed(1)} s.`;
  byId("about").textContent =
    `Names ${about.classes.length} characters. Your pictures stay on this machine.`;
  byId("cost").textContent = loaded;
  byId("files").disabled = false;
  listenForFiles();
  listenForCamera();
  showExamples(about.examples);
  say("Ready");
  navigator.serviceWorker?.register("offline.js").catch(() => {}); // works without it
}

// A browser loads nothing from beside a file; the page then keeps the line that says what to do.
if (location.protocol !== "file:") {
  begin().catch((error) => say(`The model could not be loaded: ${error.message}`));
}
