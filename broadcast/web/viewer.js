/**
 * The viewer page: the element, the counts beside it, and the way to other rooms.
 *
 *     <emostream-room> ──counts──▶ sum, rate, totals
 *                      └─live, final, trending, delay──▶ the panels
 *     GET …/history, on joining ──▶ the last moments
 *     GET /v1/rooms, for the menu and in an idle room ──▶ links to active rooms
 *
 * @module emostream/viewer
 */

import "./emostream-room.js";
import {
  ask, byId, drawChips, drawMoments, drawStatus, exact, leaf, passed, rate, roomOfAddress, setText, span, tokenOfAddress, wrongRoom,
} from "./dom.js";
import { plain } from "./scoreboard.js";

/** Time over which the rate is measured: two windows. */
const RATE_MS = 4_000;
/**
 * Time after its end for which an open window is still shown as the current one, by the server's time. Its final
 * follows within seconds, unless the dataflow has stopped.
 */
const PRESENT_MS = 10_000;
/** The emojis of the buttons, and two others that the crowd sends. */
const ROWS = 10;
const CHIPS = 6;
const TRENDING = 3;
const MOMENTS = 8;
/** Maximum number of rooms in the menu, and under the headline of an idle room. */
const LISTED = 50;
const SUGGESTED = 4;
/** An idle room with fewer people suggests other rooms. At the start of a great match all viewers join an idle room
 * at once, and must not request the list of rooms at once. */
const FEW = 50;
/** Minimum time between two requests for the number of people in an idle room. It is multiplied by this number in
 * seconds where it is greater, so all viewers of a room together request it about once a second at most. */
const PEOPLE_MS = 10_000;

/** `up` offers the demo crowd, where no tokens are required: `data-demo`. Only the person who started it on this
 * machine is offered it. Spectators of the same server have its public name in their address. */
const MAY_DEMO = "demo" in document.body.dataset && ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

class Viewer {
  #room;
  #crowd = document.createElement("emostream-room");
  /** @type {import("./emostream.js").Final[]} newest first */ #finals = [];
  /** @type {{at: number, sum: number}[]} */ #samples = [];
  /** @type {Map<string, HTMLElement>} */ #rows = new Map();
  #isOpen = false;
  /** Number of people in the room, this one included; 0 while it is unknown. */ #people = 0;
  #peopleAt = 0;
  #suggested = false;
  /** @type {AbortController | undefined} */ #demo;

