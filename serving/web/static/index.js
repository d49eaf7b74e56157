// The front page: shows the model in service.

import { fetchWithToken } from "./token.js";

const POLL = 10_000; // milliseconds between two requests for the model in service

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(2)} %`;

const ROWS = {
  Recipe: (about) => about.recipe,
  Version: (about) => about.version,
  "Test accuracy": (about) => percent(about.test_accuracy),
  "Validation accuracy": (about) => percent(about.validation_accuracy),
  Parameters: (about) => about.parameters.toLocaleString("en"),
  "Training data": (about) => (about.subset === "tenth" ? `the bundled tenth of ${about.dataset}` : about.dataset),
  Classes: (about) => (about.classes.length <= 20 ? about.classes.join(", ") : `${about.classes.length}`),
  Pictures: (about) => `${about.height} × ${about.width} pixels${about.channels === 3 ? ", in colour" : ""}`,
  "In service since": (about) => new Date(about.loaded_since).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
};

// The state is read by screen readers at each change; the rest is rewritten only if it differs.
function show(state, isTrouble, rows) {
  document.body.classList.toggle("trouble", isTrouble);
  if (byId("state").textContent !== state) byId("state").textContent = state;
  byId("model").hidden = rows.length === 0;
  if (byId("model").textContent !== rows.flat().join("")) byId("model").replaceChildren(...rows.flatMap(pair));
}

function pair([name, value]) {
  const [term, text] = ["dt", "dd"].map((tag) => document.createElement(tag));
  term.textContent = name;
  text.textContent = value;
  return [term, text];
}

async function poll() {
  try {
    const response = await fetchWithToken("model", { signal: AbortSignal.timeout(POLL / 2) }, poll);
    const about = await response.json();
    if (response.status === 401) return show(about.error, true, []);
    if (!about.ready) return show(`No model is in service: ${about.problem}`, true, []);
    const rows = Object.entries(ROWS).map(([name, value]) => [name, value(about)]);
    const notUpdated = about.problem ? `Ready, but not updated: ${about.problem}` : "Ready.";
    return show(notUpdated, Boolean(about.problem), rows);
  } catch {
    return show("The service does not answer.", true, []);
  }
}

setInterval(() => document.hidden || poll(), POLL);
document.addEventListener("visibilitychange", () => document.hidden || poll());

poll();
