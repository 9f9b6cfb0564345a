"use strict";

function sortable(table) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach(
        (other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        // What is not known comes last, whichever way it is sorted.
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (x) => x.charCodeAt(0));
  const stream = new Blob([packed]).stream()
    .pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function loaded(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = source;
  });
}

async function browse(data) {
  const side = data.side;
  const bytes = Math.ceil(side * side / 8);
  const bits = await inflate(data.masks);
  const inside = (plane, x, y) => {
    if (x < 0 || y < 0 || x >= side || y >= side) return false;
    const i = y * side + x;
    return (bits[plane * bytes + (i >> 3)] >> (7 - (i & 7)) & 1) === 1;
  };

  // The edges between pixels inside and outside, in pixels of the network.
  const outline = (plane) => {
    const path = new Path2D();
    const edge = (a, b, c, d) => { path.moveTo(a, b); path.lineTo(c, d); };
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        if (!inside(plane, x, y)) continue;
        if (!inside(plane, x - 1, y)) edge(x, y, x, y + 1);
        if (!inside(plane, x + 1, y)) edge(x + 1, y, x + 1, y + 1);
        if (!inside(plane, x, y - 1)) edge(x, y, x + 1, y);
        if (!inside(plane, x, y + 1)) edge(x, y + 1, x + 1, y + 1);
      }
    }
    return path;
  };

  const panels = document.getElementById("panels");

  async function show(unit) {
    const item = data.units[unit];
    const image = await loaded(data.images[item.case]);
    const [height, width] = data.sizes[item.case];
    const made = [["image", null, null], ...item.rows].map(
      ([name, row, dice]) => {
        const figure = document.createElement("figure");
        const canvas = document.createElement("canvas");
        canvas.width = 360;
        canvas.height = Math.round(360 * height / width);
        canvas.role = "img";
        const caption = document.createElement("figcaption");
        caption.textContent = dice === null ? name : `${name} ${dice}`;
        canvas.ariaLabel = `${item.name}, ${caption.textContent}`;
        const pen = canvas.getContext("2d");
        pen.drawImage(image, 0, 0, canvas.width, canvas.height);
        if (row !== null) {
          const scale = new DOMMatrix().scale(
            canvas.width / side, canvas.height / side);
          const planes = data.colours.length;
          const drawn = data.colours.flatMap(([truth, prediction], i) => [
            [item.truth * planes + i, truth, []],
            [row * planes + i, prediction, [6, 3]]]);
          drawn.forEach(
            ([plane, colour, dash]) => {
              const path = new Path2D();
              path.addPath(outline(plane), scale);
              pen.strokeStyle = colour;
              pen.lineWidth = 2.5;
              pen.setLineDash(dash);
              pen.stroke(path);
            });
        }
        figure.append(canvas, caption);
        return figure;
      });
    panels.replaceChildren(...made);
    panels.dataset.shown = item.name;
    for (const row of list.rows) {
      const chosen = row.dataset.unit === String(unit);
      row.setAttribute("aria-selected", chosen);
      row.tabIndex = chosen ? 0 : -1;  // One stop for Tab, arrows go on.
    }
  }

  // From a row to the one that a key asks for, past those that are filtered.
  const step = (row, key) => {
    const rows = [...list.rows].filter((other) => !other.hidden);
    const place = rows.indexOf(row);
    return {
      ArrowDown: rows[place + 1],
      ArrowUp: rows[place - 1],
      Home: rows[0],
      End: rows[rows.length - 1],
      Enter: row,
      " ": row,
    }[key];
  };

  const list = document.querySelector("#list tbody");
  list.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) show(row.dataset.unit);
  });
  list.addEventListener("keydown", (event) => {
    const row = step(event.target.closest("tr"), event.key);
    if (!row) return;
    event.preventDefault();
    row.focus();
    show(row.dataset.unit);
  });
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of list.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      row.tabIndex = -1;
    }
    const rows = [...list.rows].filter((row) => !row.hidden);
    const first = rows.find((row) => row.ariaSelected === "true") ?? rows[0];
    if (first) first.tabIndex = 0;
  });
  await show(list.rows[0].dataset.unit);
}

const cases = document.getElementById("cases-data");
if (cases) browse(JSON.parse(cases.textContent));
