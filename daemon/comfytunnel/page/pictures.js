/* URLs of pictures for the screen, and how much of them is held: small ones for tiles, made here and the whole dropped at once, and where a
   token is needed whole ones, as blobs. Each shelf holds the last that were asked for and gives the others back to the browser. */

import { bytes, contentPath, hasToken } from "./api.js";

const AT_ONCE = 2; // fetches; a browser has six connections to one host, and streams hold some
const SMALL_MOST = 200; // some 30 kB each; far more than stand near the window
const WHOLE_MOST = 2; // the one that is looked at, and the one before it
const SIDE = 440; // pixels: a tile has 218 at most, and a fine screen two for each

const queue = [];
let fetching = 0;

class Shelf {
  constructor(most, urgent, make) {
    Object.assign(this, { most, urgent, make, held: new Map() });
  }

  /** Resolve to a URL. `wanted` is asked when its turn has come: what nobody wants any more is not fetched, and rejects. */
  get(asset, wanted) {
    const entry = this.held.get(asset) ?? this.ask(asset);
    entry.wanted.push(wanted);
    this.held.delete(asset);
    this.held.set(asset, entry); // it is the last now
    this.trim();
    return entry.url;
  }

  ask(asset) {
    const entry = { wanted: [], settled: false };
    entry.url = new Promise((done, failed) => {
      const turn = async () => {
        if (!entry.wanted.some(wanted => wanted())) throw new Error("nobody wants it any more");
        done(URL.createObjectURL(await this.make(await bytes(asset))));
        Object.assign(entry, { settled: true, wanted: [] });
        this.trim();
      };
      const failing = error => {
        if (this.held.get(asset) === entry) this.held.delete(asset);
        failed(error);
      };
      queue[this.urgent ? "unshift" : "push"](() => turn().catch(failing));
    });
    next();
    return entry;
  }

  trim() {
    for (const [asset, entry] of this.held) {
      if (this.held.size <= this.most) return;
      if (!entry.settled) continue; // who waits for it would get a URL of nothing
      this.held.delete(asset);
      entry.url.then(URL.revokeObjectURL);
    }
  }
}

function next() {
  queueMicrotask(async () => { // after whoever asks has said that it is wanted
    if (fetching >= AT_ONCE || !queue.length) return;
    fetching += 1;
    await queue.shift()();
    fetching -= 1;
    next();
  });
}

/** The middle of a picture as a square, as a tile shows it; of a moving one the first frame. */
async function square(whole) {
  const picture = await createImageBitmap(whole);
  const cut = Math.min(picture.width, picture.height);
  const side = Math.min(cut, SIDE);
  const canvas = new OffscreenCanvas(side, side);
  const brush = canvas.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, (picture.width - cut) / 2, (picture.height - cut) / 2, cut, cut, 0, 0, side, side);
  picture.close();
  return canvas.convertToBlob({ type: "image/webp", quality: 0.86 });
}

const small = new Shelf(SMALL_MOST, false, square);
const whole = new Shelf(WHOLE_MOST, true, blob => blob);
const always = () => true;

/** A URL for a tile. Rejects for what is no picture that can be shown. */
export const thumbnail = (asset, wanted = always) => small.get(asset, wanted);

/** A URL of the whole, for <img>, <video> or a download: its path, or that of a blob, which stays good until two others were asked for. */
export const content = (asset, wanted = always) => (hasToken() ? whole.get(asset, wanted) : Promise.resolve(contentPath(asset)));
