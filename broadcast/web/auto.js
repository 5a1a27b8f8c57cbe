/**
 * Loads the custom element if the page has an `<emostream-room>`, so that other pages do not load it.
 *
 *     <script type="module" src="https://emo.example/auto.js"></script>
 *
 * @module emostream/auto
 */

if (globalThis.document?.querySelector("emostream-room")) void import("./emostream-room.js");
