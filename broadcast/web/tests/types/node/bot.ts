// A Node program, with the WebSocket of the package ws.
import { once } from "node:events";
import { connect } from "emostream";
import WebSocket from "ws";

const crowd = connect({ url: "https://emo.example", observer: true, WebSocket });
const target: EventTarget = crowd;
const stop = new AbortController();
crowd.addEventListener("final", ({ detail, timeStamp }) => console.log(detail.id, timeStamp), { signal: stop.signal });
await once(target, "hello");
