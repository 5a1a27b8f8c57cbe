/**
 * The demo crowd of `up`: generated reactions, for a newcomer who is alone in a room.
 *
 * The crowd exists only while a page that asked for it is open, since the page sends it: over the same API and under
 * the same limits as a real crowd, as the users `demo-1` to `demo-500`. So the server needs no generator of reactions,
 * and the page looks as it does with a real crowd. Its reactions are counted and stay in the totals; the page says so
 * while the crowd is there.
 *
 * @module emostream/demo
 */

export const DEMO_MS = 60_000;
const POST_MS = 250;
const USERS = 500;
const EMOJIS = ["🔥", "👏", "😂", "❤️", "😮", "🎉", "👍"];
/** Seconds after the start at which the crowd sends many reactions at once, as after a goal. */
const MOMENTS = [{ at: 12, emoji: "🎉" }, { at: 36, emoji: "🔥" }];
const MOMENT_SECONDS = 4;
const MOMENT_PER_SECOND = 600;

/** Returns how many reactions per second the crowd sends, `seconds` after its start: of each kind, and of one emoji. */
export function pace(seconds) {
  const moment = MOMENTS.find(({ at }) => seconds >= at && seconds < at + MOMENT_SECONDS);
  return { mixed: 12 + 40 * Math.sin((Math.PI * seconds * 1000) / DEMO_MS), moment: moment ? MOMENT_PER_SECOND : 0, emoji: moment?.emoji };
}

/** Returns the reactions of one request. `random` returns a number from 0 to below 1. */
export function reactions(room, seconds, random = Math.random) {
  const { mixed, moment, emoji } = pace(seconds);
  const one = (emoji_type) => ({ user_id: `demo-${1 + Math.floor(random() * USERS)}`, emoji_type, room });
  const share = (per_second) => Math.floor((per_second * POST_MS) / 1000 + random());
  const pick = () => EMOJIS[Math.floor(random() ** 2 * EMOJIS.length)];
  return [
    ...Array.from({ length: share(mixed) }, () => one(pick())),
    ...Array.from({ length: moment ? share(moment) : 0 }, () => one(emoji)),
  ];
}

/**
 * Sends a crowd to the room for a minute, or until the signal is aborted.
 * @throws the server's sentence when it refuses the crowd
 */
export async function demo(room, signal) {
  const start = performance.now();
  for (let passed = 0; passed < DEMO_MS && !signal.aborted; passed = performance.now() - start) {
    const batch = reactions(room, passed / 1000);
    if (batch.length > 0) await post(batch);
    await new Promise((done) => setTimeout(done, POST_MS));
  }
}

async function post(batch) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(batch) };
  const answer = await fetch("/v1/reactions", request);
  if (answer.ok) return;
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? `The server answered ${answer.status}.`);
}
