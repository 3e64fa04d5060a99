"use strict";
// Keeps the files of this folder, so that the page opens again without a network.
// A file comes from the server if there is an answer, so that a new model is seen at once.

async function answer(request) {
  const cache = await caches.open("simpsons_cnn");
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request);
    if (kept) return kept;
    throw error;
  }
}

async function keep(cache) {
  await cache.addAll(["./", "style.css", "prepare.js", "explain.js", "app.js", "ort.js", "ort.wasm",
    "model.json", "model.onnx"]);
  const about = await (await cache.match("model.json")).json();
  await cache.addAll(about.examples);
}

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open("simpsons_cnn").then(keep).then(() => self.skipWaiting()));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});
