import { createRoot } from "react-dom/client";
import { Room, useRoom } from "emostream/react";

const MATCH = { url: "http://127.0.0.1:8080", room: "match-7" };

/** A look of your own: the counts as a list. */
function Counts() {
  const { status, totals, react } = useRoom(MATCH);
  return (
    <section>
      <h2>Totals ({status})</h2>
      {totals.map(({ emoji, count }) => (
        <button key={emoji} onClick={() => react(emoji)}>
          {emoji} <span data-total={emoji}>{count}</span>
        </button>
      ))}
    </section>
  );
}

/** The custom element, and below it the list. */
function App() {
  return (
    <main>
      <h1>Match 7</h1>
      <Room {...MATCH} emojis="🔥👏😂" onrefused={({ detail }) => console.warn(detail.detail)} />
      <Counts />
    </main>
  );
}

const root = document.getElementById("root");
if (root) createRoot(root).render(<App />);
