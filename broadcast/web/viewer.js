/**
 * The viewer page: the element at its best, and the counts beside it.
 *
 *     <emostream-room> ──counts──▶ sum, rate, totals
 *                      └─live, final, trending, delay──▶ the panels
 *     GET …/history, on joining ──▶ the last moments
 *
 * @module emostream/viewer
 */

import "./emostream-room.js";
import {
  ask, byId, drawChips, drawMoments, drawStatus, exact, leaf, passed, rate, roomOfAddress, setText, span, tokenOfAddress, wrongRoom,
} from "./dom.js";
import { plain } from "./scoreboard.js";

/** The span the rate is measured over: two windows. */
const RATE_MS = 4_000;
/** An open window is shown as the present until so long after its end, by the server's time: its final follows within
 * seconds, or its dataflow has stopped. */
const PRESENT_MS = 10_000;
/** The page's own eight, and the room for others that the crowd sends. */
const ROWS = 10;
const CHIPS = 6;
const TRENDING = 3;
const MOMENTS = 8;

class Viewer {
  #room;
  #crowd = document.createElement("emostream-room");
  /** @type {import("./emostream.js").Final[]} newest first */ #finals = [];
  /** @type {{at: number, sum: number}[]} */ #samples = [];
  /** @type {Map<string, HTMLElement>} */ #rows = new Map();
  #isOpen = false;

  constructor(room) {
    this.#room = room;
    byId("room").value = room;
    setText(byId("room-name"), room);
    document.title = `${room} · EmoStream`;
    byId("to-dashboard").href = `/dashboard?room=${room}${location.hash}`;
    byId("share").addEventListener("click", () => void this.#share());
    // The token stays when the room changes: it stands where no server sees it.
    document.querySelector("form.room").action = `/${location.hash}`;
    this.#listen();
    this.#join();
    setInterval(() => this.#drawNow(), 1000);
  }

  /** Puts the element into the page, told where to go, around the headline. */
  #join() {
    const told = { room: this.#room, token: tokenOfAddress(), ingest: document.body.dataset.ingestUrl };
    for (const [name, value] of Object.entries(told)) if (value) this.#crowd.setAttribute(name, value);
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
    });
    on("hello", ({ resumed }) => this.#hello(resumed));
    // What was counted before is no rate.
    for (const type of ["live", "final"]) {
      on(type, (frame) => { if (this.#crowd.stream.isPast(frame)) this.#samples.length = 0; });
    }
    on("final", (final) => this.#remember(final));
    on("state", (state) => {
      if (state.final) void this.#recall(state.final);
      this.#samples.length = 0;
    });
    on("trending", (trending) => this.#drawTrending(trending));
    on("counts", () => this.#draw());
    on("delay", ({ ms }) => setText(byId("delay"), `${passed(ms)} from a tap to this screen`));
  }

  #hello(resumed) {
    this.#samples.length = 0;
    if (resumed) return;
    this.#finals.length = 0;
    // Its frame follows where something is trending.
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
      // What comes fills the list as well.
    }
  }

  /** By the system's own sheet on a phone, else by the clipboard, else to be copied by hand. */
  async #share() {
    const url = `${location.origin}/?room=${this.#room}`;
    if (navigator.share) {
      await navigator.share({ title: `${this.#room} · EmoStream`, url }).catch(() => {});
      return;
    }
    try {
      await navigator.clipboard.writeText(url);
      this.#crowd.notify("The link is copied. Whoever opens it is in this room.");
    } catch {
      this.#crowd.notify(url);
    }
  }

  // Drawing: text only where it changed, so that a big screen stays calm.

  #draw() {
    // Without a connection the counts are those before, or unknown.
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

  /** The row of an emoji, made when it is first seen. */
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

  /** Moves rows to their rank, gliding from where they were. */
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

/** Joins nothing: taps would count where nobody meant them to. */
function refuse(why) {
  byId("room").value = roomOfAddress("");
  byId("share").hidden = true;
  setText(byId("sum"), "?");
  setText(byId("caption"), why);
  setText(byId("rate"), "");
  setText(byId("delay"), "Name another above.");
  drawStatus("closed");
}

const wrong = wrongRoom();
if (wrong) refuse(wrong);
else new Viewer(roomOfAddress("default"));
