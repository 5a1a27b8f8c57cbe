// A moving picture, so that the example needs no video file. Your page has `src` or a player's library instead.
const canvas = document.createElement("canvas");
canvas.width = 1280;
canvas.height = 720;
const picture = canvas.getContext("2d");
const FRAMES_PER_SECOND = 25;

setInterval(() => {
  const t = performance.now() / 1000;
  picture.fillStyle = "#14532d";
  picture.fillRect(0, 0, canvas.width, canvas.height);
  picture.strokeStyle = "#fff6";
  picture.strokeRect(640, -10, 1000, 740);
  picture.fillStyle = "#fff";
  picture.beginPath();
  picture.arc(640 + 500 * Math.sin(t), 360 + 250 * Math.sin(1.7 * t), 18, 0, 2 * Math.PI);
  picture.fill();
}, 1000 / FRAMES_PER_SECOND);

document.querySelector("video").srcObject = canvas.captureStream(FRAMES_PER_SECOND);
