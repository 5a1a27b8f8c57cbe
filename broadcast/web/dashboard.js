/**
 * The producer's page: which rooms are alive, and how the mood of one of them went.
 *
 *     GET /v1/rooms, every few seconds ──▶ rooms by activity, audience
 *     GET …/history, then finals ──▶ the last ten minutes ──▶ chart, peaks, sums
 *     live, trending ──▶ the delay, what is trending
 *
 * Invariants: what is shown belongs to the room that is chosen now; answers for a former one are dropped. The present
 * is the server's, and without a connection it is unknown: time stands still, and no rate is 0.
 *
 * @module emostream/dashboard
 */

import { Chart } from "./chart.js";
import { Delay } from "./delay.js";
import {
  ask, byId, drawChips, drawMoments, drawStatus, exact, leaf, passed, rate, roomOfAddress, setText, short, tokenOfAddress,
  wrongRoom,
} from "./dom.js";
import { connect } from "./emostream.js";
import { csv, pace, peaks } from "./mood.js";

const SPAN_MS = 600_000;
/** A younger room's chart is not full yet. */
const YOUNG_MS = 20_000;
const ROOMS_EVERY_MS = 3_000;
/** Every rate is the mean of the last windows that make this span, three of them at least. */
const PACE_MS = 10_000;
const PACE_WINDOWS = 3;
const ROOMS_SHOWN = 50;
/** So many windows after its own a final has come, usually. */
const FINAL_WINDOWS = 3;
const PEAKS = 5;
const PEAKS_APART_MS = 20_000;
/** What a tile shows while nothing is known. */
const UNKNOWN = "–";
/** How long after its window a final comes is the median of so many. */
const DELAYS = 15;

/** How fast each room counts, from its totals at each look in the last `span_ms`. */
class Activity {
  /** @type {{at: number, totals: Map<string, number>}[]} */ #looks = [];

  look(rooms, at, span_ms) {
    this.#looks = this.#looks.filter((look) => look.at >= at - span_ms);
    this.#looks.push({ at, totals: new Map(rooms.map(({ room, total }) => [room, total])) });
  }

  forget() { this.#looks = []; }

  /** Reactions a second; undefined before a second look. */
  of(room) {
    const seen = this.#looks.filter(({ totals }) => totals.has(room));
    const [first, last] = [seen[0], seen.at(-1)];
    if (!first || first === last) return undefined;
    const rose = last.totals.get(room) - first.totals.get(room);
    return Math.max(0, rose) / ((last.at - first.at) / 1000);
  }
}

class Dashboard {
  #room;
  #rooms = [];
  #problems = { rooms: "", room: "" };
  #stream;
  #chart = new Chart(byId("chart"));
  #activity = new Activity();
  #delay = new Delay();
  #windowMs = 2000;
  /** @type {Map<number, import("./emostream.js").Final>} by start */ #finals = new Map();
  #finalDelays = [];
  /** Whether the kept finals of the room are among these. */ #recalled = false;
  /** Where the chart ends, by the server's time; 0 before the first connection. */ #to = 0;
  /** Reactions a second in the room that is shown; undefined while it is not known. */ #pace;

