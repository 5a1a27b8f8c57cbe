/**
 * The emojis of the attribute `emojis`, and the pictures that `emoji-base` gives them.
 *
 * @module emostream/emotes
 */

import { plain } from "./scoreboard.js";

/** Matches pictures, flags and keycaps, and no letters. */
const EMOJI = /[\p{Extended_Pictographic}\p{Regional_Indicator}\u20E3]/u;
const NAME = /^:([\p{L}\p{N}_+-]+):=$/u;
/** Maximum number of pictures in memory: more than a crowd uses at once. The oldest one is dropped. */
const PICTURES = 256;

/**
 * Parses `🔥👏 :goal:=⚽`. An own emote has a name, and an emoji as which it is sent and counted, since the server
 * counts Unicode emojis only. `strange` has the words that are neither.
 */
export function emotes(text) {
  const found = new Map();
  const strange = [];
  let word = "";
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(`${text} `)) {
    const isEmoji = EMOJI.test(segment);
    if (segment.trim() && !isEmoji) {
      word += segment;
      continue;
    }
    const name = isEmoji ? NAME.exec(word)?.[1] : undefined;
    if (word && !name) strange.push(word);
    if (isEmoji && !found.has(plain(segment))) found.set(plain(segment), { emoji: segment, name });
    word = "";
  }
  return { found: [...found.values()], strange };
}

/** Returns the code points of an emoji as Twemoji names its files: `1f525`, `1f1eb-1f1f7`. */
export function codePoints(emoji) {
  const text = emoji.includes("\u200D") ? emoji : emoji.replaceAll("\uFE0F", "");
  return Array.from(text, (char) => char.codePointAt(0).toString(16)).join("-");
}

export class Pictures {
  #base;
  #names;
  /** @type {Map<string, HTMLImageElement>} */ #images = new Map();

  /** `base` is an address with `{name}` in it, or a directory of PNG files. */
  constructor(base = "", emotes = []) {
    this.#base = base && !base.includes("{name}") ? `${base.replace(/\/+$/, "")}/{name}.png` : base;
    this.#names = new Map(emotes.map(({ emoji, name }) => [plain(emoji), name]));
  }

  /** Returns the address of an emoji's picture; undefined without a base address. */
  url(emoji) {
    const name = this.#names.get(plain(emoji)) ?? codePoints(emoji);
    return this.#base ? this.#base.replaceAll("{name}", encodeURIComponent(name)) : undefined;
  }

  /** Returns an emoji's picture once it is loaded. The first call loads it. */
  loaded(emoji) {
    const url = this.url(emoji);
    if (!url) return undefined;
    let image = this.#images.get(url);
    if (!image) {
      if (this.#images.size >= PICTURES) this.#images.delete(this.#images.keys().next().value);
      image = Object.assign(new Image(), { src: url });
      this.#images.set(url, image);
    }
    // An image that failed to load is also complete, but has no size.
    return image.complete && image.naturalWidth > 0 ? image : undefined;
  }
}
