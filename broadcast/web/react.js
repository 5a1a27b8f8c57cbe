/**
 * EmoStream for React: `useRoom()` for a look of your own, `<Room>` for the custom element.
 *
 *     const { totals, react } = useRoom({ url: "https://emo.example", room: "match-7" });
 *     <Room url="https://emo.example" room="match-7" emojis="🔥👏😂" />
 *
 * Both can be rendered on a server, as they are before the room is joined.
 *
 * @module emostream/react
 */

import { createElement, useCallback, useEffect, useRef, useState } from "react";
import { connect } from "./emostream.js";

const BEFORE = {
  stream: undefined,
  status: "connecting",
  live: undefined,
  final: undefined,
  totals: [],
  trending: undefined,
};

export function useRoom(options = {}) {
  const { url, ingest, room, token, user, transport, background, observer } = options;
  const [shown, setShown] = useState(BEFORE);
  const { stream } = shown;

  // A function that is written into a component is a new function at each render, which must not end the connection.
  const newestToken = useRef(token);
  useEffect(() => { newestToken.current = token; });
  const requestToken = useCallback(() => newestToken.current(), []);
  const givenToken = typeof token === "function" ? requestToken : token;

  useEffect(() => {
    const opened = connect({ ...options, token: givenToken });
    const listening = new AbortController();
    const on = (type, change) => {
      const listener = ({ detail }) => setShown((before) => ({ ...before, ...change(detail, before) }));
      opened.addEventListener(type, listener, { signal: listening.signal });
    };
    on("status", ({ status }) => ({ status }));
    on("live", (live) => ({ live }));
    // The window of this tally is closed, and the next window may have no reactions.
    on("final", (final, { live }) => ({ final, totals: final.totals, live: live?.start > final.start ? live : undefined }));
    on("trending", (trending) => ({ trending }));
    on("state", ({ live, final, totals, trending }, before) => {
      // A final that arrived while the state was requested is newer than the state.
      if (before.final && !(final?.start >= before.final.start)) return {};
      return { live: live ?? undefined, final: final ?? undefined, totals, trending: trending ?? undefined };
    });
    setShown({ ...BEFORE, stream: opened });
    return () => {
      listening.abort();
      opened.close();
    };
  }, [url, ingest, room, user, transport, background, observer]);

  useEffect(() => {
    if (stream && stream.token !== givenToken) stream.token = givenToken;
  }, [stream, givenToken]);

  const react = useCallback((emoji) => stream?.react(emoji) ?? false, [stream]);
  return { ...shown, react };
}

/** The element's module is loaded when a `<Room>` is mounted, so that an application without one does not load it. */
export function Room({ children, ...props }) {
  const [isDefined, setDefined] = useState(false);
  useEffect(() => void import("./emostream-room.js").then(() => setDefined(true)), []);
  const { className, id, style } = props;
  return isDefined ? createElement("emostream-room", props, children) : createElement("div", { className, id, style }, children);
}
