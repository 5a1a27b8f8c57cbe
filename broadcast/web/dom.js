/**
 * Shared by the two pages: numbers and times in the reader's locale, lists of counts, parameters of the address, and
 * requests to the server.
 *
 * @module emostream/dom
 */

/** Maximum time of a request. A request without a response after this time has failed. */
const RESPONSE_MS = 10_000;
const ROOM = /^(?!\.\.?$)[A-Za-z0-9._~-]{1,64}$/;

export const exact = new Intl.NumberFormat();
export const oneDigit = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const percent = new Intl.NumberFormat(undefined, { style: "percent" });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
/** Formats a count for narrow places: 9,876, and 12.3K from ten thousand on. */
export const short = (count) => (count < 10_000 ? exact : compact).format(count);

const TO_THE_MINUTE = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const TO_THE_SECOND = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit", second: "2-digit" });
const TO_A_TENTH = new Intl.DateTimeFormat(undefined, {
  hour: "numeric", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1,
});
export const minute = (time_ms) => TO_THE_MINUTE.format(time_ms);
export const clock = (time_ms) => TO_THE_SECOND.format(time_ms);

/** Returns the times at which a window starts and ends. */
export function span({ start, end }) {
  const format = start % 1000 === 0 && end % 1000 === 0 ? TO_THE_SECOND : TO_A_TENTH;
  return format.formatRange(start, end);
}

/** Formats a duration: 640 ms, 1.2 s. */
export function passed(ms) {
  return ms < 1000 ? `${Math.round(ms / 10) * 10} ms` : `${oneDigit.format(ms / 1000)} s`;
}

/** Formats a rate or a ratio: with one decimal below ten, and without decimals from ten on. */
export function rate(per_second) {
  if (per_second < 0.05) return exact.format(0);
  return per_second >= 10 ? exact.format(Math.round(per_second)) : oneDigit.format(per_second);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets the text of an element only if it differs, so that a screen reader does not read the same text twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function leaf(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Updates a list of counts. Elements that are still needed are kept; an entry may have its own `text` and `tag`. */
export function drawChips(list, counts) {
  while (list.children.length > counts.length) list.lastElementChild.remove();
  counts.forEach(({ emoji, count, swarms, text = short(count), tag = swarmsText(swarms) }, index) => {
    const chip = list.children[index] ?? list.appendChild(emptyChip());
    setText(chip.children[0], emoji);
    setText(chip.children[1], text);
    setText(chip.children[2], tag);
  });
}

function swarmsText(swarms) {
  return swarms > 0 ? `${exact.format(swarms)} ${swarms === 1 ? "swarm" : "swarms"}` : "";
}

function emptyChip() {
  const chip = document.createElement("li");
  chip.append(leaf("span", "glyph", ""), leaf("span", "count", ""), leaf("span", "tag", ""));
  return chip;
}

/**
 * Updates a list of finals, if it shows others. With `choose` each entry is a button, which calls `choose` with the
 * final.
 */
export function drawMoments(list, finals, choose) {
  const key = finals.map(({ id }) => id).join();
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  list.replaceChildren(...finals.map((final) => {
    const item = document.createElement("li");
    if (!choose) {
      item.append(...moment(final));
      return item;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.append(...moment(final));
    button.addEventListener("click", () => choose(final));
    item.append(button);
    return item;
  }));
}

/** Returns the time of a closed window, its greatest counts, the sum of the other counts, and the total. */
function moment({ start, total, counts }) {
  const top = leaf("span", "top3", "");
  const listed = counts.slice(0, 3);
  const rest = total - listed.reduce((sum, { count }) => sum + count, 0);
  for (const { emoji, count } of rest > 0 ? [...listed, { emoji: "+", count: rest }] : listed) {
    const one = leaf("span", "one", "");
    one.append(leaf("span", "glyph", emoji), ` ${exact.format(count)}`);
    top.append(one, " ");
  }
  const time = leaf("time", "", clock(start));
  time.dateTime = new Date(start).toISOString();
  return [time, " ", top, " ", leaf("span", "count", exact.format(total))];
}

/** Returns the room that the address names, or `otherwise` if it names none. */
export function roomOfAddress(otherwise) {
  return roomParameter() || otherwise;
}

/** Returns the reason why the room of the address is not valid, or "" if it is valid or absent. */
export function wrongRoom() {
  const room = roomParameter();
  return room && !ROOM.test(room) ? `“${room}” is not a room: a room is 1 to 64 letters, digits and . _ ~ -, but not . or ..` : "";
}

function roomParameter() {
  return new URLSearchParams(location.search).get("room") ?? "";
}

/**
 * Returns the token of `#token=…`. Browsers do not send the part after `#`, so no server's access log contains the
 * token.
 */
export function tokenOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
}

/**
 * Offers a link: by the device's share dialog if it has a touch screen, otherwise by the clipboard. Returns a sentence
 * that says what happened, or "" if the dialog said it.
 */
export async function share(title, url) {
  if (navigator.share && matchMedia("(pointer: coarse)").matches) {
    await navigator.share({ title, url }).catch(() => {});
    return "";
  }
  try {
    await navigator.clipboard.writeText(url);
    return "The link is copied.";
  } catch {
    // Without TLS there is no clipboard, so the user copies the text.
    return url;
  }
}

/**
 * Returns the JSON at `path`. If the server refuses the request, throws an error with the server's sentence, otherwise
 * one with a sentence of its own.
 */
export async function ask(path) {
  const token = tokenOfAddress();
  const late = new AbortController();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const request = new Request(path, { headers, signal: late.signal });
  const timer = setTimeout(() => late.abort(), RESPONSE_MS);
  try {
    const answer = await fetch(request).catch(() => {
      throw new Error("The server does not answer.");
    });
    // An error page of a proxy is not JSON.
    const body = await answer.json().catch(() => undefined);
    if (!answer.ok || !body) throw new Error(body?.detail ?? body?.title ?? `The server answered ${answer.status}.`);
    return body;
  } finally {
    clearTimeout(timer);
  }
}

export const STATUS_TEXT = { connecting: "Connecting", open: "Live", paused: "Paused", closed: "Closed" };

/** Shows the status of the connection in the top line. */
export function drawStatus(status) {
  document.querySelector("[data-status]").dataset.status = status;
  setText(byId("status-text"), STATUS_TEXT[status]);
}
