// React 19: the hook, the component, and the element in JSX.
import { useRef } from "react";
import { Room, useRoom } from "emostream/react";
import type { EmoStreamRoom } from "emostream/room";

export function Buttons({ room }: { room?: string }) {
  const { status, totals, live, react } = useRoom({ url: "https://emo.example", room, token: () => "a.b.c" });
  return (
    <p title={status}>
      {totals.map(({ emoji, count }) => <button key={emoji} onClick={() => react(emoji)}>{emoji} {count}</button>)}
      {live?.total.toFixed()}
    </p>
  );
}

export function Page() {
  const room = useRef<EmoStreamRoom>(null);
  return (
    <>
      <Room
        ref={room} room="match-7" className="crowd" overlay maxParticles={500} messages={{ closed: "Fin" }}
        onfinal={({ detail }) => console.log(detail.id)} oncounts={({ detail }) => detail.sum.toFixed()}
        onClick={(event) => event.clientX}
      >
        <h1>Match 7</h1>
      </Room>
      <emostream-room room="match-7" emojis="🔥👏" buttons="none" onstatus={({ detail }) => detail.reason.length} />
      {/* @ts-expect-error: there is no such property */}
      <Room rooms="match-7" />
      {/* @ts-expect-error: a number of particles is a number */}
      <emostream-room maxParticles="many" />
      {/* @ts-expect-error: a frame has no such field */}
      <Room onfinal={({ detail }) => detail.swarms} />
    </>
  );
}
