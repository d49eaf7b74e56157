// The paper: strokes and pictures on a canvas. Each change is a new sheet, so that all can be undone.

const SIDE = 280; // pixels of a sheet and of the picture that the service receives
const PEN = 22; // stroke width as in MNIST, for a digit that fills the sheet
const STEP = 7; // pixels per press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const EMPTY = { strokes: [] };

export class Paper {
  // `changed(isFinal)` is called after each change: false during a stroke.
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.sheets = [EMPTY];
    this.stroke = null; // the unfinished stroke, a list of [x, y]
    this.pen = null; // position of the keyboard's pen, once an arrow key was pressed
    this.takesStrokes = true; // false: only pictures are shown
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, (event) => this.up(event));
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  get sheet() {
    return this.sheets.at(-1);
  }

  get isEmpty() {
    return !this.sheet.picture && this.sheet.strokes.length === 0;
  }

  // Take strokes, or pictures alone: then a drawing is removed.
  accept(strokes) {
    if (this.takesStrokes === strokes) return;
    this.takesStrokes = strokes;
    this.pen = this.stroke = null;
    if (!strokes && this.sheet.strokes.length) this.clear();
  }

  undo() {
    this.stroke = null;
    if (this.sheets.length > 1) this.sheets.pop();
    this.done(true);
  }

  clear() {
    this.stroke = null;
    if (!this.isEmpty) this.sheets.push(EMPTY);
    this.done(true);
  }

  // Replace the drawing by a picture: `bitmap` is shown, `file` is sent unchanged.
  open(file, bitmap) {
    this.sheets.push({ strokes: [], picture: { file, bitmap } });
    this.done(true);
  }

  // The picture to send: the opened file, or the drawing in black on white regardless of the page's colours.
  content() {
    if (this.sheet.picture) return Promise.resolve(this.sheet.picture.file);
    const copy = new OffscreenCanvas(SIDE, SIDE);
    const context = copy.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE, SIDE);
    this.draw(context, "#000");
    return copy.convertToBlob({ type: "image/png" });
  }

  paint() {
    const { canvas } = this;
    const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.setTransform(side / SIDE, 0, 0, side / SIDE, 0, 0);
    context.clearRect(0, 0, SIDE, SIDE);
    if (this.sheet.picture) {
      const { bitmap } = this.sheet.picture;
      const scale = SIDE / Math.max(bitmap.width, bitmap.height);
      const [width, height] = [bitmap.width * scale, bitmap.height * scale];
      context.drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
    }
    const colours = getComputedStyle(canvas);
    this.draw(context, colours.getPropertyValue("--ink"));
    if (this.pen) {
      context.strokeStyle = colours.getPropertyValue("--accent");
      context.lineWidth = this.stroke ? 4 : 2;
      context.beginPath();
      context.arc(...this.pen, PEN / 2, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  draw(context, colour) {
    Object.assign(context, { strokeStyle: colour, lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    for (const points of this.sheet.strokes) {
      context.beginPath();
      context.moveTo(...points[0]);
      // Curves from the middle of one segment to the middle of the next smooth the corners of a mouse's path.
      for (let index = 1; index < points.length - 1; index += 1) {
        const [x, y] = points[index];
        const [nextX, nextY] = points[index + 1];
        context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
      }
      const [x, y] = points.at(-1);
      context.lineTo(x + 0.01, y); // a line of length zero would not be drawn
      context.stroke();
    }
  }

  begin(point) {
    // A stroke on a picture begins a new, empty sheet.
    this.stroke = [point];
    this.sheets.push({ strokes: [...(this.sheet.picture ? [] : this.sheet.strokes), this.stroke] });
    this.done(false);
  }

  done(isFinal) {
    this.paint();
    this.changed(isFinal);
  }

  down(event) {
    if (!this.takesStrokes || this.pointer !== undefined || event.button !== 0) return; // a second finger, another button
    this.pointer = event.pointerId;
    this.pen = null;
    this.canvas.setPointerCapture(event.pointerId);
    this.begin(this.place(event));
  }

  move(event) {
    if (event.pointerId !== this.pointer || !this.stroke) return;
    // Browsers fire one event per frame; the coalesced events hold the positions in between.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.stroke.push(this.place(each));
    this.done(false);
  }

  up(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = undefined;
    if (!this.stroke) return; // cleared during the stroke
    this.stroke = null;
    this.done(true);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  key(event) {
    const arrow = ARROWS[event.key];
    if (!this.takesStrokes || event.ctrlKey || event.metaKey || event.altKey || (!arrow && event.key !== " ")) return;
    event.preventDefault();
    this.pen ??= [SIDE / 2, SIDE / 4];
    if (arrow) {
      this.pen = this.pen.map((value, axis) => Math.min(Math.max(value + STEP * arrow[axis], 0), SIDE));
      this.stroke?.push(this.pen);
      if (this.stroke) this.changed(false);
    } else if (this.stroke) {
      this.stroke = null;
      this.changed(true);
    } else {
      this.begin(this.pen);
    }
    this.paint();
  }

  leave() {
    if (this.stroke && this.pen) {
      this.stroke = null;
      this.changed(true);
    }
    this.pen = null;
    this.paint();
  }
}
