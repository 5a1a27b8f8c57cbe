/**
 * The producer's page: which rooms are active, and how the mood of one of them developed.
 *
 *     GET /v1/rooms, every few seconds ──▶ rooms by activity, audience ──▶ the busiest one, if the page follows it
 *     GET …/history, then finals ──▶ the last ten minutes ──▶ chart, table, peaks, rises, sums
 *     live ──▶ the delay
 *
 * Invariants: everything shown belongs to the room that is chosen now; responses for a former one are dropped. The time
 * of the page is the server's. Without a connection the present is unknown: the chart stands still, no rate is 0, and
 * each sentence names the time up to which it is true.
 *
 * @module emostream/dashboard
 */

import { Chart } from "./chart.js";
import { Delay } from "./delay.js";
import {
  ask, byId, drawChips, drawMoments, drawStatus, exact, leaf, minute, passed, percent, rate, roomOfAddress, setText,
  share, short, span, tokenOfAddress, wrongRoom,
} from "./dom.js";
import { connect } from "./emostream.js";
import { Activity, Busiest, SPANS_MS, csv, pace, peaks, queryOf, rises, viewOf } from "./mood.js";

/** Finals that the page keeps: the longest span of the chart. */
const KEPT_MS = SPANS_MS.at(-1);
/** Minimum span of the chart. Otherwise the first seconds of a room would be stretched over the whole width. */
const YOUNG_MS = 20_000;
const ROOMS_EVERY_MS = 3_000;
/** Time over which each rate is averaged, but at least three windows. */
const PACE_MS = 10_000;
const PACE_WINDOWS = 3;
const ROOMS_SHOWN = 50;
/** Number of windows after the end of a window within which its final usually arrives. */
const FINAL_WINDOWS = 3;
const PEAKS = 5;
const PEAKS_APART_MS = 20_000;
const RISES = 6;
const RISE_MS = 60_000;
/** Text of a tile whose value is not known. */
const UNKNOWN = "–";
/** Number of delays of finals whose median is shown. */
const DELAYS = 15;
const NOTE_MS = 8_000;

class Dashboard {
  /** The view that the address names. */ #view = viewOf("");
  #room;
  #rooms = [];
  /** Time at which the list of rooms was received, by this device's clock. */ #listedAt = 0;
  #problems = { address: "", rooms: "", room: "" };
  #stream;
  #chart = new Chart(byId("chart"), byId("chart-reading"));
  #activity = new Activity();
  #busiest = new Busiest();
  #delay = new Delay();
  #windowMs = 2000;
  /** @type {Map<number, import("./emostream.js").Final>} by start */ #finals = new Map();
  #finalDelays = [];
  /** Whether the finals include those that the server has kept of the room. */ #recalled = false;
  /** The room's `total` and `subscribers`, undefined while they are not known. The list has only active rooms. */ #state;
  /** End of the chart, by the server's time; 0 before the first connection. */ #to = 0;
  /** Reactions per second in the room that is shown; undefined while it is not known. */ #pace;
  #noteTimer = 0;

