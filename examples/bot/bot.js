// Cheers with the crowd: if a window has ten 🔥, the bot sends one 🎉.
//
//     node bot.js http://127.0.0.1:8080 match-7
import { connect } from "emostream";
import WebSocket from "ws"; // From version 22 on, Node has its own WebSocket: then remove this line and the option.

const ENOUGH = 10;
const [url = "http://127.0.0.1:8080", room = "match-7"] = process.argv.slice(2);
const crowd = connect({ url, room, user: "bot", observer: true, WebSocket });

crowd.addEventListener("status", ({ detail }) => console.log(detail.status, detail.detail));
crowd.addEventListener("refused", ({ detail }) => console.error(detail.detail));
crowd.addEventListener("final", ({ detail: final }) => {
  const fires = final.counts.find(({ emoji }) => emoji === "🔥")?.count ?? 0;
  console.log(`${final.total} reactions, ${fires} of them 🔥`);
  // Windows from before the bot joined do not count.
  if (fires >= ENOUGH && !crowd.isPast(final)) crowd.react("🎉");
});

process.once("SIGINT", () => crowd.close());
