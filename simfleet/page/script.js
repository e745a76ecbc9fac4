"use strict";
(() => {
  // -- tables: a click on a heading sorts, a second one turns the order round
  const NUMBER = /^([+-]?)\$?(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?: ?(ms|s|%|points|W|kW|MW))?(?: \/ .*)?$/;
  const FACTOR = { ms: 1e-3, kW: 1e3, MW: 1e6 };
  const empty = (text) => text === "" || text === "-" || text === "n/a";
  const number = (text) => {
    const found = NUMBER.exec(text);
    return found ? Number((found[1] + found[2]).replaceAll(",", "")) * (FACTOR[found[3]] || 1) : NaN;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);

  function sort(table, column, heading) {
    const rows = [...table.tBodies[0].rows];
    const texts = rows.map((row) => row.cells[column].textContent.trim());
    const numeric = texts.every((text) => empty(text) || !Number.isNaN(number(text)));
    const down = heading.getAttribute("aria-sort") ? heading.getAttribute("aria-sort") === "ascending" : numeric;
    const keyed = rows.map((row, i) => ({ row, i, none: empty(texts[i]), key: numeric ? number(texts[i]) : texts[i] }));
    keyed.sort((a, b) => {
      if (a.none || b.none) return a.none - b.none || a.i - b.i; // what is not known stays below
      return (down ? -1 : 1) * compare(a.key, b.key) || a.i - b.i;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...keyed.map((entry) => entry.row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.append(...heading.childNodes);
      button.type = "button";
      heading.append(button);
      button.addEventListener("click", () => sort(table, column, heading));
    });
  }

  // -- charts: the values under the pointer
  const digits = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 100) return Math.round(value).toLocaleString("en-US");
    return size < 0.001 ? value.toExponential(2) : value.toFixed(2 - Math.floor(Math.log10(size)));
  };
  const seconds = (value) => (value >= 1 ? `${digits(value)} s` : `${digits(value * 1e3)} ms`);

  function nearest(xs, x, shape) {
    let low = 0, high = xs.length; // the first sample at or after x
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1; else high = middle;
    }
    if (shape === "after") return xs[low] === x ? low : low - 1; // the last one that was reached
    if (shape === "before") return Math.min(low, xs.length - 1);
    return low > 0 && (low === xs.length || x - xs[low - 1] < xs[low] - x) ? low - 1 : low;
  }

  function chart(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const svg = figure.querySelector("svg");
    const [left, top, right, bottom] = data.box;
    const scale = data.log ? Math.log10 : Number;
    const [from, to] = data.x.map(scale);
    const layer = document.createElementNS(svg.namespaceURI, "g");
    const tip = document.createElement("div");
    tip.className = "hover";
    tip.hidden = true;
    svg.append(layer);
    figure.append(tip);

    const hide = () => { tip.hidden = true; layer.replaceChildren(); };
    const shape = (name, attributes) => {
      const one = document.createElementNS(svg.namespaceURI, name);
      for (const key in attributes) one.setAttribute(key, attributes[key]);
      layer.append(one);
    };

    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = Math.min(Math.max(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width, left), right);
      const along = from + ((at - left) / (right - left)) * (to - from);
      let x = data.log ? 10 ** along : along;
      if (data.shape === "line") { // levels are known at the samples only
        const xs = data.series[0][2];
        x = xs[nearest(xs, x, "line")];
      }
      const place = left + ((scale(x) - from) / (to - from)) * (right - left);
      layer.replaceChildren();
      shape("line", { class: "cursor", x1: place, x2: place, y1: top, y2: bottom });
      tip.replaceChildren(data.log ? `within ${seconds(x)}` : `${digits(x)} ${data.xUnit}`);
      for (const [name, colour, xs, ys] of data.series) {
        const i = nearest(xs, x, data.shape);
        const y = i < 0 ? 0 : ys[i];
        shape("circle", { class: `dot c${colour < 0 ? -1 : colour % 7}`, cx: place, cy: bottom - (y / data.y[1]) * (bottom - top), r: 3.5 });
        const line = document.createElement("div");
        const key = document.createElement("i");
        key.className = `c${colour < 0 ? -1 : colour % 7}`;
        line.append(key, `${name}: ${data.share ? `${(y * 100).toFixed(1)} %` : `${digits(y)} ${data.yUnit}`}`);
        tip.append(line);
      }
      tip.hidden = false;
      const frame = figure.getBoundingClientRect();
      const side = event.clientX - frame.left;
      const room = frame.width - tip.offsetWidth;
      tip.style.left = `${Math.max(0, Math.min(side + 14 > room ? side - tip.offsetWidth - 14 : side + 14, room))}px`;
      tip.style.top = `${box.top - frame.top + 8}px`;
    });
  }
  document.querySelectorAll("figure.chart").forEach(chart);
})();
