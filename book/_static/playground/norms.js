// Figure "norms", the view: 64 numbers as cells, a line for each set that shares a mean, and the
// steps from x to y. One field of the state, `cell`, is what the mouse is over, what has the
// focus and what a finger has tapped: all cells of its set light up.
(function (bn) {
  "use strict";
  const { html, svg, set, heat } = bn.page;
  const { show } = bn.math;
  const model = bn.models.norms;
  const { N, C, L } = model;
  const REACH = 3; // colours are full at ±3; a cell beyond has a cut corner
  const AXIS = 4; // the lines go from -4 to 4
  const GAP = 6, GUTTER = 46, HEAD = 36, FOOT = 24;
  const NAMES = { batch: "Batch", layer: "Layer", group: "Group", instance: "Instance" };
  const CHOICES = { 4: "the digit 4", 7: "the digit 7", blank: "an empty image" };
  const SHORT = {
    batch: (s) => `c = ${s}`,
    layer: (s) => `n = ${s}`,
    group: (s) => `n = ${Math.floor(s / 2)}, c = ${s % 2 ? "2, 3" : "0, 1"}`,
    instance: (s) => `n = ${Math.floor(s / C)}, c = ${s % C}`,
  };
  const all = Array.from({ length: N * C * L }, (_, i) => i);

  // Where things are, in a picture of a width: the matrix, and the lines beside or below it.
  function layout(width) {
    const beside = width >= 600;
    const room = beside ? Math.min(450, width * 0.57) : width;
    const side = Math.min(44, Math.floor((room - GUTTER - 3 * GAP - 4) / (2 * C)));
    const block = 2 * side + GAP;
    const right = GUTTER + C * block - GAP, bottom = HEAD + N * block - GAP;
    const lines = beside
      ? { left: right + 24, top: HEAD, right: width - 8, bottom: bottom }
      : { left: 4, top: bottom + FOOT + 14, right: width - 8, bottom: bottom + FOOT + 204 };
    return { width, side, block, right, bottom, lines, height: lines.bottom + FOOT };
  }

  // The upper left corner of a cell. A block of two by two cells is one example's channel.
  function corner(i, { side, block }, left = GUTTER, top = HEAD) {
    const { n, c, l } = model.place(i);
    return [left + c * block + (l % 2) * side, top + n * block + Math.floor(l / 2) * side];
  }

  // The rectangle around the cells of a set; with every norm here they lie side by side.
  function around(members, grid, left, top) {
    const corners = members.map((i) => corner(i, grid, left, top));
    const xs = corners.map(([x]) => x), ys = corners.map(([, y]) => y);
    const x = Math.min(...xs) - 2, y = Math.min(...ys) - 2;
    return { x, y, width: Math.max(...xs) + grid.side + 2 - x, height: Math.max(...ys) + grid.side + 2 - y };
  }

  const image = (parent, name, size, left, top) => bn.page.digit(parent, model.pixels(name), size, left, top);
  function kernel(parent, c, size, left, top) {
    const signs = Array.from({ length: 16 }, (_, k) => model.SIGNS[c](Math.floor(k / 4), k % 4));
    for (const [v, d] of bn.page.pixels(signs, 4, size, left, top)) svg(parent, "path", { d, ...heat(v, 1) });
  }

  // For paper: the five steps of batch norm, and one set of each norm.
  function strip(root) {
    const picture = svg(root, "svg", { class: "pg-picture", viewBox: "0 0 640 306" });
    const grid = { side: 11, block: 25 }, wide = 4 * 25 - 3, between = 31, start = 32;
    const cells = (values, left, top) => {
      const paths = new Map();
      values.forEach((v, i) => {
        const [x, y] = corner(i, grid, left, top), { class: hue, "fill-opacity": strength } = heat(v, REACH);
        const key = `${hue} ${Math.round(6 * strength) / 6}`; // few paths keep the file small
        paths.set(key, (paths.get(key) || "") + `M${x} ${y}h10v10h-10z`);
      });
      for (const [key, d] of paths) {
        const [hue, strength] = key.split(" ");
        svg(picture, "path", { d, class: `nm-mini ${hue}`, "fill-opacity": strength });
      }
    };
    const below = (text, x, y, kind = "") =>
      svg(picture, "text", { x: x + wide / 2, y, "text-anchor": "middle", class: kind, text });

    const given = model.normalised(model.convolved([...model.FIRST, "4"]), "batch");
    [...model.FIRST, "4"].forEach((name, n) => image(picture, name, 20, 4, 3 + n * grid.block));
    const steps = ["x", "means μ", "x − μ", "(x − μ) / σ", "γ x̂ + β"];
    steps.forEach((text, k) => {
      const left = start + k * (wide + between);
      cells(model.shown(given, k), left, 2);
      if (k === 1) {
        for (let s = 0; s < given.sets; s++) {
          svg(picture, "rect", { ...around(all.filter((i) => given.owners[i] === s), grid, left, 2), class: "nm-set" });
        }
      }
      if (k) svg(picture, "path", { d: `M${left - 24} 50h14m-5 -5l5 5l-5 5`, class: "nm-arrow" });
      below(text, left, 118);
    });
    Object.entries(NAMES).forEach(([kind, name], k) => {
      const left = 48 + k * (wide + 52), one = model.normalised(given.x, kind);
      cells(given.x.map((v, i) => (one.owners[i] === 1 ? v : v / 5)), left, 152);
      svg(picture, "rect", { ...around(all.filter((i) => one.owners[i] === 1), grid, left, 152), class: "nm-set" });
      below(`${name} norm`, left, 268, "nm-strong");
      below(`${one.sets} means of ${all.length / one.sets}`, left, 286);
    });
  }

  bn.widgets = bn.widgets || {};
  bn.widgets.norms = function (root, options) {
    if (options.preset === "still") return void strip(root);

    const controls = html(root, "div", { class: "pg-choices" });
    const store = bn.store(model, options.preset, draw);
    const first = store.state();
    bn.page.choice(controls, { label: "Which numbers share a mean?", options: NAMES, value: first.kind }, (kind) => store.send({ kind }));
    bn.page.select(controls, { label: "The last image is", options: CHOICES, value: first.last }, (last) => store.send({ last }));
    bn.player(root, { label: "Step", last: 4, name: (k) => model.STEPS[k] }, (time) => store.send({ time }));

    const board = html(root, "div", { class: "pg-board" });
    const picture = svg(board, "svg", { class: "pg-picture nm-picture", role: "group" });
    set(picture, { "aria-label": "Four examples, one below the other, with four channels side by side; each block has two by two positions" });
    const frame = svg(picture, "g", { "aria-hidden": "true" });
    const matrix = svg(picture, "g", { role: "grid", "aria-label": "The 64 numbers; arrow keys go from one to the next" });
    const outlines = svg(picture, "g", { class: "nm-outlines", "aria-hidden": "true" });
    const ring = svg(picture, "rect", { class: "nm-ring", "aria-hidden": "true" }); // above all cells
    const lines = svg(picture, "g", { "aria-hidden": "true" });
    const tell = bn.page.words(root);
    html(root, "p", { class: "pg-note", text: "Green cells are above 0, pink ones below, at full strength from 3 on; a cut corner means beyond 3. At the lines: a dot for each number of a set, its mean as a stroke, one standard deviation to each side as a bar." });

    // Eight rows of eight cells as one sees them, so that arrow keys go where they point.
    const cells = [];
    for (let row = 0; row < 2 * N; row++) {
      const line = svg(matrix, "g", { role: "row" });
      for (let col = 0; col < 2 * C; col++) {
        const i = model.index(Math.floor(row / 2), Math.floor(col / 2), 2 * (row % 2) + (col % 2));
        const cell = svg(line, "g", { role: "gridcell", tabindex: -1, class: "nm-cell" });
        svg(cell, "rect", { class: "nm-ground" });
        svg(cell, "rect", {});
        svg(cell, "path", { class: "nm-beyond" });
        svg(cell, "text", { "text-anchor": "middle" });
        cell.addEventListener("pointerover", () => store.send({ cell: i }));
        cell.addEventListener("focus", () => store.send({ cell: i }));
        cell.addEventListener("keydown", (e) => keyed(e, row, col));
        cells[i] = cell;
      }
    }
    const at = (row, col) => matrix.childNodes[row].childNodes[col];

    function keyed(event, row, col) {
      if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own keys
      const last = 2 * C - 1;
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -last], End: [0, last] };
      if (event.key === "Escape") return void event.target.blur();
      if (!(event.key in steps)) return;
      event.preventDefault();
      const within = (v) => Math.max(0, Math.min(last, v));
      const [down, across] = steps[event.key];
      at(within(row + down), within(col + across)).focus();
    }

    // Without the mouse over it, a cell with the focus is the chosen one, or none is.
    const rest = () => {
      const focused = cells.indexOf(document.activeElement);
      store.send({ cell: focused < 0 ? null : focused });
    };
    matrix.addEventListener("pointerleave", (e) => e.pointerType === "mouse" && rest());
    matrix.addEventListener("focusout", () => setTimeout(rest)); // when the focus has arrived

    let grid, built;

    // All that changes with the width, the norm or the last image, but not with time.
    function build(state) {
      grid = layout(Math.max(280, board.clientWidth));
      set(picture, { width: grid.width, height: grid.height, viewBox: `0 0 ${grid.width} ${grid.height}` });
      frame.replaceChildren();
      for (let n = 0; n < N; n++) {
        const top = HEAD + n * grid.block + grid.side - 26;
        svg(frame, "rect", { x: 2, y: top, width: 38, height: 38, class: "pg-paper" });
        image(frame, [...model.FIRST, state.last][n], 36, 3, top + 1);
        svg(frame, "text", { x: 21, y: top + 50, "text-anchor": "middle", text: `n = ${n}` });
      }
      for (let c = 0; c < C; c++) {
        const middle = GUTTER + c * grid.block + grid.side;
        svg(frame, "rect", { x: middle - 29, y: 6, width: 22, height: 22, class: "pg-paper" });
        kernel(frame, c, 20, middle - 28, 7);
        svg(frame, "text", { x: middle - 1, y: 21, text: `c = ${c}` });
        const learned = `γ ${show(model.GAMMA[c], 1)}, β ${show(model.BETA[c], 0)}`;
        svg(frame, "text", { x: middle, y: grid.bottom + 18, "text-anchor": "middle", class: "nm-learned", text: learned });
      }
      cells.forEach((cell, i) => {
        const [x, y] = corner(i, grid), [ground, face, beyond, label] = cell.childNodes;
        const side = grid.side - 1;
        for (const part of [ground, face]) set(part, { x, y, width: side, height: side });
        set(beyond, { d: `M${x + side - 8} ${y}h8v8z` });
        set(label, { x: x + side / 2, y: y + side / 2 + 4 });
      });
      axes(state, model.numbers(state));
    }

    // The outlines of the sets, and a line for each.
    function axes(state, given) {
      const { left, right, top, bottom } = grid.lines, start = left + (given.sets > N ? 84 : 40);
      outlines.replaceChildren();
      lines.replaceChildren();
      const x = (v) => start + ((Math.max(-AXIS, Math.min(AXIS, v)) + AXIS) / (2 * AXIS)) * (right - start);
      const y = (s) => top + ((s + 0.5) * (bottom - top)) / given.sets;
      for (let v = -AXIS; v <= AXIS; v += 2) {
        svg(lines, "line", { x1: x(v), x2: x(v), y1: top, y2: bottom, class: v ? "pg-grid" : "pg-axis" });
        svg(lines, "text", { x: x(v), y: bottom + 16, "text-anchor": "middle", text: show(v, 0) });
      }
      const rows = [];
      for (let s = 0; s < given.sets; s++) {
        svg(outlines, "rect", { ...around(all.filter((i) => given.owners[i] === s), grid), class: "nm-set" });
        const row = svg(lines, "g", { class: "nm-row" });
        svg(row, "text", { x: left, y: y(s) + 4, text: SHORT[state.kind](s) });
        rows.push({ row, bar: svg(row, "rect", { y: y(s) - 5, height: 10, class: "nm-bar" }), dots: [] });
        rows[s].tick = svg(row, "line", { y1: y(s) - 8, y2: y(s) + 8, class: "nm-tick" });
      }
      all.forEach((i) => {
        const s = given.owners[i];
        rows[s].dots[i] = svg(rows[s].row, "circle", { cy: y(s), r: 3.2, class: "nm-dot" });
      });
      built = { x, rows, of: `${grid.width} ${state.kind} ${state.last}` };
    }

    function draw(state) {
      const of = `${Math.max(280, board.clientWidth)} ${state.kind} ${state.last}`;
      if (!built || built.of !== of) build(state);
      const given = model.numbers(state), values = model.shown(given, state.time);
      const lit = state.cell === null ? null : given.owners[state.cell];
      const known = Math.min(1, state.time); // how much is seen of the means
      picture.classList.toggle("nm-chosen", lit !== null);
      cells.forEach((cell, i) => {
        const [, face, beyond, label] = cell.childNodes, { n, c, l } = model.place(i);
        set(face, heat(values[i], REACH));
        set(beyond, { visibility: Math.abs(values[i]) > REACH ? "visible" : "hidden" });
        label.textContent = show(values[i], 1);
        const kind = given.owners[i] === lit ? "nm-cell nm-lit" : "nm-cell";
        set(cell, { class: kind, tabindex: i === (state.cell || 0) ? 0 : -1 });
        set(cell, { "aria-label": `example ${n}, channel ${c}, position ${l}: ${show(values[i])}` });
      });
      const [left, top] = corner(state.cell || 0, grid);
      set(ring, { x: left, y: top, width: grid.side - 1, height: grid.side - 1, visibility: lit === null ? "hidden" : "visible" });
      outlines.childNodes.forEach((one, s) => set(one, { class: `nm-set${s === lit ? " nm-lit" : ""}` }));
      set(outlines, { opacity: known });
      built.rows.forEach(({ row, bar, tick, dots }, s) => {
        const own = values.filter((_, i) => given.owners[i] === s), { mean, var: spread } = bn.math.stats(own);
        const low = built.x(mean - Math.sqrt(spread)), high = built.x(mean + Math.sqrt(spread));
        set(row, { class: `nm-row${s === lit ? " nm-lit" : ""}` });
        set(bar, { x: low, width: Math.max(1, high - low), opacity: known });
        set(tick, { x1: built.x(mean), x2: built.x(mean), opacity: known });
        dots.forEach((dot, i) => set(dot, { cx: built.x(values[i]), class: `nm-dot${i === state.cell ? " nm-this" : ""}` }));
      });
      frame.querySelectorAll(".nm-learned").forEach((text) => set(text, { opacity: Math.max(0, state.time - 3) }));
      tell(model.words(state));
    }

    bn.page.onWidth(board, store.paint);
    root.playground = { state: store.state, numbers: () => model.numbers(store.state()) };
  };
})((window.bnPlay = window.bnPlay || {}));
