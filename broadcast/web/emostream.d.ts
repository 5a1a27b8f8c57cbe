/** One emoji's count. `count = swarms × swarm_size + loose`. */
export interface Count {
  emoji: string;
  count: number;
  swarms: number;
  loose: number;
}

/** The count of one emoji, without swarms. */
export interface Total {
  emoji: string;
  count: number;
}

/** The tally of an open window. A newer tally of the same window replaces it. Times are Unix milliseconds. */
export interface Live {
  type: "live";
  room: string;
  start: number;
  end: number;
  emitted_at: number;
  total: number;
  /** The top 20. */
  counts: Count[];
  /** The sum of the counts that are not listed, if there are any. */
  others?: number;
}

/** The exact tally of a closed window. */
export interface Final extends Omit<Live, "type"> {
  type: "final";
  /** The id, `partition-offset`, from which a later stream can resume. */
  id: string;
  /** The room's cumulative counts as of this window, the top 20. */
  totals: Total[];
  totals_others?: number;
}

/** The room's top emojis in the last `span_ms`. If `top` is empty, nothing is trending. */
export interface Trending {
  type: "trending";
  room: string;
  span_ms: number;
  top: Total[];
}

/** Finals after `after` were missed. A `state` event follows. */
export interface Gap {
  type: "gap";
  after: string;
  reason: "slow" | "expired";
}

/** The first frame of a connection. */
export interface Hello {
  type: "hello";
  room: string;
  /** The server's time. */
  now: number;
  /** Time without another frame after which the server sends a heartbeat. After two missing ones, the client reconnects. */
  heartbeat_ms: number;
  /** The newest final that the server keeps of the room. Finals up to it are replayed. Null if it keeps none. */
  latest: string | null;
  window_ms: number;
  live_ms: number;
  swarm_size: number;
  /** Whether all finals after the last received one follow. */
  resumed: boolean;
}

