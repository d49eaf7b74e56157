// Display of the answer, the network input, the saliency and the feature maps, for the form of the model in service.

const ALL_BARS = 12; // classes above which only the most probable ones have a bar
const MOST_BARS = 10;
const LONG = 2; // characters of a class name above which it is shown smaller
const CELL = 56; // pixels of a feature map on its canvas
const GAP = 4;
// Minimum log-odds of full colour, so that weak pixels do not look strong when all are weak.
const LEAST = 1;

const wide = matchMedia("(min-width: 40rem)");

const byId = (id) => document.getElementById(id);

// Change text only if it differs, because screen readers read every change.
function write(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

let classes = []; // names, in the order of the probabilities
let bars = [];

// Prepare the page for a model: its classes, the size of its input, and strokes or pictures.
export function form({ classes: names, height, width, channels, preparation, dataset }) {
  classes = names;
  const takesStrokes = preparation.name === "stroke";
  const isMnist = dataset === "mnist";
  document.body.classList.toggle("no-strokes", !takesStrokes);
  write("title", takesStrokes ? `Draw ${isMnist ? "a digit" : `for ${dataset}`}` : `Show a picture for ${dataset}`);
  document.title = byId("title").textContent;
  write("invitation", takesStrokes ? "Draw here" : "Open, drop or paste a picture");
  byId("paper").setAttribute("aria-label", takesStrokes ? "Paper to draw on" : "The picture");
  const how = takesStrokes ? "scaled and centred as in MNIST" : "the whole picture";
  write("form", `${height} × ${width} pixels${channels === 3 ? " in colour" : ""}, ${how}`);
  byId("seen").setAttribute("aria-label", `Network input, ${height} by ${width} pixels`);
  for (const id of ["seen", "saliency"]) Object.assign(byId(id), { height, width });
  byId("bars").replaceChildren();
  byId("bars").classList.toggle("worded", classes.some((name) => name.length > LONG));
  bars = classes.slice(0, classes.length > ALL_BARS ? MOST_BARS : ALL_BARS).map(() => {
    const [row, label, bar, fill, percent] = ["li", "span", "span", "i", "span"].map((tag) => document.createElement(tag));
    bar.className = "bar";
    percent.className = "percent";
    bar.append(fill);
    row.append(label, bar, percent);
    byId("bars").append(row);
    return { row, label, fill, percent };
  });
}

export function trouble(text) {
  write("trouble", text);
}

export function stale(is) {
  document.body.classList.toggle("stale", is);
}

// Mark whether the answer to the current drawing is outstanding.
export function busy(is) {
  byId("answer").setAttribute("aria-busy", is);
}

export function model(about) {
  if (!about.ready) return write("model", `No model is in service: ${about.problem}`);
  const accuracy = percentage(about.test_accuracy, 2);
  const tenth = about.subset === "tenth" ? ", trained on a tenth of MNIST" : "";
  return write("model", `Model “${about.recipe}”, version ${about.version}: recognises ${accuracy} of the test pictures${tenth}`);
}

// Remove the answer; `text` takes its place.
export function empty(text = "There is no picture yet.") {
  document.body.classList.remove("unsure");
  write("digit", "–");
  write("confidence", text);
  write("spoken", "");
  shares(classes.map(() => 0), -1);
  clear("seen", "saliency");
  byId("maps").replaceChildren(paragraph("Each feature map shows where one filter responds to your picture."));
}

// Show an answer of /explain, or of /predict/files without maps; screen readers read it when it is settled.
export function answer(found, isSettled) {
  const sure = found.sure ?? found.confidence >= 0.9;
  const percent = percentage(found.confidence, 1);
  document.body.classList.toggle("unsure", !sure);
  byId("digit").classList.toggle("long", found.label.length > LONG);
  write("digit", sure ? found.label : `${found.label}?`);
  write("confidence", sure ? percent : `${percent}: not sure`);
  const article = found.label.length > LONG ? "" : "a ";
  if (isSettled) write("spoken", `${sure ? "It is" : "Not sure, perhaps"} ${article}${found.label}, ${percent}.`);
  shares(found.probabilities, found.class);
  if (!found.image) {
    clear("seen", "saliency");
    byId("maps").replaceChildren(paragraph("The model in service has no feature maps."));
    return;
  }
  const colours = palette();
  image(found.image, colours);
  saliency(found, colours);
  for (const layer of found.feature_maps) maps(layer, found.feature_maps, colours);
}

function shares(probabilities, best) {
  const order = classes.map((_, index) => index);
  // With many classes, the most probable ones come first; with few, each keeps its place.
  if (classes.length > ALL_BARS) order.sort((one, other) => probabilities[other] - probabilities[one]);
  bars.forEach(({ row, label, fill, percent }, place) => {
    const index = order[place];
    label.textContent = label.title = classes[index];
    row.classList.toggle("best", index === best);
    fill.style.width = `${100 * probabilities[index]}%`;
    percent.textContent = best < 0 ? "" : percentage(probabilities[index], 1);
  });
}

function clear(...ids) {
  for (const id of ids) byId(id).getContext("2d").clearRect(0, 0, byId(id).width, byId(id).height);
}

// Strokes appear in the page's colours, light or dark; other pictures as they are.
function image(rows, { paper, ink }) {
  const isStroke = !document.body.classList.contains("no-strokes");
  paint(byId("seen"), rows[0].length, rows.length, rows.flat(), (value) => {
    if (Array.isArray(value)) return value;
    return isStroke ? mix(paper, ink, value / 255) : [value, value, value];
  });
}

function saliency(found, colours) {
  const drops = found.saliency.flat();
  const ink = found.image.flat().map((value) => (Array.isArray(value) ? Math.max(...value) : value));
  const strongest = Math.max(LEAST, ...drops.map(Math.abs));
  paint(byId("saliency"), found.image[0].length, found.image.length, drops, (drop, at) => {
    const ground = mix(colours.paper, colours.ink, (0.22 * ink[at]) / 255);
    return mix(ground, drop > 0 ? colours.for : colours.against, Math.abs(drop) / strongest);
  });
}

// All maps of a layer on one canvas, each scaled without smoothing.
function maps(layer, layers, { low, high }) {
  const [channels, height, width] = layer.shape;
  const values = Uint8Array.from(atob(layer.values), (letter) => letter.charCodeAt(0));
  const columns = channels <= 32 || !wide.matches ? 8 : 16;
  const rows = Math.ceil(channels / columns);
  const canvas = place(layer, layers, columns / rows);
  canvas.width = columns * (CELL + GAP) - GAP;
  canvas.height = rows * (CELL + GAP) - GAP;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const shades = Array.from({ length: 256 }, (_, value) => mix(low, high, (value / 255) ** 0.6));
  const one = new OffscreenCanvas(width, height);
  for (let channel = 0; channel < channels; channel += 1) {
    const begin = channel * height * width;
    paint(one, width, height, values.subarray(begin, begin + height * width), (value) => shades[value]);
    const [x, y] = [channel % columns, Math.floor(channel / columns)].map((index) => index * (CELL + GAP));
    context.drawImage(one, x, y, CELL, CELL);
  }
}

// Return the canvas of a layer; figures are created with the first answer and when a model has other layers.
function place(layer, layers, aspect) {
  const id = (each) => `layer-${each.name}-${each.shape.join("x")}`;
  if (!byId(id(layer))) {
    const kept = layers.map((each) => byId(id(each))?.parentElement).filter(Boolean);
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    const [channels, height, width] = layer.shape;
    const name = `Convolution ${layer.name.replace("conv", "")}`;
    canvas.id = id(layer);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${channels} feature maps of ${name.toLowerCase()}`);
    caption.textContent = `${name}: ${channels} feature maps of ${height}\u00a0×\u00a0${width}`;
    figure.style.flexGrow = aspect; // gives all maps the same size, side by side
    figure.append(canvas, caption);
    byId("maps").replaceChildren(...kept, figure);
  }
  return byId(id(layer));
}

function paint(canvas, width, height, values, colour) {
  const pixels = new ImageData(width, height);
  values.forEach((value, at) => pixels.data.set([...colour(value, at), 255], 4 * at));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Return the current colours of the page, light or dark, each as three numbers.
function palette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  return Object.fromEntries(["paper", "ink", "low", "high", "for", "against"].map((name) => [name, read(name)]));
}

function mix(one, other, share) {
  return one.map((value, index) => value + (other[index] - value) * share);
}

// Never round up to 100 %: the model is not certain.
function percentage(share, digits) {
  const smallest = 10 ** -digits;
  if (share > 0 && 100 * share < smallest) return "0 %";
  if (share < 1 && 100 * share > 100 - smallest) return `> ${(100 - smallest).toFixed(digits)} %`;
  return `${(100 * share).toFixed(digits)} %`;
}

function paragraph(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}
