import type { EmoStream, EmoStreamEvents } from "./emostream.js";

export interface EmoStreamRoomEvents extends EmoStreamEvents {
  /** What is shown has changed. */
  counts: CustomEvent<{ sum: number }>;
  /** From a reaction to this screen: the median of the last measurements, milliseconds. */
  delay: CustomEvent<{ ms: number }>;
}

/**
 * `<emostream-room room="match-7" emojis="🔥👏😂">`. Attributes: `room`, `emojis`, and `url`, `ingest`,
 * `token`, `user` as in {@link EmoStream}'s options. `emojis` takes emojis themselves, with or without spaces:
 * names (`fire`) are none. Its events are the stream's, and two of its own.
 */
export declare class EmoStreamRoom extends HTMLElement {
  /** Undefined while the element stands in no page. */
  readonly stream: EmoStream | undefined;
  readonly delay_ms: number | undefined;
  react(emoji: string): boolean;
  /** Shows a sentence over the canvas for some seconds. */
  notify(text: string): void;
  addEventListener<K extends keyof EmoStreamRoomEvents>(
    type: K,
    listener: (event: EmoStreamRoomEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "emostream-room": EmoStreamRoom;
  }
}
