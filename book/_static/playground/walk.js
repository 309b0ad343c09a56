// Figure "walk", the view: the plane of the two weights with the way of gradient descent, and two
// charts, of the length of w and of the turn of each step.
(function (bn) {
  "use strict";
  const { html, svg, set } = bn.page;
  const model = bn.models.walk;
  const { LAST, LENGTHS, RATES, DECAYS, TICK, DEGREE, say } = model;

  const BATCHES = { same: "the same way", differ: "to either side" };
  const PACE = 120; // ms a step
  const REST = 28; // px around the plane

  // The plane in a square: zoomed by powers of two, so that the whole walk is in it.
  function plane(size, lengths) {
    const reach = 2 ** Math.ceil(Math.log2(1.05 * Math.max(...lengths)));
    const unit = (size / 2 - REST) / reach;
    return { size, reach, unit, at: ([x, y]) => [size / 2 + unit * x, size / 2 - unit * y] };
  }
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
  function arrow([ax, ay], [bx, by]) {
    const long = Math.hypot(bx - ax, by - ay);
    if (long < 1) return "";
    const size = Math.min(7, long / 2), [ux, uy] = [(size * (bx - ax)) / long, (size * (by - ay)) / long];
    const side = (turn) => [bx - ux - turn * uy, by - uy + turn * ux];
    return path([[ax, ay], [bx, by]]) + path([side(0.6), [bx, by], side(-0.6)]);
  }

  // Circles of equal length, on which the loss goes from 0 to 2, and the direction of the target.
  function drawGround(group, place) {
    const [x, y] = place.at([0, 0]);
    for (const part of [0.25, 0.5, 1]) {
      const r = part * place.reach;
      svg(group, "circle", { cx: x, cy: y, r: r * place.unit, class: "wk-circle" });
      svg(group, "text", { x, y: y + r * place.unit + 12, "text-anchor": "middle", text: say(r) });
    }
    svg(group, "path", { d: path([[x, y], place.at([place.reach, 0])]), class: "wk-target" });
    svg(group, "circle", { cx: x, cy: y, r: 2.5, class: "wk-dot" });
  }

  // The way up to a step, a dot for each, and w as an arrow.
  function drawWay(group, place, found, t) {
    const k = Math.floor(t + 1e-9), part = t - k, points = found.w.slice(0, k + 1).map(place.at);
    if (part > 1e-6) points.push(place.at(found.w[k].map((v, i) => v + part * (found.w[k + 1][i] - v))));
    svg(group, "path", { d: path(points), class: "wk-way" });
    svg(group, "path", { d: points.slice(0, k + 1).map(([x, y]) => `M${x.toFixed(2)} ${y.toFixed(2)}h0`).join(""), class: "wk-dots" });
    svg(group, "path", { d: arrow(place.at([0, 0]), points[points.length - 1]), class: "wk-arrow" });
  }

  // For paper: three learning rates from the same start.
  function strip(root) {
    const picture = svg(root, "svg", { class: "pg-picture", viewBox: "0 0 640 226" });
    [0.1, 0.8, 3.2].forEach((lr, i) => {
      const found = model.numbers({ ...model.initial(), lr }), group = svg(picture, "g", { transform: `translate(${214 * i} 0)` });
      const place = plane(206, found.length);
      drawGround(group, place);
      drawWay(group, place, found, 25);
      svg(group, "text", { x: 103, y: 222, "text-anchor": "middle", text: `η = ${lr}: |w| ${say(found.length[25])} after 25 steps` });
    });
  }

  bn.widgets = bn.widgets || {};
  bn.widgets.walk = function (root, options) {
    if (options.preset === "still") return void strip(root);

    const store = bn.store(model, options.preset, draw), first = store.state();
    const choose = (type) => (to) => store.send({ type, to });
    const controls = html(root, "div", { class: "pg-controls" });
    const knob = (label, type, range) => bn.page.slider(controls, { label, value: first[type], ...range }, choose(type));
    const angle = knob("Start: angle", "angle", { min: -180, max: 180, step: TICK, format: (v) => `${v}°`.replace("-", "−") });
    const length = knob("Start: length |w|", "length", { values: LENGTHS, format: say });
    knob("Learning rate η", "lr", { values: RATES, format: (v) => String(+v.toPrecision(3)) });
    knob("Weight decay λ", "decay", { values: DECAYS, format: (v) => String(+v.toPrecision(3)) });
    bn.page.select(controls, { label: "Batches pull", options: BATCHES, value: first.batches }, choose("batches"));

    const stage = html(root, "div", { class: "wk-stage" });
    const board = html(stage, "div", { class: "pg-board wk-plane" });
    const picture = svg(board, "svg", { class: "pg-picture", role: "img" });
    const ground = svg(picture, "g", {}), way = svg(picture, "g", {});
    const handle = html(board, "div", { class: "wk-handle", "aria-hidden": "true" }); // the sliders have the keys
    const charts = html(stage, "div", { class: "wk-charts" });
    const grown = bn.page.chart(charts, { title: "Length |w|", xLabel: "steps", low: 0.1, high: 10, log: true, ticks: [0.1, 1, 10], height: 150 });
    const turned = bn.page.chart(charts, {
      title: "Turn of a step, η|g|/|w|", xLabel: "steps", low: 1e-3, high: 10, log: true, ticks: [0.001, 0.01, 0.1, 1, 10], height: 190,
      names: { "pg-run": "turn", "pg-theory": "√(2ηλ)" },
    });
    bn.player(root, { label: "Step", last: LAST, name: (k) => `step ${k}`, start: first.t, pace: PACE }, choose("t"));
    const tell = bn.page.words(root, 1500, 6000);
    html(root, "p", { class: "pg-note", text: "The loss is 1 − cos of the angle between w and the target, the dashed line: the same all along a ray from the middle. Circles: equal length. Drag the round handle, or use the sliders, for another start. Where batches pull to either side, each has its own target, 30° to the left or to the right by chance." });

    const startOf = ({ angle: a, length: r }) => [r * Math.cos(a * DEGREE), r * Math.sin(a * DEGREE)];

    let dragging = null; // the zoom rests while one drags
    bn.drag.drag(handle, (e) => {
      const before = store.state(), held = place;
      const [x, y] = held.at(startOf(before)), off = [e.clientX - x, e.clientY - y];
      const to = (a, r) => {
        store.send({ type: "angle", to: a });
        store.send({ type: "length", to: r });
      };
      dragging = held;
      const end = () => {
        dragging = null;
        store.redraw();
      };
      return {
        element: handle,
        move(m) {
          const [px, py] = [m.clientX - off[0] - held.size / 2, held.size / 2 - (m.clientY - off[1])];
          to(Math.atan2(py, px) / DEGREE, Math.hypot(px, py) / held.unit);
        },
        cancel() {
          to(before.angle, before.length);
          end();
        },
        drop: end,
      };
    });
    let place, drawn, found, of;
    function draw(state) {
      const { t, ...rest } = state, key = JSON.stringify(rest);
      if (key !== of) found = model.numbers(state);
      of = key;
      const k = Math.floor(t + 1e-9), size = board.clientWidth;
      // The charts first: they ask for their width, which costs a layout once anything has changed.
      const line = (values) => values.slice(0, k + 1).map((v, i) => [i, v]);
      const level = found.balance === null ? [] : [[0, found.balance], [LAST, found.balance]];
      grown.draw(LAST, { "pg-run": line(found.length) });
      turned.draw(LAST, { "pg-run": line(found.turn), "pg-theory": level });

      place = dragging || plane(size, found.length);
      if (drawn !== `${place.size} ${place.reach}`) {
        drawn = `${place.size} ${place.reach}`;
        ground.replaceChildren();
        set(picture, { width: place.size, height: place.size, viewBox: `0 0 ${place.size} ${place.size}` });
        drawGround(ground, place);
      }
      way.replaceChildren();
      drawWay(way, place, found, t);
      const [x, y] = place.at(found.w[0]);
      Object.assign(handle.style, { left: `${x}px`, top: `${y}px` });
      angle.put(state.angle);
      length.put(state.length);
      const words = model.words(state, found);
      set(picture, { "aria-label": `The plane of the weights. ${words}` });
      grown.describe(words);
      turned.describe(words);
      tell(words);
    }

    bn.page.onWidth(board, store.paint);
    root.playground = { state: store.state, numbers: () => model.numbers(store.state()) }; // for the tests
  };
})((window.bnPlay = window.bnPlay || {}));
