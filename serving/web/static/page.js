// The page: sends the drawing and shows the answer.

import { Asker } from "./ask.js";
import { Camera } from "./camera.js";
import { Paper } from "./draw.js";
import * as show from "./show.js";
import { fetchWithToken } from "./token.js";

const POLL = 10_000; // milliseconds between two requests for the model in service
const UNREACHABLE = "The service does not answer. Your drawing is kept and sent again.";

let route = "explain";
let version = null;
let last = null; // the answer on the page

const paper = new Paper(document.getElementById("paper"), (isFinal) => {
  document.body.classList.toggle("drawn", !paper.isEmpty);
  if (paper.isEmpty) {
    asker.forget();
    last = null;
    show.empty();
    show.stale(false);
    show.busy(false);
  } else {
    show.busy(true);
    asker.ask(() => paper.content(), isFinal);
  }
});

const asker = new Asker(send, answered, () => {
  show.trouble(UNREACHABLE);
  show.stale(true);
});

async function send(picture, signal) {
  const body = new FormData();
  body.append("files", picture, "picture");
  const response = await fetchWithToken(route, { method: "POST", body, signal }, again);
  const found = await response.json();
  if (response.status === 501 && route === "explain") {
    route = "predict/files"; // this model has no feature maps
    return send(picture, signal);
  }
  if (response.headers.get("X-Model-Version") !== version) poll();
  return { status: response.status, found, retry: 1000 * (response.headers.get("Retry-After") ?? 1) };
}

function answered({ status, found }, isSettled) {
  show.stale(status !== 200);
  show.busy(!isSettled || status === 503 || status === 429);
  if (status === 200) {
    last = Array.isArray(found) ? found[0] : found;
    show.trouble("");
    show.answer(last, isSettled);
  } else if (status === 503 || status === 429) {
    show.trouble(`The service is busy; retrying: ${found.error}`);
  } else {
    show.trouble(found.error);
    if (status < 500) {
      last = null;
      show.empty("No answer for this picture.");
      show.stale(false);
    }
  }
}

// Show the model in service; with an empty paper, this also detects an unreachable service.
async function poll() {
  try {
    const response = await fetchWithToken("model", { signal: AbortSignal.timeout(POLL / 2) }, again);
    const about = await response.json();
    if (response.status === 401) return show.trouble(about.error);
    if (about.version !== version) route = "explain";
    if (about.ready && about.version !== version) adapt(about);
    version = about.version;
    show.model(about);
    if (document.getElementById("trouble").textContent === UNREACHABLE) {
      show.trouble("");
      if (!paper.isEmpty) asker.ask(() => paper.content(), true);
    }
  } catch {
    show.trouble(UNREACHABLE);
    show.stale(!paper.isEmpty);
  }
}

// Show the classes of another model, and let it have strokes only if it reads them; a picture is sent again.
function adapt(about) {
  show.form(about);
  paper.accept(about.preparation.name === "stroke");
  if (!paper.isEmpty) asker.ask(() => paper.content(), true);
  else show.empty();
}

// After a token was entered.
function again() {
  show.trouble("");
  poll();
  if (!paper.isEmpty) asker.ask(() => paper.content(), true);
}

function open(files) {
  const [file] = files;
  if (!file) return;
  createImageBitmap(file).then(
    (bitmap) => paper.open(file, bitmap),
    () => show.trouble(`${file.name} is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file.`),
  );
}

new Camera(
  document.getElementById("camera"),
  document.getElementById("viewfinder"),
  (file, bitmap) => paper.open(file, bitmap),
  show.trouble,
);
document.getElementById("undo").addEventListener("click", () => paper.undo());
document.getElementById("clear").addEventListener("click", () => paper.clear());
document.getElementById("file").addEventListener("change", (event) => {
  open(event.target.files);
  event.target.value = ""; // allows opening the same file again
});
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") {
    event.preventDefault();
    paper.undo();
  } else if (event.key === "Delete") {
    paper.clear();
  }
});
document.addEventListener("paste", (event) => open(event.clipboardData.files));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  open(event.dataTransfer.files);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paper.paint();
  if (last) show.answer(last, false);
});
setInterval(() => document.hidden || poll(), POLL);

show.empty();
poll();
