// The client alone, without `lib: dom`.
import { EmoStream, connect, type Count, type Options, type Reason } from "emostream";

const room: string | undefined = undefined;
const crowd: EmoStream = connect({ url: "https://emo.example", room, token: async () => "a.b.c", since: "0-7" });

crowd.addEventListener("live", ({ type, detail }) => {
  const name: "live" = type;
  const counts: Count[] = detail.counts;
  const swarms: number | undefined = counts[0]?.swarms;
  return [name, swarms];
});
crowd.addEventListener("status", ({ detail: { status, reason, detail } }) => {
  const why: Reason = reason;
  return `${status} ${why} ${detail.toLowerCase()}`;
}, { once: true });
crowd.addEventListener("refused", { handleEvent: ({ detail }) => detail.emojis.map((emoji) => emoji.length) });

const listener = ({ detail }: { detail: { id: string } }): void => console?.log(detail.id);
crowd.addEventListener("final", listener);
crowd.removeEventListener("final", listener);
declare const console: { log(text: string): void } | undefined;

// @ts-expect-error: there is no such event
crowd.addEventListener("finals", () => {});
// @ts-expect-error: a final has no such field
crowd.addEventListener("final", ({ detail }) => detail.swarms);
// @ts-expect-error: and a trending frame no id
crowd.removeEventListener("trending", listener);
// @ts-expect-error: there is no such transport
const wrong: Options = { transport: "pigeon" };
// @ts-expect-error: it is read-only
crowd.lastId = "0-8";

crowd.token = "d.e.f";
crowd.token = undefined;
const past: boolean = crowd.isPast({ type: "live", room: "r", start: 0, end: 2000, emitted_at: 1, total: 0, counts: [] });
export { past, wrong };