  async start() {
    window.addEventListener("popstate", () => this.#choose(this.#asked(this.#room)));
    byId("csv").addEventListener("click", () => void this.#download("csv"));
    byId("json").addEventListener("click", () => void this.#download("json"));
    await this.#look();
    this.#choose(this.#asked(this.#rooms[0]?.room ?? "default"));
    this.#problem("room", wrongRoom());
    setInterval(() => document.hidden || void this.#look(), ROOMS_EVERY_MS);
    setInterval(() => document.hidden || this.#draw(), 1000);
  }

  // Rooms.

  async #look() {
    try {
      const { rooms, trending } = await ask("/v1/rooms");
      this.#activity.look(rooms, performance.now(), this.#paceSpan);
      const hot = new Map(trending?.rooms.map(({ room, count }) => [room, count]));
      const heat = ({ room }) => this.#paceOf(room) || (hot.get(room) ?? 0) / 1e6;
      rooms.sort((a, b) => heat(b) - heat(a) || b.total - a.total);
      this.#rooms = rooms;
      this.#problem("rooms", "");
    } catch (error) {
      this.#activity.forget();
      this.#problem("rooms", error.message);
    }
    this.#drawRooms();
  }

  get #paceSpan() {
    return this.#windowMs * Math.max(PACE_WINDOWS, Math.ceil(PACE_MS / this.#windowMs));
  }

  /** Reactions a second: of the room that is shown as its tile has it, of the others by their totals. */
  #paceOf(room) {
    return room === this.#room ? this.#pace : this.#activity.of(room);
  }

  #drawRooms() {
    const rooms = this.#rooms;
    // Where the server does not say, it is not known how many there are.
    const lost = this.#problems.rooms !== "";
    const unknown = rooms.length === 0 && lost;
    const active = rooms.length === 1 ? "1 active" : `${exact.format(rooms.length)} active`;
    byId("rooms-empty").hidden = unknown || rooms.length > 0;
    setText(byId("rooms-count"), unknown ? "" : active);
    const list = byId("rooms");
    const shown = rooms.slice(0, ROOMS_SHOWN);
    while (list.children.length > shown.length) list.lastElementChild.remove();
    shown.forEach((room, index) => this.#drawRoom(list.children[index] ?? list.appendChild(this.#row()), room));
    const here = rooms.find(({ room }) => room === this.#room);
    const everywhere = rooms.reduce((sum, { subscribers }) => sum + subscribers, 0);
    setText(byId("audience"), lost ? UNKNOWN : exact.format(here?.subscribers ?? 0));
    setText(byId("audience-all"), lost ? "" : `of ${exact.format(everywhere)} at this server`);
  }

  #row() {
    const link = document.createElement("a");
    link.append(leaf("span", "glyph", ""), leaf("span", "title", ""), leaf("small", "", ""), leaf("span", "count", ""));
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      history.pushState(null, "", link.href);
      this.#choose(link.dataset.room);
    });
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  #drawRoom(item, { room, total, totals, subscribers }) {
    const link = item.firstElementChild;
    link.href = `/dashboard?room=${room}${location.hash}`;
    link.dataset.room = room;
    link.toggleAttribute("aria-current", room === this.#room);
    const per_second = this.#paceOf(room);
    setText(link.children[0], totals[0]?.emoji ?? "");
    setText(link.children[1], room);
    link.title = room;
    setText(link.children[2], `${short(total)} · ${exact.format(subscribers)} watching`);
    const shown = per_second >= 0.05 ? `${rate(per_second)}/s` : "quiet";
    setText(link.children[3], per_second === undefined ? "" : shown);
  }

  // One room.

  #asked(otherwise) {
    return wrongRoom() ? otherwise : roomOfAddress(otherwise);
  }

  #choose(room) {
    if (room === this.#room) return;
    this.#room = room;
    this.#stream?.close();
    this.#finals.clear();
    this.#finalDelays = [];
    this.#recalled = false;
    this.#delay = new Delay();
    this.#problem("room", "");
    setText(byId("room-name"), room);
    document.title = `${room} · Dashboard · EmoStream`;
    byId("to-viewer").href = `/?room=${room}${location.hash}`;
    this.#follow(room);
    this.#drawTrending({ span_ms: 0, top: [] });
    this.#draw();
    void this.#recall(room);
  }

