/**
 * The still picture of one window: each emoji has a tile in proportion to its count, filled with that emoji.
 *
 *     counts ──▶ the most frequent ones ──▶ tiles (a squarified treemap) ──▶ a grid of cells in each
 *
 * @module emostream/mosaic
 */

/** Maximum number of emojis that are shown. With more tiles, the smallest ones could not be seen. */
const TOP = 12;
/**
 * Number of cells of the whole picture if a window has more reactions: enough to show proportions, and few enough to be
 * seen.
 */
const CELLS = 240;
/**
 * Maximum side of a cell, as a share of the shorter side of the picture, so that one reaction does not fill a screen.
 */
const LARGEST = 0.3;
const GAP = 6;

/**
 * Returns a tile for each of the most frequent emojis: its rectangle in a picture of `width` × `height`, and the cells in
 * it: `cells` of them, `side` pixels large, in `columns`. A window of up to {@link CELLS} reactions has a cell for each.
 */
export function mosaicOf(counts, width, height) {
  const top = counts.filter(({ count }) => count > 0).sort((a, b) => b.count - a.count).slice(0, TOP);
  const total = top.reduce((sum, { count }) => sum + count, 0);
  const unit = Math.max(1, total / CELLS);
  const areas = top.map(({ count }) => (count / total) * width * height);
  return squarify(areas, { x: 0, y: 0, width, height }).map((area, index) => {
    const inset = Math.min(GAP, area.width / 8, area.height / 8) / 2;
    const tile = { x: area.x + inset, y: area.y + inset, width: area.width - 2 * inset, height: area.height - 2 * inset };
    const cells = Math.max(1, Math.round(top[index].count / unit));
    return { ...top[index], ...tile, cells, ...grid(cells, tile, LARGEST * Math.min(width, height)) };
  });
}

/** Returns the columns and the side of the largest square cells of which `cells` fit into a rectangle. */
function grid(cells, { width, height }, largest) {
  let best = { columns: 1, side: 0 };
  for (let columns = 1; columns <= cells; columns++) {
    const side = Math.min(width / columns, height / Math.ceil(cells / columns), largest);
    if (side > best.side) best = { columns, side };
  }
  return best;
}

/**
 * Returns rectangles of the given areas, largest first, that fill `rest`. Each row of rectangles lies along the shorter
 * side, and has as many of them as make them most similar to squares (the algorithm of Bruls, Huizing and van Wijk).
 */
function squarify(areas, rest) {
  if (areas.length === 0) return [];
  const side = Math.min(rest.width, rest.height);
  let [taken, sum, worst] = [0, 0, Infinity];
  for (const area of areas) {
    const thick = (sum + area) / side;
    // The areas decrease, so the first and the last rectangle of a row are the least like squares.
    const next = Math.max(areas[0] / thick ** 2, thick ** 2 / area);
    if (next > worst) break;
    [taken, sum, worst] = [taken + 1, sum + area, next];
  }
  const thick = sum / side;
  const across = rest.width >= rest.height;
  let at = 0;
  const row = areas.slice(0, taken).map((area) => {
    const along = area / thick;
    const made = across
      ? { x: rest.x, y: rest.y + at, width: thick, height: along }
      : { x: rest.x + at, y: rest.y, width: along, height: thick };
    at += along;
    return made;
  });
  const left = across
    ? { x: rest.x + thick, y: rest.y, width: rest.width - thick, height: rest.height }
    : { x: rest.x, y: rest.y + thick, width: rest.width, height: rest.height - thick };
  return [...row, ...squarify(areas.slice(taken), left)];
}
