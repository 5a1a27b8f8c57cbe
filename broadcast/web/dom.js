/**
 * What both pages write with: one style of numbers and times, and text that changes only where it differs; and
 * how they ask.
 *
 * @module emostream/dom
 */

/** A server that answers later than this is away. */
const ANSWER_MS = 10_000;
const ROOM = /^(?!\.\.?$)[A-Za-z0-9._~-]{1,64}$/;

// One style everywhere: whole numbers in groups; where room is short, from ten thousand on, 12.3K.
export const exact = new Intl.NumberFormat();
export const oneDigit = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
export const short = (count) => (count < 10_000 ? exact : compact).format(count);

const TO_THE_SECOND = { hourCycle: "h23", hour: "2-digit", minute: "2-digit", second: "2-digit" };
const TO_A_TENTH = { ...TO_THE_SECOND, fractionalSecondDigits: 1 };
export const clock = (time_ms, style = TO_THE_SECOND) => new Date(time_ms).toLocaleTimeString([], style);

/** From when to when a window is. */
export function span({ start, end }) {
  const style = start % 1000 === 0 && end % 1000 === 0 ? TO_THE_SECOND : TO_A_TENTH;
  return `${clock(start, style)} – ${clock(end, style)}`;
}

/** A time that passed: 640 ms, 1.2 s. */
export function passed(ms) {
  return ms < 1000 ? `${Math.round(ms / 10) * 10} ms` : `${oneDigit.format(ms / 1000)} s`;
}

/** So many reactions a second. */
export function rate(per_second) {
  if (per_second < 0.05) return "0";
  return per_second >= 10 ? exact.format(Math.round(per_second)) : oneDigit.format(per_second);
}

export function byId(id) {
  return document.getElementById(id);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function leaf(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Redraws a list of counts, keeping the elements that stay. */
export function drawChips(list, counts) {
  while (list.children.length > counts.length) list.lastElementChild.remove();
  counts.forEach(({ emoji, count, swarms }, index) => {
    const chip = list.children[index] ?? list.appendChild(emptyChip());
    setText(chip.children[0], emoji);
    setText(chip.children[1], short(count));
    setText(chip.children[2], swarms > 0 ? `${swarms} ${swarms === 1 ? "swarm" : "swarms"}` : "");
  });
}

function emptyChip() {
  const chip = document.createElement("li");
  chip.append(leaf("span", "glyph", ""), leaf("span", "count", ""), leaf("span", "tag", ""));
  return chip;
}

/** Redraws a list of finals, if it shows others. */
export function drawMoments(list, finals) {
  const key = finals.map(({ id }) => id).join();
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  list.replaceChildren(...finals.map(moment));
}

/** A closed window as a list item: its counts, which add up to its total. */
function moment({ start, total, counts }) {
  const item = document.createElement("li");
  const top = document.createElement("span");
  top.className = "top3";
  const listed = counts.slice(0, 3);
  const rest = total - listed.reduce((sum, { count }) => sum + count, 0);
  for (const { emoji, count } of rest > 0 ? [...listed, { emoji: "+", count: rest }] : listed) {
    const one = leaf("span", "one", "");
    one.append(leaf("span", "glyph", emoji), ` ${exact.format(count)}`);
    top.append(one);
  }
  const time = leaf("time", "", clock(start));
  time.dateTime = new Date(start).toISOString();
  item.append(time, top, leaf("span", "count", exact.format(total)));
  return item;
}

/** The room that the address names; `otherwise` where it names none that can be one. */
export function roomOfAddress(otherwise) {
  return askedRoom() || otherwise;
}

/** Why the address names no room, or "" where it names one or none. */
export function wrongRoom() {
  const room = askedRoom();
  return room && !ROOM.test(room) ? `“${room}” is no room: a room is 1 to 64 letters, digits and . _ ~ -, but not . or ..` : "";
}

function askedRoom() {
  return new URLSearchParams(location.search).get("room") ?? "";
}

/** `#token=…`: what stands behind the # is sent to no server. */
export function tokenOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
}

/** What the server answers; throws its sentence where it refuses, and one of its own where there is none. */
export async function ask(path) {
  const token = tokenOfAddress();
  const late = new AbortController();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const request = new Request(path, { headers, signal: late.signal });
  const timer = setTimeout(() => late.abort(), ANSWER_MS);
  try {
    const answer = await fetch(request).catch(() => {
      throw new Error("The server does not answer.");
    });
    // A proxy's page is not JSON.
    const body = await answer.json().catch(() => undefined);
    if (!answer.ok || !body) throw new Error(body?.detail ?? body?.title ?? `The server answered ${answer.status}.`);
    return body;
  } finally {
    clearTimeout(timer);
  }
}

export const STATUS_TEXT = { connecting: "Connecting", open: "Live", paused: "Paused", closed: "Closed" };

/** The lamp at the top. */
export function drawStatus(status) {
  document.querySelector("[data-status]").dataset.status = status;
  setText(byId("status-text"), STATUS_TEXT[status]);
}
