// The camera: a first press shows its picture, a second press takes it.

const FAILED = "The camera cannot be used; open a picture instead.";

export class Camera {
  // `taken(file, bitmap)` receives each picture, `failed(sentence)` the reason if there is none.
  constructor(button, video, taken, failed) {
    Object.assign(this, { button, video, taken, failed });
    button.hidden = !navigator.mediaDevices?.getUserMedia; // browsers have it on secure addresses only
    button.addEventListener("click", () => (this.stream ? this.take() : this.start()));
  }

  async start() {
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch {
      this.failed(FAILED);
      return;
    }
    this.video.srcObject = this.stream;
    this.video.hidden = false;
    this.button.textContent = "Take it";
  }

  async take() {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return; // the first frame is still to come
    const copy = new OffscreenCanvas(width, height);
    copy.getContext("2d").drawImage(this.video, 0, 0);
    this.stop();
    const file = await copy.convertToBlob({ type: "image/png" });
    this.taken(file, await createImageBitmap(file));
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.hidden = true;
    this.button.textContent = "Camera";
  }
}
