// Figure "graph", the view: chapter 3's graph with its numbers, x at the top and y at the bottom.
(function (bn) {
  "use strict";
  const { html, svg, set, show } = bn.page;
  const model = bn.models.graph;

  const WAYS = { all: "all three roads", direct: "the direct road only", mean: "by the mean only", std: "by the std only" };
  const ARRIVES = { error: "the errors y − t", row: "1 in the chosen row", ones: "1 in every row", x_hat: "x̂ itself" };
  const ROWS = { 0: "row 1", 1: "row 2", 2: "row 3", 3: "row 4", 4: "row 5" };
  const ROADS = { direct: ["D", "direct"], mean: ["M", "by the mean"], std: ["S", "by the std"] };
  const LABELS = { weight: "γ", bias: "β" };
  // The road whose colour an edge has; those that all roads share have none.
  const OWNERS = {
    "x_hat centred": "direct", "centred x": "direct", "centred mean": "mean", "mean x": "mean",
    "x_hat std": "std", "std var": "std", "var square": "std", "square centred": "std",
  };

  const LEFT = ["x", "centred", "x_hat", "scaled", "y"]; // a number per row, under each other
  const NAMES = [...LEFT, "mean", "square", "var", "std", "weight", "bias"];
  const BARS = 100; // height of the bars above x
  const LINE = 21, BOX = 2 * LINE; // a box: its values, and below them their gradients
  const TOPS = { x: 116, centred: 192, x_hat: 336, scaled: 412, y: 488 };
  Object.assign(TOPS, { mean: TOPS.x, square: TOPS.centred, var: 266, std: 266, weight: TOPS.scaled, bias: TOPS.y });
  const HEIGHT = TOPS.y + BOX + 4;

  // Where the boxes stand. On a phone the names of the left column are written upwards, because
  // its columns need all the room.
  function layout(width) {
    const narrow = width < 520, edge = narrow ? 16 : 72, gap = narrow ? (width < 300 ? 20 : 28) : 60;
    const cell = Math.min(54, (width - edge - gap - 4) / 10.4);
    const side = edge + 5 * cell + gap;
    const box = (name, left, size, count) => ({
      name, left, count, cell: size, right: left + size * count,
      top: TOPS[name], middle: TOPS[name] + LINE, bottom: TOPS[name] + BOX,
    });
    const boxes = { square: box("square", side, 1.08 * cell, 5) }; // its numbers are long
    for (const name of LEFT) boxes[name] = box(name, edge, cell, 5);
    for (const name of ["mean", "var", "weight", "bias"]) boxes[name] = box(name, side, 1.5 * cell, 1);
    boxes.std = box("std", boxes.square.right - 1.5 * cell, 1.5 * cell, 1);
    return { narrow, cell, side, boxes };
  }

  // The lines of an edge in the forward direction: one for each row between two boxes of the
  // left column, else one.
  function lines(from, to) {
    const middle = (box) => (box.left + box.right) / 2;
    if (LEFT.includes(from.name) && LEFT.includes(to.name)) {
      return [0, 1, 2, 3, 4].map((n) => {
        const x = to.left + (n + 0.5) * to.cell;
        return [[x, from.bottom], [x, to.top]];
      });
    }
    if (from.name === "mean") {
      const x = from.left + 10, turn = from.bottom + 14, end = to.right - 4;
      return [[[x, from.bottom], [x, turn], [end, turn], [end, to.top]]];
    }
    if (from.name === "square") return [[[middle(to) + 10, from.bottom], [middle(to) + 10, to.top]]];
    if (from.name === "std") {
      return [[[middle(from), from.bottom], [middle(from), to.middle], [to.right, to.middle]]];
    }
    const ends = from.left < to.left ? [from.right, to.left] : [from.left, to.right];
    return [ends.map((x) => [x, from.middle])];
  }

  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  // The head of an arrow along a line, at its last point.
  function head(points) {
    const [[ax, ay], [bx, by]] = points.slice(-2), length = Math.hypot(bx - ax, by - ay) || 1;
    const [ux, uy] = [(5 * (bx - ax)) / length, (5 * (by - ay)) / length];
    const side = (turn) => [bx - ux - turn * uy, by - uy + turn * ux];
    return path([side(0.7), [bx, by], side(-0.7)]);
  }
  // The place after a share of a line.
  function along(points, share) {
    const parts = points.slice(1).map(([x, y], i) => Math.hypot(x - points[i][0], y - points[i][1]));
    let rest = share * bn.math.sum(parts), i = 0;
    while (i < parts.length - 1 && rest > parts[i]) rest -= parts[i++];
    return points[i].map((v, k) => v + (rest / (parts[i] || 1)) * (points[i + 1][k] - v));
  }

  // Short enough for a cell: large numbers have fewer digits, and all of them on a phone, where
  // -0.25 has no room for its zero either.
  function short(v, narrow) {
    const size = Math.abs(v), digits = size < 1 ? 2 : size < 10 ? 2 - narrow : size < 100 ? 1 - narrow : 0;
    const text = show(+v.toFixed(digits), digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
    return narrow && text.length > 4 ? text.replace("−0.", "−.") : text;
  }

  // Everything but what is under way, into an empty group.
  function drawGraph(group, place, state, found) {
    const done = model.STEPS.slice(0, model.stepOf(state) + 1);

    function edge({ from, to, line }) {
      const name = `${from} ${to}`, ways = lines(place.boxes[to], place.boxes[from]);
      const forward = done.some((s) => s.kind === "line" && s.line === line);
      const back = done.some((s) => model.edgeName(s) === name && model.happens(s, state.road));
      const road = state.road === "all" ? OWNERS[name] : state.road;
      let kind = forward ? "gr-forward" : "";
      if (back) kind = road ? `gr-back gr-road-${road}` : "gr-back";
      svg(group, "path", { class: `gr-edge ${kind}`, d: ways.map(path).join("") });
      const heads = ways.map((way) => (back ? head(way.slice().reverse()) : forward ? head(way) : ""));
      svg(group, "path", { class: `gr-edge gr-head ${kind}`, d: heads.join("") });
      if (!back || !road) return;
      const [x, y] = along(ways[0], 0.5); // the letter, for whom the colours do not differ
      const upright = ways[0].length === 2 && ways[0][0][0] === ways[0][1][0];
      const spot = upright ? { x: x + 5 } : { x, "text-anchor": "middle" };
      svg(group, "text", { ...spot, y: y - 4, text: ROADS[road][0] });
    }

    function label({ name, left, top }) {
      const text = LABELS[name] || name;
      if (!LEFT.includes(name)) svg(group, "text", { x: left, y: top - 5, text });
      else if (!place.narrow) svg(group, "text", { x: left - 8, y: top + 15, "text-anchor": "end", text });
      else svg(group, "text", { transform: `translate(11 ${top + LINE}) rotate(-90)`, "text-anchor": "middle", text });
    }

    // One line of a box: its values or its gradients; open while they are not known.
    function cells(box, kind, y, held) {
      for (let n = 0; n < box.count; n++) {
        const x = box.left + n * box.cell, own = box.count > 1 ? { "data-row": n } : {};
        const chosen = box.count > 1 && n === state.row ? " pg-chosen" : "";
        const open = held === undefined ? " gr-open" : "";
        svg(group, "rect", { class: `gr-number gr-${kind}${open}${chosen}`, x, y, width: box.cell, height: LINE, ...own });
        if (open) continue;
        const text = short(box.count > 1 ? held[n] : held, place.narrow);
        svg(group, "text", { class: `gr-of-${kind}`, x: x + box.cell / 2, y: y + 15, "text-anchor": "middle", text, "data-of": `${kind} ${box.name} ${n}` });
      }
    }

    model.EDGES.forEach(edge);
    for (const name of NAMES) {
      const box = place.boxes[name];
      label(box);
      cells(box, "value", box.top, found.values[name]);
      cells(box, "gradient", box.top + LINE, found.grads[name]);
    }
  }

  // Above x: what each road brings to each row, and their sum.
  function drawBars(group, place, { terms, dx }) {
    const { left, cell } = place.boxes.x, zero = BARS / 2 + 4;
    const most = Math.max(0.5, ...[...Object.values(terms), dx || []].flat().map(Math.abs));
    const tall = (v) => (v / most) * (BARS / 2 - 4);
    svg(group, "line", { class: "pg-axis", x1: left, x2: left + 5 * cell, y1: zero, y2: zero });
    Object.entries(ROADS).forEach(([road, [letter, name]], i) => {
      if (!terms[road]) return;
      const bar = { class: `gr-term gr-road-${road}` }, y = 8 + 20 * i;
      terms[road].forEach((v, n) => {
        const x = left + cell * (n + 0.08 + 0.2 * i), height = Math.abs(tall(v));
        svg(group, "rect", { ...bar, x, y: v > 0 ? zero - height : zero, width: cell * 0.17, height });
      });
      svg(group, "rect", { ...bar, x: place.side, y, width: 11, height: 11 });
      svg(group, "text", { x: place.side + 18, y: y + 10, text: `${letter}: ${name}` });
    });
    if (!dx) return;
    const arrow = (x, from, to) => {
      const way = [[x, from], [x, to]], dash = path([[x - 3, from], [x + 3, from]]); // for a zero
      svg(group, "path", { class: "gr-sum", d: Math.abs(to - from) < 2 ? dash : path(way) + head(way) });
    };
    dx.forEach((v, n) => arrow(left + cell * (n + 0.82), zero, zero - tall(v)));
    arrow(place.side + 5.5, 80, 68);
    svg(group, "text", { x: place.side + 18, y: 78, text: "the sum" });
  }

  // What is under way to the next step: a dot on each line that it uses.
  function drawDots(group, place, state) {
    const share = state.t - model.stepOf(state), next = model.STEPS[model.stepOf(state) + 1];
    if (share < 1e-6 || !next || !model.happens(next, state.road)) return;
    const forward = next.kind === "line";
    for (const edge of model.EDGES) {
      if (forward ? edge.line !== next.line : model.edgeName(edge) !== model.edgeName(next)) continue;
      for (const way of lines(place.boxes[edge.to], place.boxes[edge.from])) {
        const [cx, cy] = along(way, forward ? share : 1 - share);
        svg(group, "circle", { class: forward ? "gr-token" : "gr-token gr-back", cx, cy, r: 4 });
      }
    }
  }

  bn.widgets = bn.widgets || {};
  bn.widgets.graph = function (root, options) {
    const store = bn.store(model, options.preset, draw), first = store.state();
    const choose = (type) => (to) => store.send({ type, to });

    const controls = html(root, "div", { class: "pg-controls" });
    bn.page.select(controls, { label: "Way back", options: WAYS, value: first.road }, choose("road"));
    bn.page.select(controls, { label: "Gradient at y", options: ARRIVES, value: first.arrives }, choose("arrives"));
    const row = bn.page.select(controls, { label: "Row", options: ROWS, value: first.row }, choose("row"));
    const moved = bn.page.slider(
      controls,
      { label: "x of this row", min: -model.REACH, max: model.REACH, step: 0.5, value: first.x[first.row], format: (v) => show(v, 1) },
      choose("x"),
    );
    const board = html(root, "div", { class: "pg-board" });
    const picture = svg(board, "svg", { class: "pg-picture", role: "img", height: HEIGHT });
    const still = svg(picture, "g", {}), moving = svg(picture, "g", {});
    bn.player(root, { label: "Step", last: model.LAST, name: model.nameOf, start: first.t, pace: 2000 }, choose("time"));
    const say = bn.page.words(root, 1000, 8000);
    html(root, "p", { class: "pg-note", text: "A box holds the values and, below them, their gradients. Five numbers: one per row. One number: for the whole channel. The bars above x: what each road brings to the gradient of each row; the arrow is their sum." });
    const more = html(root, "details", {});
    html(more, "summary", { text: "All steps in words" });
    const list = html(more, "ol", { class: "gr-steps" });

    let place = layout(600), drawn = null;
    function draw(state) {
      moving.replaceChildren();
      drawDots(moving, place, state);
      const { t, ...now } = state, key = JSON.stringify([now, model.stepOf(state), place]);
      if (key === drawn) return; // only dots have moved
      drawn = key;
      const found = model.numbers(state), words = model.words(state);
      still.replaceChildren();
      drawGraph(still, place, state, found);
      drawBars(still, place, found);
      row.value = state.row;
      moved.put(state.x[state.row]);
      say(words);
      set(picture, { "aria-label": `The graph. ${words}` });
      if (more.open) fill(state);
    }

    function fill(state) {
      list.replaceChildren();
      model.STEPS.forEach((_, t) => {
        const item = html(list, "li", { text: model.stepWords({ ...state, t }) });
        if (t === model.stepOf(state)) item.setAttribute("aria-current", "step");
      });
    }
    more.addEventListener("toggle", () => fill(store.state()));

    picture.addEventListener("click", (event) => {
      const cell = event.target.closest("[data-row]");
      if (cell) store.send({ type: "row", to: +cell.dataset.row });
    });
    bn.page.onWidth(board, () => {
      place = layout(board.clientWidth);
      set(picture, { width: board.clientWidth, viewBox: `0 0 ${board.clientWidth} ${HEIGHT}` });
      store.paint();
    });
  };
})((window.bnPlay = window.bnPlay || {}));
