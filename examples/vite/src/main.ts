import { connect, type Total } from "emostream";

const EMOJIS = ["🔥", "👏", "😂"];
const crowd = connect({ url: "http://127.0.0.1:8080", room: "match-7" });

function element(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

const counts = new Map<string, HTMLElement>();
for (const emoji of EMOJIS) {
  const button = document.createElement("button");
  const count = document.createElement("span");
  count.dataset["total"] = emoji;
  button.append(emoji, " ", count);
  button.addEventListener("click", () => crowd.react(emoji));
  element("buttons").append(button);
  counts.set(emoji, count);
}

function draw(totals: Total[]): void {
  for (const { emoji, count } of totals) counts.get(emoji)?.replaceChildren(String(count));
}

crowd.addEventListener("state", ({ detail }) => draw(detail.totals)); // the counts on joining
crowd.addEventListener("final", ({ detail }) => draw(detail.totals)); // after each closed window
crowd.addEventListener("status", ({ detail }) => element("status").replaceChildren(detail.detail));