  constructor(room) {
    this.#room = room;
    setText(byId("room-here"), room);
    setText(byId("room-name"), room);
    document.title = `${room} · EmoStream`;
    byId("to-dashboard").href = `/dashboard?room=${room}${location.hash}`;
    byId("share").addEventListener("click", () => void this.#share());
    byId("demo-toggle").addEventListener("click", () => void this.#toggleDemo());
    this.#listen();
    this.#join();
    setInterval(() => {
      this.#drawNow();
      this.#drawIdle();
    }, 1000);
  }

  /** Puts the element into the page, around the headline. */
  #join() {
    Object.assign(this.#crowd, { room: this.#room, token: tokenOfAddress(), ingest: document.body.dataset.ingestUrl });
    const headline = byId("headline");
    headline.before(this.#crowd);
    this.#crowd.append(headline);
  }

  #listen() {
    const on = (type, act) => this.#crowd.addEventListener(type, ({ detail }) => act(detail));
    on("status", ({ status }) => {
      drawStatus(status);
      this.#isOpen = status === "open";
      this.#drawNow();
      this.#drawIdle();
    });
    on("hello", ({ resumed }) => this.#hello(resumed));
    // Reactions that were counted before this connection are not a part of the rate.
    for (const type of ["live", "final"]) {
      on(type, (frame) => { if (this.#crowd.stream.isPast(frame)) this.#samples.length = 0; });
    }
    on("final", (final) => this.#remember(final));
    on("state", (state) => {
      this.#here(state.subscribers);
      if (state.final) void this.#recall(state.final);
      this.#samples.length = 0;
    });
    on("trending", (trending) => this.#drawTrending(trending));
    on("counts", () => {
      this.#draw();
      this.#drawIdle();
    });
    on("delay", ({ ms }) => setText(byId("delay"), `${passed(ms)} from a tap to this screen`));
  }

  #hello(resumed) {
    this.#samples.length = 0;
    if (resumed) return;
    this.#finals.length = 0;
    // If something is trending, a frame follows.
    this.#drawTrending({ span_ms: 0, top: [] });
  }

  #remember(final) {
    if (this.#finals.some(({ id }) => id === final.id)) return;
    this.#finals.push(final);
    this.#finals.sort((a, b) => b.start - a.start);
    this.#finals.length = Math.min(this.#finals.length, MOMENTS);
  }

  /** The moments before the newest one: in a busy room the last few windows, in a quiet one all that are kept. */
  async #recall(newest) {
    this.#remember(newest);
    const busy = newest.start - MOMENTS * (newest.end - newest.start);
    try {
      for (const from of [busy, 0]) {
        if (this.#finals.length >= MOMENTS) return;
        const { finals } = await ask(`/v1/rooms/${this.#room}/history?from=${from}`);
        for (const final of finals) this.#remember(final);
        this.#drawFinals();
      }
    } catch {
      // The next finals are added to the list, too.
    }
  }

  /** Shares the address by the system's dialog; without one, by the clipboard, or as text to be copied. */
  async #share() {
    const url = `${location.origin}/?room=${this.#room}`;
    if (navigator.share) {
      await navigator.share({ title: `${this.#room} · EmoStream`, url }).catch(() => {});
      return;
    }
    try {
      await navigator.clipboard.writeText(url);
      this.#crowd.notify("The link is copied. It opens this room.");
    } catch {
      this.#crowd.notify(url);
    }
  }

  // An idle room.

  #here(people) {
    this.#people = people;
    this.#peopleAt = performance.now();
    this.#drawIdle();
  }

  /** Returns the number of people in the room, if it is known and useful. */
  #audience() {
    if (!this.#isOpen || this.#people === 0) return "";
    if (this.#people > 1) return `${exact.format(this.#people)} people are here.`;
    return this.#crowd.idle ? "You are the only one here." : "";
  }

  #drawIdle() {
    const idle = this.#crowd.idle || Boolean(this.#demo);
    byId("headline").classList.toggle("idle", this.#crowd.idle);
    setText(byId("people"), this.#audience());
    byId("demo").hidden = !(idle && MAY_DEMO);
    byId("elsewhere").hidden = !(this.#crowd.idle && byId("elsewhere-list").children.length > 0);
    if (!this.#crowd.idle || document.hidden || this.#people === 0) return;
    if (!this.#suggested && this.#people < FEW) {
      this.#suggested = true;
      void this.#suggest();
    }
    if (performance.now() - this.#peopleAt > Math.max(PEOPLE_MS, 1000 * this.#people)) void this.#count();
  }

  async #count() {
    this.#peopleAt = performance.now();
    // Without a response the previous number stays, and the lamp shows whether there is a connection.
    const { subscribers } = await ask(`/v1/rooms/${this.#room}`).catch(() => ({}));
    if (subscribers > 0 && this.#isOpen) this.#here(subscribers);
  }

  async #suggest() {
    // The menu lists the rooms, too, and shows the reason if the list cannot be loaded.
    const { rooms } = await ask("/v1/rooms").catch(() => ({ rooms: [] }));
    const others = rooms.filter(({ room }) => room !== this.#room).slice(0, SUGGESTED);
    byId("elsewhere-list").replaceChildren(...others.map((room) => link(room)));
    this.#drawIdle();
  }

  /** Starts or stops the demo crowd. Its code is loaded only when it is started. */
  async #toggleDemo() {
    if (this.#demo) return this.#demo.abort();
    const running = (this.#demo = new AbortController());
    const { signal } = running;
    signal.addEventListener("abort", () => this.#endDemo());
    setText(byId("demo-toggle"), "Stop");
    setText(byId("demo-label"), "Demo crowd: these reactions are generated.");
    byId("demo").classList.add("runs");
    try {
      const { demo } = await import("./demo.js");
      await demo(this.#room, signal);
    } catch (error) {
      if (signal.aborted) return;
      console.error(error);
      this.#crowd.notify("The demo crowd has stopped: the server does not accept its reactions.");
    }
    running.abort();
  }

  #endDemo() {
    this.#demo = undefined;
    setText(byId("demo-toggle"), "Show me a crowd");
    setText(byId("demo-label"), "");
    byId("demo").classList.remove("runs");
    this.#drawIdle();
  }

  // The functions that draw write text only if it has changed, so that a large screen is not painted again.

  #draw() {
    // Without a connection the counts are old or unknown.
    if (!this.#isOpen) return;
    const { sum } = this.#crowd.board;
    setText(byId("sum"), exact.format(sum));
    this.#drawTotals();
    this.#drawNow();
    this.#drawFinals();
    this.#samples.push({ at: performance.now(), sum });
  }

  #drawTotals() {
    const { board } = this.#crowd;
    const emojis = board.emojis().sort((a, b) => board.total(b) - board.total(a));
    for (const emoji of emojis) {
      if (this.#rows.size >= ROWS) break;
      this.#row(emoji);
    }
    byId("totals-empty").hidden = this.#rows.size > 0;
    let most = 1;
    for (const row of this.#rows.values()) {
      const total = board.total(row.dataset.row);
      setText(row.querySelector("[data-total]"), exact.format(total));
      row.dataset.count = total;
      most = Math.max(most, total);
    }
    for (const row of this.#rows.values()) {
      row.style.setProperty("--share", (row.dataset.count / most).toFixed(4));
    }
    this.#sortRows();
  }

  /** Returns the row of an emoji, which the first call creates. */
  #row(emoji) {
    const known = this.#rows.get(plain(emoji));
    if (known) return known;
    const row = document.createElement("li");
    row.dataset.row = emoji;
    row.dataset.count = 0;
    const count = leaf("span", "count", "0");
    count.dataset.total = emoji;
    const track = leaf("span", "track", "");
    track.append(leaf("span", "bar", ""));
    row.append(leaf("span", "glyph", emoji), track, count);
    this.#rows.set(plain(emoji), row);
    byId("totals").append(row);
    return row;
  }

  /** Moves the rows to their ranks, with an animation from their previous places. */
  #sortRows() {
    const rows = [...this.#rows.values()];
    const ranked = [...rows].sort((a, b) => b.dataset.count - a.dataset.count);
    const list = byId("totals");
    if (ranked.every((row, rank) => list.children[rank] === row)) return;
    const tops = new Map(rows.map((row) => [row, row.offsetTop]));
    list.append(...ranked);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const row of ranked) {
      const by = tops.get(row) - row.offsetTop;
      if (by) row.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 300, easing: "ease-out" });
    }
  }

  #drawNow() {
    const { board, stream } = this.#crowd;
    const { newest } = board;
    const live = this.#isOpen && newest?.end + PRESENT_MS > stream.now ? newest : undefined;
    byId("now-empty").hidden = !this.#isOpen || Boolean(live);
    setText(byId("now-span"), live ? span(live) : "");
    drawChips(byId("now"), (live?.counts ?? []).slice(0, CHIPS));
    this.#drawRate(live);
  }

  #drawTrending({ span_ms, top }) {
    byId("trending-panel").hidden = top.length === 0;
    setText(byId("trending-span"), `last ${exact.format(Math.round(span_ms / 1000))} s`);
    drawChips(byId("trending"), top.slice(0, TRENDING));
  }

  #drawFinals() {
    byId("finals-empty").hidden = this.#finals.length > 0;
    drawMoments(byId("finals"), this.#finals);
  }

  #drawRate(live) {
    // Without a connection it is not known whether the room is quiet.
    if (!this.#isOpen) return setText(byId("rate"), "");
    const now = performance.now();
    while (this.#samples.length > 1 && now - this.#samples[1].at > RATE_MS) this.#samples.shift();
    const first = this.#samples[0];
    const rose = first ? Math.max(0, this.#crowd.board.sum - first.sum) : 0;
    const per_second = first ? rose / (Math.max(1000, now - first.at) / 1000) : 0;
    const otherwise = live ? `${exact.format(live.total)} in this moment` : "quiet right now";
    setText(byId("rate"), per_second > 0.05 ? `${rate(per_second)} per second` : otherwise);
  }
}

/** Returns an address with the token, which is after the #, so browsers do not send it to a server. */
function address(room) {
  return `/?room=${encodeURIComponent(room)}${location.hash}`;
}

/** Returns a list item that links to a room. */
function link({ room, total, subscribers }, current) {
  const item = document.createElement("li");
  const anchor = leaf("a", "", "");
  anchor.href = address(room);
  if (room === current) anchor.setAttribute("aria-current", "page");
  const of = (count, one, many) => `${exact.format(count)} ${count === 1 ? one : many}`;
  const about = subscribers > 0 ? of(subscribers, "person", "people") : of(total, "reaction", "reactions");
  anchor.append(leaf("span", "name", room), " ", leaf("span", "about", about));
  item.append(anchor);
  return item;
}

/** The menu of rooms. The list is requested each time when it is opened. */
function wireMenu(current) {
  const menu = byId("rooms-menu");
  const form = document.querySelector("form.room");
  form.action = `/${location.hash}`;
  menu.addEventListener("toggle", async () => {
    if (!menu.open) return;
    try {
      const { rooms } = await ask("/v1/rooms");
      byId("rooms-list").replaceChildren(...rooms.slice(0, LISTED).map((room) => link(room, current)));
      setText(byId("rooms-empty"), rooms.length > 0 ? "" : "In the last ten minutes there were no reactions in any room.");
    } catch (error) {
      setText(byId("rooms-empty"), `The rooms cannot be listed now. ${error.message}`);
    }
  });
  document.addEventListener("click", ({ target }) => { if (!menu.contains(target)) menu.open = false; });
  menu.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  menu.addEventListener("focusout", ({ relatedTarget }) => {
    if (relatedTarget && !menu.contains(relatedTarget)) menu.open = false;
  });
}

/**
 * If the room of the address is not valid, no room is joined: reactions would be counted in a room that the user did
 * not mean.
 */
function refuse(why) {
  setText(byId("room-here"), "Rooms");
  byId("share").hidden = true;
  setText(byId("sum"), "?");
  setText(byId("caption"), why);
  document.querySelector(".panels").hidden = true;
  setText(byId("delay"), "Choose another room above.");
  drawStatus("closed");
}

const wrong = wrongRoom();
const room = roomOfAddress("default");
wireMenu(wrong ? undefined : room);
if (wrong) refuse(wrong);
else new Viewer(room);