/** The current state of the room, as `GET /v1/rooms/{room}` returns it. */
export interface RoomState {
  room: string;
  /** The last final; null if it is older than ten minutes. The totals are kept. */
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
 * - `connecting`: until `hello`, and after a connection was lost
 * - `open`: frames are received
 * - `paused`: the page was hidden for a minute; when it is visible again, the stream resumes
 * - `closed`: for good. A new stream with `since: stream.lastId` continues
 */
export type Status = "connecting" | "open" | "paused" | "closed";

/**
 * Why a stream is `connecting`; `open` has the reason for which it was connecting before:
 * - `start`: the first connection
 * - `lost`: the connection was closed, or no heartbeats came
 * - `unreachable`: an attempt to connect has failed
 * - `server`: the server asked to reconnect, as before a restart
 * - `token`: the token was renewed or has expired, or the function for it has failed
 * - `hidden`: the page is visible again
 *
 * Why it is `paused`: `hidden`. Why it is `closed`:
 * - `closed`: by `close()`
 * - `unauthorized`: the token is missing or not valid, and there is no new one
 * - `forbidden`: the token is not for this room
 * - `ended`: the server closed the connection with a code that forbids reconnecting
 */
export type Reason =
  | "start" | "lost" | "unreachable" | "server" | "token" | "hidden"
  | "closed" | "unauthorized" | "forbidden" | "ended";

export interface StatusChange {
  status: Status;
  reason: Reason;
  /** An English sentence for developers. */
  detail: string;
}

/** Reactions were not accepted. They are sent again after `retry_ms`, or dropped if that is 0. */
export interface Refused {
  /** An English sentence. */
  detail: string;
  retry_ms: number;
  /** The emojis that were given to `react()`, one for each reaction. Empty if the room was refused. */
  emojis: string[];
}

// These declarations need no `lib: dom`. With it, or with the types of Node, events and streams are also the DOM's.
type DomEvent = typeof globalThis extends { CustomEvent: { prototype: infer E } } ? Omit<E, "type" | "detail"> : {};

/** A `CustomEvent`. */
export interface StreamEvent<Type extends string, Detail> extends DomEvent {
  readonly type: Type;
  readonly detail: Detail;
}

export interface EmoStreamEvents {
  hello: StreamEvent<"hello", Hello>;
  live: StreamEvent<"live", Live>;
  final: StreamEvent<"final", Final>;
  trending: StreamEvent<"trending", Trending>;
  gap: StreamEvent<"gap", Gap>;
  /** On joining, and after finals were missed. */
  state: StreamEvent<"state", RoomState>;
  /** The status or its reason has changed. */
  status: StreamEvent<"status", StatusChange>;
  refused: StreamEvent<"refused", Refused>;
}

export type Listener<Type extends keyof EmoStreamEvents> =
  | ((event: EmoStreamEvents[Type]) => void)
  | { handleEvent(event: EmoStreamEvents[Type]): void };

export interface ListenerOptions {
  once?: boolean;
  capture?: boolean;
  passive?: boolean;
  /** An `AbortSignal`. */
  signal?: any;
}

/** The part of the `WebSocket` interface that is used. The class of the package `ws` has it, too. */
export interface WebSocketConstructor {
  new (url: any, protocols?: string[]): {
    onmessage: ((event: any) => any) | null;
    onclose: ((event: any) => any) | null;
    onerror: ((event: any) => any) | null;
    close(code?: number): void;
  };
}

export interface Options {
  /**
   * The server's url: `http:` or `https:`, a host, and the path that a proxy puts before the server's own, if there is
   * one. By default the origin of this module. A relative url is resolved against the page's.
   */
  url?: string | undefined;
  /** The url to which reactions are sent; by default `url`. */
  ingest?: string | undefined;
  /** 1 to 64 letters, digits and `. _ ~ -`, but not `.` or `..`; by default `default`. */
  room?: string | undefined;
  /**
   * A JWT, for a server that requires one. A function is called at each connection, when the server has refused the
   * token, and before it expires; so it should not return one that it returned before.
   */
  token?: string | (() => string | Promise<string>) | undefined;
  /** The `user_id` of reactions; by default the token's `sub`, and without a token a random name that the browser stores. */
  user?: string | undefined;
  /** By default a WebSocket, or Server-Sent Events if no WebSocket can be opened. */
  transport?: "auto" | "websocket" | "sse" | undefined;
  /** The connection stays open while the page is hidden. */
  background?: boolean | undefined;
  /** The room's `subscribers` do not count this connection: for dashboards and tools. */
  observer?: boolean | undefined;
  /** The `lastId` of an earlier stream. The finals after it are received, or `hello.resumed` is false. */
  since?: string | undefined;
  /** By default the global `WebSocket`. Node before version 22 has none: use the one of the package `ws`. */
  WebSocket?: WebSocketConstructor | undefined;
}

/** One room. It is an `EventTarget`, whose events are `CustomEvent`s; `detail` of most is the frame. */
export declare class EmoStream {
  constructor(options?: Options);
  readonly room: string;
  readonly status: Status;
  readonly transport: "websocket" | "sse";
  /** The id of the newest final that was received, or `since` until then. */
  readonly lastId: string | undefined;
  /**
   * The option `token`. A token that is set is used for the next requests and the next connection. The current
   * connection is not interrupted; the server closes it when its token expires, and the stream connects with the new one.
   */
  get token(): Options["token"];
  set token(token: Options["token"]);
  /** The server's time, Unix milliseconds; this device's before the first `hello`. */
  readonly now: number;
  /**
   * Whether a frame has counts from before this connection (the finals that are replayed on joining or were missed
   * during an outage, the tally of a window that was open then) or from over ten seconds ago. Show such a frame, but
   * not as a new event.
   */
  isPast(frame: Live | Final): boolean;
  /**
   * Sends one reaction soon: one emoji, its shortcode as on GitHub (gemoji's names: `fire`, `:fire:`) or an
   * alias of the server's (`love`). Reactions of 250 ms share a request. Reactions that cannot be sent for
   * 10 s are dropped, which a `refused` event reports.
   * @returns false if too many are waiting, or the stream is closed
   */
  react(emoji: string): boolean;
  /** Leaves the room for good. Reactions that are waiting are still sent. */
  close(): void;
  addEventListener<Type extends keyof EmoStreamEvents>(
    type: Type,
    listener: Listener<Type> | null,
    options?: boolean | ListenerOptions,
  ): void;
  removeEventListener<Type extends keyof EmoStreamEvents>(
    type: Type,
    listener: Listener<Type> | null,
    options?: boolean | ListenerOptions,
  ): void;
  dispatchEvent(event: any): boolean;
}

/**
 * Joins a room: receives at once, and reconnects until `close()`.
 * @throws TypeError if the room's name, the url, the transport or `since` is not valid, or there is no WebSocket
 */
export declare function connect(options?: Options): EmoStream;
