/** One emoji's count. `count = swarms × swarm_size + loose`. */
export interface Count {
  emoji: string;
  count: number;
  swarms: number;
  loose: number;
}

/** One emoji's count where swarms do not matter. */
export interface Total {
  emoji: string;
  count: number;
}

/** The running tally of an open window; the newest one wins. Times are Unix milliseconds. */
export interface Live {
  type: "live";
  room: string;
  start: number;
  end: number;
  emitted_at: number;
  total: number;
  /** The top 20. */
  counts: Count[];
  /** The sum of the rest, where there is one. */
  others?: number;
}

/** The exact tally of a closed window. */
export interface Final extends Omit<Live, "type"> {
  type: "final";
  /** `partition-offset`: where to resume. */
  id: string;
  /** The room's cumulative counts as of this window, the top 20. */
  totals: Total[];
  totals_others?: number;
}

/** The room's top emojis in the last `span_ms`; nothing is trending where `top` is empty. */
export interface Trending {
  type: "trending";
  room: string;
  span_ms: number;
  top: Total[];
}

/** Finals after `after` were missed; `state` follows. */
export interface Gap {
  type: "gap";
  after: string;
  reason: "slow" | "expired";
}

/** A connection stands. */
export interface Hello {
  type: "hello";
  room: string;
  /** The server's time. */
  now: number;
  /** The server sends a heartbeat after a silence of so long; without two of them the connection is replaced. */
  heartbeat_ms: number;
  /** The newest final that the server keeps of the room: those up to it are replayed. Null if it keeps none. */
  latest: string | null;
  window_ms: number;
  live_ms: number;
  swarm_size: number;
  /** Whether every final since the last one follows. */
  resumed: boolean;
}

/** The room now: what `GET /v1/rooms/{room}` answers. */
export interface RoomState {
  room: string;
  /** The last final; null once it is ten minutes old. The totals stay. */
  final: Final | null;
  live: Live | null;
  total: number;
  totals: Total[];
  totals_others?: number;
  trending: Trending | null;
  /** The audience at this server and the relays below it, without observers. */
  subscribers: number;
}

/**
 * - `connecting`: until `hello`, and again after a break
 * - `open`: frames come
 * - `paused`: the page has been out of sight for a minute; it goes on where it was when it is seen again
 * - `closed`: for good, by `close()` or by a server that said not to come back
 */
export type Status = "connecting" | "open" | "paused" | "closed";

/** Reactions were not taken. They are tried again after `retry_ms`, or dropped where that is 0. */
export interface Refused {
  /** A sentence for people. */
  detail: string;
  retry_ms: number;
}

export interface EmoStreamEvents {
  hello: CustomEvent<Hello>;
  live: CustomEvent<Live>;
  final: CustomEvent<Final>;
  trending: CustomEvent<Trending>;
  gap: CustomEvent<Gap>;
  /** On joining, and after finals were missed. */
  state: CustomEvent<RoomState>;
  status: CustomEvent<{ status: Status }>;
  refused: CustomEvent<Refused>;
}

export interface Options {
  /**
   * The server's url: `http:` or `https:`, a host, and the path that a proxy puts before the server's own, if it
   * does. By default the origin that this module came from.
   */
  url?: string;
  /** Where reactions are sent, written as `url` is, and by default the same. */
  ingest?: string;
  /** 1 to 64 letters, digits and `. _ ~ -`, but not `.` or `..`; by default `default`. */
  room?: string;
  /** A JWT, for a server that asks for one. */
  token?: string;
  /** Who reacts: by default the token's `sub`, without a token a random name that this browser keeps. */
  user?: string;
  /** By default a WebSocket, and Server-Sent Events where no WebSocket gets through. */
  transport?: "auto" | "websocket" | "sse";
  /** Stay connected however long the page is out of sight. */
  background?: boolean;
  /** Receive without being counted among the room's `subscribers`: for dashboards and tools. */
  observer?: boolean;
}

/** One room. Every event is a `CustomEvent`, its `detail` the frame. */
export declare class EmoStream extends EventTarget {
  constructor(options?: Options);
  readonly room: string;
  readonly status: Status;
  readonly transport: "websocket" | "sse";
  /** The server's time, Unix milliseconds; this device's before the first `hello`. */
  readonly now: number;
  /**
   * Whether a frame tells what was counted before this connection began: the final that is replayed on joining, the
   * tally of a window that was open then, the finals that were missed during an outage. Such a frame is not news.
   */
  isPast(frame: Live | Final): boolean;
  /**
   * Sends one reaction soon: one emoji, its shortcode as on GitHub (gemoji's names: `fire`, `:fire:`) or an
   * alias of the server's (`love`). Taps of 250 ms travel together; what cannot be sent for 10 s is let go, told
   * by `refused`.
   * @returns false when too many are waiting, or the stream is closed
   */
  react(emoji: string): boolean;
  /** Leaves the room for good; what was tapped before still goes out. */
  close(): void;
  addEventListener<K extends keyof EmoStreamEvents>(
    type: K,
    listener: (event: EmoStreamEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}

/**
 * Joins a room: receives at once, and reconnects until `close()`.
 * For browsers: it needs their WebSocket or EventSource. A relative url is taken from the page.
 * @throws TypeError when the room's name, the url or the transport is not valid
 */
export declare function connect(options?: Options): EmoStream;