  async start() {
    await this.#list();
    this.#open();
    // The address is stored now, so that going back in the history returns to this room.
    if (!this.#problems.address) history.replaceState(null, "", this.#address());
    window.addEventListener("popstate", () => this.#open());
    byId("csv").addEventListener("click", () => void this.#download("csv"));
    byId("json").addEventListener("click", () => void this.#download("json"));
    byId("follow").addEventListener("click", () => this.#follow());
    byId("span").addEventListener("change", ({ target }) => this.#change({ span_ms: Number(target.value) }));
    byId("freeze").addEventListener("click", () => this.#freeze());
    byId("share").addEventListener("click", () => void this.#share());
    byId("table-details").addEventListener("toggle", () => this.#draw());
    setInterval(() => document.hidden || void this.#list(), ROOMS_EVERY_MS);
    setInterval(() => document.hidden || this.#draw(), 1000);
  }

  // The address.

  /** Shows the view that the address names. */
  #open() {
    const first = this.#rooms[0]?.room ?? "default";
    const wrong = wrongRoom();
    this.#view = viewOf(location.search);
    this.#problem("address", wrong || this.#view.problem);
    this.#choose(this.#view.follow || wrong ? this.#room ?? first : roomOfAddress(this.#room ?? first));
    this.#draw();
  }

  /** Returns the address of a room with this view, and with the token, which only the browser sees. */
  #address(view = {}) {
    return `/dashboard${queryOf({ room: this.#room, ...this.#view, ...view })}${location.hash}`;
  }

  /** Changes the view, and the address with it. */
  #change(view) {
    Object.assign(this.#view, view);
    history.replaceState(null, "", this.#address());
    this.#problem("address", "");
    this.#draw();
  }

  #follow() {
    const follow = !this.#view.follow;
    // The list is in the order of activity.
    if (follow && this.#problems.rooms === "" && this.#rooms.length > 0) this.#choose(this.#rooms[0].room);
    this.#change(follow ? { follow, until: undefined } : { follow });
  }

  #freeze() {
    const until = this.#view.until === undefined && this.#to > 0 ? this.#to : undefined;
    this.#change({ until, follow: false });
  }

  /** Shares a link that always shows this room and this span. The link contains no token. */
  async #share() {
    const { origin } = location;
    const until = this.#view.until ?? (this.#to || undefined);
    const url = `${origin}/dashboard${queryOf({ room: this.#room, span_ms: this.#view.span_ms, until })}`;
    const note = await share(`${this.#room} · EmoStream`, url);
    const lasts = "It opens this room and span, as long as the server keeps the counts.";
    setText(byId("share-note"), note && note !== url ? `${note} ${lasts}` : note);
    clearTimeout(this.#noteTimer);
    if (note !== url) this.#noteTimer = setTimeout(() => setText(byId("share-note"), ""), NOTE_MS);
  }

  // Rooms.

  async #list() {
    try {
      const { rooms, trending } = await ask("/v1/rooms");
      this.#activity.add(rooms, performance.now(), this.#paceSpan);
      const hot = new Map(trending?.rooms.map(({ room, count }) => [room, count]));
      const heat = ({ room }) => this.#paceOf(room) || (hot.get(room) ?? 0) / 1e6;
      rooms.sort((a, b) => heat(b) - heat(a) || b.total - a.total);
      this.#rooms = rooms;
      void this.#look();
      this.#listedAt = Date.now();
      this.#problem("rooms", "");
    } catch (error) {
      this.#activity.clear();
      this.#problem("rooms", error.message);
    }
    if (this.#view.follow) this.#goToBusiest();
    this.#drawRooms();
  }

  /** Finds the state of the room that is shown. An idle room is not in the list, but it may have an audience. */
  async #look() {
    const room = this.#room;
    if (room === undefined) return;
    const listed = this.#rooms.find((other) => other.room === room);
    // If the server refuses the request, the response for the history shows the reason.
    const state = listed ?? await ask(`/v1/rooms/${room}`).catch(() => undefined);
    if (room === this.#room) this.#state = state;
  }

  #goToBusiest() {
    const rates = this.#rooms.map(({ room }) => [room, this.#activity.of(room)]).filter(([, rate]) => rate !== undefined);
    const busiest = this.#busiest.next(rates, this.#room, performance.now());
    if (busiest === this.#room) return;
    this.#choose(busiest);
    setText(byId("followed"), `${busiest} is now the busiest room, and is shown.`);
  }

  get #paceSpan() {
    return this.#windowMs * Math.max(PACE_WINDOWS, Math.ceil(PACE_MS / this.#windowMs));
  }

  /**
   * Returns reactions per second: for the room that is shown, the rate in its tile; for other rooms, the rate of their
   * totals.
   */
  #paceOf(room) {
    return room === this.#room ? this.#pace : this.#activity.of(room);
  }

  #drawRooms() {
    // Without a response it is not known which rooms are active now.
    const lost = this.#problems.rooms !== "";
    const unknown = this.#rooms.length === 0 && lost;
    const count = `${exact.format(this.#rooms.length)} active`;
    byId("rooms-empty").hidden = unknown || this.#rooms.length > 0;
    setText(byId("rooms-count"), unknown ? "" : lost ? `${count} at ${minute(this.#listedAt)}` : count);
    byId("follow").setAttribute("aria-pressed", this.#view.follow);
    const list = byId("rooms");
    const rows = new Map(Array.from(list.children, (row) => [row.firstElementChild.dataset.room, row]));
    const shown = this.#inOrder([...rows.keys()]);
    for (const [room, row] of rows) if (!shown.some((other) => other.room === room)) row.remove();
    shown.forEach((room, index) => {
      const row = rows.get(room.room) ?? this.#row();
      this.#drawRoom(row, room, lost);
      if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    });
    const here = this.#state?.subscribers;
    const all = this.#rooms.reduce((sum, { subscribers }) => sum + subscribers, 0);
    setText(byId("audience"), lost || here === undefined ? UNKNOWN : exact.format(here));
    setText(byId("audience-all"), lost ? "" : `${exact.format(all)} in all active rooms`);
  }

  /**
   * Returns the rooms in the order in which they are shown. While the pointer or the keyboard focus is in the list, no
   * row moves, since the user would miss it.
   */
  #inOrder(former) {
    const rooms = this.#rooms.slice(0, ROOMS_SHOWN);
    const list = byId("rooms");
    const inUse = list.querySelector(":focus-visible") || (matchMedia("(hover: hover)").matches && list.matches(":hover"));
    if (!inUse) return rooms;
    const place = ({ room }) => (former.includes(room) ? former.indexOf(room) : former.length);
    return rooms.sort((a, b) => place(a) - place(b));
  }

  #row() {
    const link = document.createElement("a");
    link.append(leaf("span", "glyph", ""), leaf("span", "title", ""), " ", leaf("small", "", ""), " ", leaf("span", "count", ""));
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      history.pushState(null, "", link.href);
      this.#open();
    });
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  #drawRoom(row, { room, total, totals, subscribers }, lost) {
    const link = row.firstElementChild;
    const [glyph, title, small, count] = link.children;
    link.href = this.#address({ room, follow: false });
    link.dataset.room = room;
    if (room === this.#room) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    const per_second = this.#paceOf(room);
    setText(glyph, totals[0]?.emoji ?? "");
    setText(title, room);
    link.title = room;
    setText(small, lost ? short(total) : `${short(total)} · ${exact.format(subscribers)} watching`);
    const shown = per_second >= 0.05 ? `${rate(per_second)}/s` : "quiet";
    setText(count, per_second === undefined ? "" : shown);
  }

  // One room.

  #choose(room) {
    if (room === this.#room) return;
    this.#room = room;
    const former = this.#stream;
    this.#stream = undefined;
    former?.close();
    this.#finals.clear();
    this.#finalDelays = [];
    this.#recalled = false;
    this.#state = this.#rooms.find((listed) => listed.room === room);
    this.#delay = new Delay();
    this.#problem("room", "");
    setText(byId("room-name"), room);
    document.title = `${room} · Dashboard · EmoStream`;
    byId("to-viewer").href = `/?room=${room}${location.hash}`;
    this.#connect(room);
    this.#draw();
    void this.#recall(room);
  }

  #connect(room) {
    const stream = connect({ room, token: tokenOfAddress(), observer: true });
    this.#stream = stream;
    drawStatus(stream.status);
    const on = (type, act) => stream.addEventListener(type, ({ detail }) => {
      if (this.#stream === stream) act(detail);
    });
    on("status", ({ status, detail }) => {
      drawStatus(status);
      if (status === "closed" && detail) this.#problem("room", detail);
      this.#draw();
    });
    on("hello", ({ window_ms, resumed }) => {
      this.#windowMs = window_ms;
      this.#delay.joined();
      if (resumed) return;
      this.#recalled = false;
      void this.#recall(room);
    });
    on("state", (state) => { this.#state = state; });
    on("gap", () => void this.#recall(room));
    on("live", (live) => this.#delay.live(live));
    on("final", (final) => {
      this.#finalDelays = [...this.#finalDelays.slice(1 - DELAYS), final.emitted_at - final.end];
      this.#delay.final(final);
      this.#finals.set(final.start, final);
      this.#draw();
    });
    on("refused", ({ detail }) => this.#problem("room", detail));
  }

  /** Requests the finals from before this page was opened, or the finals that were missed. */
  async #recall(room) {
    try {
      const { finals } = await ask(`/v1/rooms/${room}/history`);
      if (room !== this.#room) return;
      for (const final of finals) this.#finals.set(final.start, final);
      this.#recalled = true;
      this.#problem("room", "");
      this.#draw();
    } catch (error) {
      if (room === this.#room) this.#problem("room", error.message);
    }
  }

  // Drawing.

  #draw() {
    const isOpen = this.#stream.status === "open";
    if (isOpen) {
      // The chart ends at the newest final; in a quiet room, at the time up to which a final would have arrived by now.
      const due = this.#stream.now - FINAL_WINDOWS * this.#windowMs;
      const ends = Math.max(due, ...[...this.#finals.values()].map(({ end }) => end));
      this.#to = this.#toWindow(ends);
    }
    const { until = Infinity, span_ms } = this.#view;
    const frozen = until !== Infinity;
    const to = Math.min(this.#toWindow(until), this.#to);
    const isShown = (start) => start >= to - span_ms && start < to;
    for (const start of this.#finals.keys()) {
      if (start < this.#to - KEPT_MS && !isShown(start)) this.#finals.delete(start);
    }
    const all = [...this.#finals.values()].sort((a, b) => a.start - b.start);
    const finals = all.filter(({ start }) => isShown(start));
    // The chart begins with the first counts, so that the counts of a young room fill it.
    const from = Math.min(finals[0]?.start ?? to - span_ms, to - YOUNG_MS);
    const found = peaks(finals, PEAKS, PEAKS_APART_MS);
    if (to > 0) {
      this.#chart.draw(finals, found, from, to, this.#windowMs);
      const moves = isOpen && !frozen;
      setText(byId("mood-title"), moves ? `Mood of the last ${stretch(to - from)}` : `Mood, ${span({ start: from, end: to })}`);
      setText(byId("kept-span"), moves ? `Last ${stretch(to - from)}` : "In this span");
      if (byId("table-details").open) this.#chart.tabulate(byId("table"));
    }
    this.#pace = isOpen && this.#recalled ? pace(all, this.#to, this.#paceSpan) : undefined;
    setText(byId("mood-empty"), frozen && this.#recalled ? "The server keeps no counts of this span." : "Reactions in this room appear here.");
    byId("mood-empty").hidden = finals.length > 0;
    byId("freeze").setAttribute("aria-pressed", frozen);
    byId("span").value = span_ms;
    this.#drawLegend();
    this.#drawRises(all, isOpen);
    this.#drawPeaks(found);
    this.#drawTiles(all, finals, isOpen);
    this.#drawRooms();
  }

  #toWindow(time_ms) {
    return Math.ceil(time_ms / this.#windowMs) * this.#windowMs;
  }

  #drawTiles(all, finals, isOpen) {
    // A past span without finals may have had no reactions, or its finals may not be kept any more: this is not known.
    const isKnown = this.#recalled && this.#to > 0 && (finals.length > 0 || this.#view.until === undefined);
    this.#drawSum("kept-sum", isKnown ? finals.reduce((sum, { total }) => sum + total, 0) : undefined);
    // The sum is as of the newest final, so that it matches the chart.
    const { totals, totals_others = 0 } = all.at(-1) ?? {};
    this.#drawSum("ever-sum", totals?.reduce((sum, { count }) => sum + count, totals_others) ?? this.#state?.total);
    setText(byId("ever-at"), isOpen || this.#to === 0 ? "reactions" : `reactions at ${minute(this.#to)}`);
    setText(byId("now-rate"), this.#pace === undefined ? UNKNOWN : rate(this.#pace));
    const { ms } = this.#delay;
    setText(byId("delay"), ms === undefined || !isOpen ? UNKNOWN : passed(ms));
    const sorted = [...this.#finalDelays].sort((a, b) => a - b);
    const median = sorted[sorted.length >> 1];
    setText(byId("delay-final"), median === undefined || !isOpen ? "measured in busy rooms" : `finals after ${passed(median)}`);
  }

  #drawSum(id, sum) {
    setText(byId(id), sum === undefined ? UNKNOWN : short(sum));
    byId(id).title = sum === undefined ? "" : exact.format(sum);
  }

  #drawLegend() {
    const { legend } = this.#chart;
    const all = legend.reduce((sum, { count }) => sum + count, 0);
    const list = byId("legend");
    while (list.children.length > legend.length) list.lastElementChild.remove();
    legend.forEach(({ emoji, count, colour }, index) => {
      const item = list.children[index] ?? list.appendChild(document.createElement("li"));
      if (!item.firstChild) item.append(leaf("i", "swatch", ""), leaf("span", "glyph", ""), " ", leaf("span", "count", ""));
      item.children[0].style.background = colour;
      setText(item.children[1], emoji);
      setText(item.children[2], percent.format(count / all));
    });
  }

  #drawRises(all, isOpen) {
    const rising = this.#recalled ? rises(all, this.#to, RISE_MS, RISES) : [];
    drawChips(byId("rising"), rising.map(({ emoji, count, before, isNew }) => ({
      emoji,
      text: `+${short(count - before)}`,
      tag: before > 0 ? `×${rate(count / before)}` : isNew ? "new" : "",
    })));
    const at = isOpen || this.#to === 0 ? "" : `at ${minute(this.#to)}, `;
    setText(byId("rising-span"), `${at}against the minute before`);
    const isAfterQuiet = pace(all, this.#to, RISE_MS) > 0 && pace(all, this.#to - RISE_MS, RISE_MS) === 0;
    const none = isAfterQuiet ? "The minute before had no reactions." : "No emoji rises.";
    setText(byId("rising-empty"), isOpen && this.#recalled ? none : "Emojis that rise appear here.");
    byId("rising-empty").hidden = rising.length > 0;
  }

  #drawPeaks(found) {
    byId("peaks-empty").hidden = found.length > 0;
    drawMoments(byId("peaks"), found, (final) => this.#chart.read(final));
  }

  /** Shows the problem of the `address`, of the list of `rooms`, or of the `room`; an empty text removes it. */
  #problem(of, text) {
    this.#problems[of] = text;
    const { address, rooms, room } = this.#problems;
    const worst = rooms || address || room;
    byId("problem").hidden = worst === "";
    setText(byId("problem"), worst);
  }

  /** Saves the kept finals as a file. A link to the server could not contain the token. */
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

/** Returns a span in words: 40 seconds, 10 minutes. */
function stretch(ms) {
  if (ms < 90_000) return `${exact.format(Math.round(ms / 1000))} seconds`;
  return `${exact.format(Math.round(ms / 60_000))} minutes`;
}

void new Dashboard().start();