  #follow(room) {
    const stream = connect({ room, token: tokenOfAddress(), observer: true });
    this.#stream = stream;
    const on = (type, act) => stream.addEventListener(type, ({ detail }) => {
      if (this.#stream === stream) act(detail);
    });
    on("status", ({ status }) => {
      drawStatus(status);
      this.#draw();
    });
    on("hello", ({ window_ms, resumed }) => {
      this.#windowMs = window_ms;
      this.#delay.joined();
      if (resumed) return;
      this.#recalled = false;
      void this.#recall(room);
    });
    on("gap", () => void this.#recall(room));
    on("live", (live) => this.#delay.live(live));
    on("final", (final) => {
      this.#finalDelays = [...this.#finalDelays.slice(1 - DELAYS), final.emitted_at - final.end];
      this.#delay.final(final);
      this.#finals.set(final.start, final);
      this.#draw();
    });
    on("trending", (trending) => this.#drawTrending(trending));
    on("refused", ({ detail }) => this.#problem("room", detail));
  }

  /** What was final before this page came. */
  async #recall(room) {
    try {
      const { finals } = await ask(`/v1/rooms/${room}/history`);
      if (room !== this.#room) return;
      for (const final of finals) this.#finals.set(final.start, final);
      this.#recalled = true;
      this.#draw();
    } catch (error) {
      this.#problem("room", error.message);
    }
  }

  // Drawing.

  #draw() {
    const isOpen = this.#stream.status === "open";
    if (isOpen) {
      // Up to the newest final; in a quiet room on to where one would be by now.
      const due = this.#stream.now - FINAL_WINDOWS * this.#windowMs;
      const ends = Math.max(due, ...[...this.#finals.values()].map(({ end }) => end));
      this.#to = Math.ceil(ends / this.#windowMs) * this.#windowMs;
    }
    const to = this.#to;
    for (const start of this.#finals.keys()) if (start < to - SPAN_MS) this.#finals.delete(start);
    const finals = [...this.#finals.values()].sort((a, b) => a.start - b.start);
    // What there is fills the chart.
    const from = Math.min(Math.max(finals[0]?.start ?? 0, to - SPAN_MS), to - YOUNG_MS);
    const found = peaks(finals, PEAKS, PEAKS_APART_MS);
    if (to > 0) {
      this.#chart.draw(finals, found, from, to, this.#windowMs);
      setText(byId("mood-title"), `Mood of the last ${stretch(to - from)}`);
    }
    byId("mood-empty").hidden = finals.length > 0;
    byId("trending-empty").hidden = !isOpen || byId("trending").children.length > 0;
    this.#pace = isOpen && this.#recalled ? pace(finals, to, this.#paceSpan) : undefined;
    this.#drawLegend();
    this.#drawPeaks(found);
    this.#drawTiles(finals);
    this.#drawRooms();
  }

  #drawTiles(finals) {
    const sum = finals.reduce((all, { total }) => all + total, 0);
    this.#drawSum("kept-sum", this.#recalled ? sum : undefined);
    // Of the same moment as the sum beside it; where nothing is kept any more, what the server still knows.
    const { totals, totals_others = 0 } = finals.at(-1) ?? {};
    const listed = this.#rooms.find(({ room }) => room === this.#room)?.total;
    const known = listed ?? (this.#recalled ? 0 : undefined);
    this.#drawSum("ever-sum", totals?.reduce((all, { count }) => all + count, totals_others) ?? known);
    setText(byId("now-rate"), this.#pace === undefined ? UNKNOWN : rate(this.#pace));
    const { ms } = this.#delay;
    setText(byId("delay"), ms === undefined ? "–" : passed(ms));
    const sorted = [...this.#finalDelays].sort((a, b) => a - b);
    const usual = sorted[sorted.length >> 1];
    if (usual !== undefined) setText(byId("delay-final"), `finals after ${passed(usual)}`);
  }

  #drawSum(id, sum) {
    setText(byId(id), sum === undefined ? UNKNOWN : short(sum));
    byId(id).title = sum === undefined ? "" : exact.format(sum);
  }

  #drawLegend() {
    const legend = this.#chart.legend;
    const all = legend.reduce((sum, { count }) => sum + count, 0);
    const list = byId("legend");
    while (list.children.length > legend.length) list.lastElementChild.remove();
    legend.forEach(({ emoji, count, colour }, index) => {
      const item = list.children[index] ?? list.appendChild(document.createElement("li"));
      if (!item.firstChild) item.append(leaf("i", "swatch", ""), leaf("span", "glyph", ""), leaf("span", "count", ""));
      item.children[0].style.background = colour;
      setText(item.children[1], emoji);
      setText(item.children[2], `${Math.round((100 * count) / all)} %`);
    });
  }

  #drawPeaks(found) {
    byId("peaks-empty").hidden = found.length > 0;
    drawMoments(byId("peaks"), found);
  }

  #drawTrending({ span_ms, top }) {
    setText(byId("trending-span"), top.length > 0 ? `last ${Math.round(span_ms / 1000)} s` : "");
    drawChips(byId("trending"), top.slice(0, 8));
  }

  /** Says what is wrong with `rooms` or with the `room`; an empty text, that nothing is any more. */
  #problem(of, text) {
    this.#problems[of] = text;
    const worst = this.#problems.rooms || this.#problems.room;
    byId("problem").hidden = worst === "";
    setText(byId("problem"), worst);
  }

  /** The kept finals as a file. A link could not carry the token. */
  async #download(kind) {
    const room = this.#room;
    try {
      const kept = await ask(`/v1/rooms/${room}/history`);
      const [text, type] = kind === "csv"
        ? [csv(room, kept.finals), "text/csv;charset=utf-8"]
        : [JSON.stringify(kept, null, 1), "application/json"];
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type }));
      link.download = `emostream-${room}.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (error) {
      this.#problem("room", error.message);
    }
  }
}

/** A span in words: 40 seconds, 10 minutes. */
function stretch(ms) {
  return ms < 90_000 ? `${Math.round(ms / 1000)} seconds` : `${Math.round(ms / 60_000)} minutes`;
}

void new Dashboard().start();
