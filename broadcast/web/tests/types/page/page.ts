// A page: streams and elements are the DOM's own, too.
import "emostream/auto";
import "emostream/room";
import { connect, type Final } from "emostream";

const crowd = connect();
const target: EventTarget = crowd;
const listener = (event: CustomEvent<Final>): number => event.detail.total;
crowd.addEventListener("final", listener);
crowd.removeEventListener("final", listener);
crowd.addEventListener("hello", (event) => event.preventDefault(), { signal: new AbortController().signal });

const element = document.createElement("emostream-room");
element.addEventListener("final", ({ detail }) => detail.totals.map(({ emoji }) => emoji));
element.addEventListener("counts", ({ detail }) => detail.sum.toFixed());
element.addEventListener("pointerdown", ({ pointerId }) => pointerId.toFixed());
element.addEventListener("click", function (event: MouseEvent) { return [this.particles, event.clientX]; });
element.removeEventListener("final", listener);
element.overlay = true;
element.maxParticles = 500;
element.messages = { closed: "Fin" };
const found = document.querySelector("emostream-room")?.stream?.lastId;

// @ts-expect-error: a sum is a number
element.addEventListener("counts", ({ detail }) => detail.sum.length);
// @ts-expect-error: there is no such sentence
element.messages = { goodbye: "Au revoir" };
export { found, target };
