import type { EmoStream, EmoStreamEvents, Options } from "./emostream.js";

export interface EmoStreamRoomEventMap extends HTMLElementEventMap, EmoStreamEvents {
  /** The counts that are shown have changed. */
  counts: CustomEvent<{ sum: number }>;
  /** Time from a reaction to this screen: the median of the last measurements, in milliseconds. */
  delay: CustomEvent<{ ms: number }>;
  /** An attribute is not valid. `detail` is an English sentence for developers, as in the console. */
  problem: CustomEvent<{ detail: string }>;
}

/** A sentence with `{names}` of values, or a function of the values where a language needs plural forms. */
export type Message<Values = Record<string, never>> = string | ((values: Values) => string);

/** Every sentence of the element. */
export interface Messages {
  /** Label of the group of buttons. */
  buttons: Message;
  /** Label of a button while its count is unknown. `emoji` is the emoji, or the name of an own emote. */
  react: Message<{ emoji: string }>;
  /** Label of a button. `count` is formatted, as on the button. */
  counted: Message<{ emoji: string; count: string }>;
  /** The summary for screen readers. `number` is the sum as a number, for plural forms; `top` the first three. */
  summary: Message<{ number: number; sum: string; top: string }>;
  /** The hint in an idle room. */
  idle: Message;
  connecting: Message;
  /** The connection has ended for good. */
  closed: Message;
  /** The room needs a token, or the token is not for this room. */
  noAccess: Message;
  /** A reaction was not accepted, since too many wait to be sent. */
  waiting: Message;
  /** Reactions were refused, and are sent again soon. */
  delayed: Message;
  /** Reactions were refused, or the room cannot be joined. */
  unavailable: Message;
}

export declare const MESSAGES: Readonly<Messages>;

/** The attributes of `<emostream-room>`, for the types of a framework's templates. */
export interface EmoStreamRoomAttributes {
  /** The room; `default` by default. */
  room?: string;
  /**
   * The buttons: emojis, with or without spaces between them, and own emotes with a name and the emoji as which they
   * are sent and counted: `🔥👏 :goal:=⚽`.
   */
  emojis?: string;
  /** As in {@link Options}. */
  url?: string;
  /** As in {@link Options}. */
  ingest?: string;
  /** As in {@link Options}. */
  token?: string;
  /** As in {@link Options}. */
  user?: string;
  /** The element is transparent over the positioned element that contains it. Clicks reach the page, except on buttons. */
  overlay?: boolean | "";
  /** `none`: the element has no buttons. */
  buttons?: "none" | (string & {});
  /** No emojis rise. Counts and buttons continue. */
  paused?: boolean | "";
  /** Maximum number of emojis on the canvas; 5000 by default. */
  "max-particles"?: number | string;
  /**
   * Pictures instead of the system's emojis: an address with `{name}`, or a directory of PNG files. The name is that of
   * an own emote, or the emoji's code points as Twemoji names its files (`1f525`). SVG files need a width and a height.
   */
  "emoji-base"?: string;
}

/** `<emostream-room room="match-7" emojis="🔥👏😂">`. Its events are the stream's and its own; all of them bubble. */
export declare class EmoStreamRoom extends HTMLElement {
  room: string;
  emojis: string;
  url: string;
  ingest: string;
  user: string;
  /** The token is not reflected in the attribute. A new token does not interrupt the connection. */
  token: Options["token"];
  overlay: boolean;
  buttons: string;
  paused: boolean;
  maxParticles: number;
  emojiBase: string;
  /** The sentences. A sentence that is not given stays English. */
  get messages(): Readonly<Messages>;
  set messages(messages: Partial<Messages> | undefined);
  /** Undefined while the element is in no page. */
  readonly stream: EmoStream | undefined;
  /** The counts as shown. */
  readonly board: { readonly sum: number; total(emoji: string): number; emojis(): string[] };
  readonly delay_ms: number | undefined;
  /** Number of emojis on the canvas. */
  readonly particles: number;
  /** Whether the room is joined, and nothing has been counted in it for ten seconds. */
  readonly idle: boolean;
  /** Reacts as the emoji's button does. `emoji` may be the name of an own emote. Returns whether it was accepted. */
  react(emoji: string): boolean;
  /** Shows a sentence over the canvas for some seconds. */
  notify(text: string): void;
  addEventListener<K extends keyof EmoStreamRoomEventMap>(
    type: K,
    listener: (this: EmoStreamRoom, event: EmoStreamRoomEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof EmoStreamRoomEventMap>(
    type: K,
    listener: (this: EmoStreamRoom, event: EmoStreamRoomEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "emostream-room": EmoStreamRoom;
  }
}
