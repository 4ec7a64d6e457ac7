// Clips of the dream: the browser records the canvas, as WebM or, where it lacks that, MP4.

const KINDS = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];

/** Records a canvas; `toggle` starts, then stops and resolves to { url, name, size }. */
export class Recorder {
  constructor(canvas, name) {
    this.canvas = canvas;
    this.name = name;
    this.kind = globalThis.MediaRecorder && KINDS.find((k) => MediaRecorder.isTypeSupported(k));
    this.recorder = null;
  }

  get supported() { return Boolean(this.kind && this.canvas.captureStream); }
  get recording() { return this.recorder !== null; }

  start() {
    const pieces = [];
    this.recorder = new MediaRecorder(this.canvas.captureStream(30), {
      mimeType: this.kind, videoBitsPerSecond: 4e6,
    });
    this.recorder.ondataavailable = (event) => pieces.push(event.data);
    this.done = new Promise((resolve) => {
      this.recorder.onstop = () => {
        const blob = new Blob(pieces, { type: this.kind });
        const ending = this.kind.startsWith("video/mp4") ? "mp4" : "webm";
        resolve({ url: URL.createObjectURL(blob), name: `${this.name}.${ending}`, size: blob.size });
      };
    });
    this.recorder.start(500);
  }

  async stop() {
    this.recorder.stop();
    const clip = await this.done;
    this.recorder = null;
    return clip;
  }
}
