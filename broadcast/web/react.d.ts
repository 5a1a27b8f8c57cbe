import type { DetailedHTMLProps, HTMLAttributes, ReactElement } from "react";
import type { EmoStream, Final, Live, Options, Status, Total, Trending } from "./emostream.js";
import type { EmoStreamRoom, EmoStreamRoomEventMap, Messages } from "./emostream-room.js";

/** The values of a room that a component can show. */
export interface ShownRoom {
  /** Undefined until the component is mounted. */
  stream: EmoStream | undefined;
  status: Status;
  /** The open window; undefined while nothing is counted. */
  live: Live | undefined;
  /** The newest closed window. */
  final: Final | undefined;
  /** The room's counts as of the newest final. */
  totals: Total[];
  trending: Trending | undefined;
  /** Sends one reaction. Returns false if too many are waiting, or the stream is not open. */
  react(emoji: string): boolean;
}

/**
 * Joins a room while the component is mounted. Another `room`, `url`, `ingest`, `user`, `transport`, `background` or
 * `observer` joins again; another `token` does not. `since` and `WebSocket` are read on joining.
 */
export declare function useRoom(options?: Options): ShownRoom;

type OwnEvents = Exclude<keyof EmoStreamRoomEventMap, keyof HTMLElementEventMap>;

/** Attributes and properties of `<emostream-room>`, and its own events in lower case, as React 19 requires: `onfinal`. */
export interface RoomProps
  extends DetailedHTMLProps<HTMLAttributes<EmoStreamRoom>, EmoStreamRoom>, RoomListeners {
  room?: string | undefined;
  emojis?: string | undefined;
  url?: string | undefined;
  ingest?: string | undefined;
  token?: Options["token"];
  user?: string | undefined;
  overlay?: boolean | undefined;
  buttons?: "none" | undefined;
  paused?: boolean | undefined;
  maxParticles?: number | undefined;
  emojiBase?: string | undefined;
  messages?: Partial<Messages> | undefined;
}

export type RoomListeners = {
  [Type in OwnEvents as `on${Type}`]?: ((event: EmoStreamRoomEventMap[Type]) => void) | undefined;
};

/**
 * The custom element, whose module is loaded when this component is mounted. Until then its children are shown in a
 * `<div>`.
 */
export declare function Room(props: RoomProps): ReactElement;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "emostream-room": RoomProps;
    }
  }
}
