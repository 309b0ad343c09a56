// Widget "batch": one channel, samples to drag, what the layer makes of them, the gradients.
(function (bn) {
  "use strict";
  const { html, svg, set, show } = bn.page;
  const { sum } = bn.math;
  const REACH = 6; // the axes go from -6 to 6
  const ROWS = { x: 92, xHat: 178, y: 264 };
  const HEIGHT = 352;
  const ARROW = 64; // px for a gradient of 1
  const PRESETS = {
    plain: [-1.5, 0.5, 1, 2.5, 3.5],
    outlier: [0.2, 0.5, 0.8, 1.1, 5.5],
    constant: [2, 2, 2, 2, 2],
    clusters: [-4, -3.6, -3.2, 3.2, 3.6, 4],
    pair: [1, 3],
  };
  const NAMES = {
    plain: "Five samples",
    outlier: "One outlier",
    constant: "A constant batch",
    clusters: "Two clusters",
    pair: "A batch of two",
    own: "My own",
  };
  const UPSTREAM = {
    one: "1 for the chosen sample",
    ones: "1 for every sample",
    xhat: "x̂ itself",
    mixed: "some of each sign",
  };
  // The gradient by the output, for a choice.
  const upstream = {
    one: (pass, chosen) => pass.xHat.map((_, n) => +(n === chosen)),
    ones: (pass) => pass.xHat.map(() => 1),
    xhat: (pass) => pass.xHat.slice(),
    mixed: (pass) => pass.xHat.map((_, n) => [0.9, -0.4, 0.6, -1.1, 0.3][n % 5]),
  };
  const clamp = (v, r = REACH) => Math.max(-r, Math.min(r, v));
  const round = (v) => Math.round(v * 100) / 100;

  bn.widgets = bn.widgets || {};
  bn.widgets.batch = function (root, options) {
    const first = options.preset in PRESETS ? options.preset : "plain";
    const state = { x: PRESETS[first].slice(), weight: 1.5, bias: 0.5, eps: 1e-5, chosen: 0, up: "one" };

    const controls = html(root, "div", { class: "pg-controls" });
    const preset = bn.page.select(controls, { label: "Start from", options: NAMES, value: first }, (name) => {
      if (name in PRESETS) state.x = PRESETS[name].slice();
      state.chosen = Math.min(state.chosen, state.x.length - 1);
      size.put(state.x.length);
      rebuild();
    });
    preset.lastChild.disabled = true; // "My own" is where dragging leads, not a batch to load
    const size = bn.page.slider(
      controls,
      { label: "Batch size", min: 2, max: 16, step: 1, value: state.x.length, unit: " samples" },
      resize,
    );
    const knob = (label, key, range) =>
      bn.page.slider(controls, { label, value: state[key], format: (v) => show(v, 1), ...range }, (v) => {
        state[key] = v;
        draw();
      });
    knob("Weight γ", "weight", { min: -2, max: 2, step: 0.1 });
    knob("Bias β", "bias", { min: -2, max: 2, step: 0.1 });
    knob("ε", "eps", { values: [1e-5, 1e-3, 1e-1, 1, 10], format: String });
    bn.page.select(controls, { label: "Gradient by y, ∂L/∂y", options: UPSTREAM, value: "one" }, (v) => {
      state.up = v;
      draw();
    });

    const board = html(root, "div", { class: "pg-board" });
    const picture = svg(board, "svg", { role: "group", height: HEIGHT });
    set(picture, { "aria-label": "Samples on three axes: input x, normalised x̂, output y" });
    const ground = svg(picture, "g", { "aria-hidden": "true" }), links = svg(picture, "g", {}), arrows = svg(picture, "g", {});
    const handles = svg(picture, "g", {}), top = svg(picture, "g", { class: "pg-top", "aria-hidden": "true" });
    svg(top, "circle", { class: "pg-dot", r: 9 }); // the chosen sample again, above all others
    svg(top, "text", { "text-anchor": "middle", y: 4 });
    html(root, "p", { class: "pg-note", text: "Orange: the chosen sample, the one touched last. Green: the mean, and one standard deviation on each side. Arrows: the gradients of the loss L, ∂L/∂x on top and ∂L/∂y at the bottom, pointing to where it grows; dashed ones are cut at the border. Hollow dots lie beyond the axis." });
    const facts = html(root, "p", { class: "pg-facts" });
    const sums = html(root, "p", { class: "pg-facts" });
    const more = html(root, "details", {});
    html(more, "summary", { text: "All the numbers" });
    const table = html(html(more, "div", { class: "pg-scroll", tabindex: 0, role: "region", "aria-label": "Table of all the numbers" }), "table", {});
    const say = bn.page.announcer(root);

    let width = 600;
    const px = (v) => 34 + ((clamp(v) + REACH) / (2 * REACH)) * (width - 52);
    const value = (at) => ((at - 34) / (width - 52)) * 2 * REACH - REACH;

    function resize(count) {
      const rng = bn.math.random(count + state.x.length);
      while (state.x.length < count) state.x.push(round(clamp(1 + 2 * rng.normal())));
      state.x.length = count;
      state.chosen = Math.min(state.chosen, count - 1);
      preset.value = "own";
      rebuild();
    }

    function move(n, to) {
      state.x[n] = round(clamp(to));
      state.chosen = n;
      preset.value = "own";
      draw();
    }

    function keyed(event, n) {
      const to = bn.drag.keyed(event, state.x[n], { low: -REACH, high: REACH, step: 0.1, leap: 1 });
      if (to === null) return;
      move(n, to);
      event.preventDefault();
    }

    function handle(n) {
      const grip = svg(handles, "g", { class: "pg-handle", role: "slider", tabindex: 0 });
      set(grip, { "aria-label": `Sample ${n + 1}`, "aria-valuemin": -REACH, "aria-valuemax": REACH });
      svg(grip, "circle", { class: "pg-reach", r: 20 });
      svg(grip, "circle", { class: "pg-dot", r: 9 });
      svg(grip, "text", { "text-anchor": "middle", y: 4, text: n + 1 });
      grip.addEventListener("keydown", (e) => keyed(e, n));
      grip.addEventListener("focus", () => {
        state.chosen = n;
        draw();
      });
    }

    // The sample nearest to a place; among equals the chosen one, which lies on top.
    function nearest(at) {
      const away = state.x.map((v) => Math.abs(px(v) - at)), least = Math.min(...away);
      return away[state.chosen] === least ? state.chosen : away.lastIndexOf(least);
    }

    bn.drag.drag(handles, (e) => {
      const place = (m) => m.clientX - picture.getBoundingClientRect().left;
      const n = nearest(place(e)), grip = handles.childNodes[n], before = state.x[n];
      const off = place(e) - px(before); // keep the grip under the finger
      grip.focus({ preventScroll: true });
      return {
        element: grip,
        move: (m) => move(n, value(place(m) - off)),
        cancel: () => move(n, before), // the finger scrolls the page instead
      };
    });

    function axes() {
      ground.replaceChildren();
      for (const [key, name] of [["x", "x"], ["xHat", "x̂"], ["y", "y"]]) {
        const y = ROWS[key];
        svg(ground, "line", { x1: 34, x2: width - 18, y1: y, y2: y, class: "pg-axis" });
        svg(ground, "text", { x: 6, y: y + 5, class: "pg-name", text: name });
        for (let v = -REACH; v <= REACH; v += 2) {
          svg(ground, "line", { x1: px(v), x2: px(v), y1: y - 4, y2: y + 4, class: "pg-axis" });
          svg(ground, "text", { x: px(v), y: y + 24, "text-anchor": "middle", text: show(v, 0) });
        }
      }
      svg(ground, "text", { x: 34, y: 12, text: "∂L/∂x" });
      svg(ground, "text", { x: 34, y: HEIGHT - 4, text: "∂L/∂y" });
      spread = svg(ground, "rect", { class: "pg-spread", y: ROWS.x - 12, height: 24 });
      middle = svg(ground, "line", { class: "pg-mean", y1: ROWS.x - 16, y2: ROWS.x + 16 });
    }
    let spread, middle;

    function rebuild() {
      handles.replaceChildren();
      links.replaceChildren();
      arrows.replaceChildren();
      state.x.forEach((_, n) => {
        handle(n);
        svg(links, "path", { class: "pg-link" });
        svg(links, "circle", { r: 5 });
        svg(links, "circle", { r: 5 });
        svg(arrows, "path", { class: "pg-arrow" });
        svg(arrows, "path", { class: "pg-arrow" });
      });
      draw();
    }

    // An arrow from a sample, as long as its gradient; very long ones are cut at the border.
    function arrow(node, from, gradient, y, chosen) {
      const start = px(from), end = Math.max(4, Math.min(width - 4, start + ARROW * gradient));
      const head = Math.min(5, Math.abs(end - start)) * Math.sign(gradient);
      const d = Math.abs(end - start) < 4 ? "" :
        `M${start} ${y}H${end}M${end - head} ${y - 3}L${end} ${y}L${end - head} ${y + 3}`;
      const cut = Math.abs(ARROW * gradient) > Math.abs(end - start) + 1;
      set(node, { d, class: `pg-arrow${cut ? " pg-cut" : ""}${chosen ? " pg-chosen" : ""}` });
    }

    function dot(node, v, y, chosen) {
      const off = Math.abs(v) > REACH; // beyond the axis: hollow, at its end
      set(node, { cx: px(v), cy: y, class: `pg-shadow${off ? " pg-off" : ""}${chosen ? " pg-chosen" : ""}` });
    }

    function draw() {
      const pass = bn.math.forward(state.x, state.weight, state.bias, state.eps);
      const dy = upstream[state.up](pass, state.chosen);
      const grad = bn.math.backward(dy, pass, state.weight);
      const sd = Math.sqrt(pass.var), gap = Math.min(8, 48 / state.x.length);
      set(spread, { x: px(pass.mean - sd), width: px(pass.mean + sd) - px(pass.mean - sd) });
      set(middle, { x1: px(pass.mean), x2: px(pass.mean) });
      state.x.forEach((x, n) => {
        const on = n === state.chosen, grip = handles.childNodes[n];
        set(grip, {
          transform: `translate(${px(x).toFixed(1)} ${ROWS.x})`,
          class: `pg-handle${on ? " pg-chosen" : ""}`,
          "aria-valuenow": x,
          "aria-valuetext": `x ${show(x)}, normalised ${show(pass.xHat[n])}, y ${show(pass.y[n])}, gradient ${show(grad.dx[n])}`,
        });
        const layer = on ? state.x.length - 1 : n - (n > state.chosen); // the chosen one on top
        const [link, a, b] = [0, 1, 2].map((k) => links.childNodes[3 * layer + k]);
        const way = `M${px(x)} ${ROWS.x}L${px(pass.xHat[n])} ${ROWS.xHat}L${px(pass.y[n])} ${ROWS.y}`;
        set(link, { d: way, class: `pg-link${on ? " pg-chosen" : ""}` });
        dot(a, pass.xHat[n], ROWS.xHat, on);
        dot(b, pass.y[n], ROWS.y, on);
        arrow(arrows.childNodes[2 * n], x, grad.dx[n], ROWS.x - 22 - gap * n, on);
        arrow(arrows.childNodes[2 * n + 1], pass.y[n], dy[n], ROWS.y + 34 + gap * n, on);
      });
      set(top, { transform: handles.childNodes[state.chosen].getAttribute("transform") });
      top.lastChild.textContent = state.chosen + 1;
      tell(pass, dy, grad);
    }

    function tell(pass, dy, grad) {
      const rest = show(sum(pass.xHat.map((v, n) => v * grad.dx[n])), 3);
      facts.textContent = `μ = ${show(pass.mean)} · σ² = ${show(pass.var, pass.var && pass.var < 0.1 ? 4 : 2)} · 1/√(σ²+ε) = ${show(pass.inv)}`;
      sums.textContent = `Σ ∂L/∂x = ${show(sum(grad.dx), 3)} · Σ x̂ ∂L/∂x = ${rest} · ` +
        `∂L/∂γ = ${show(grad.dWeight)} · ∂L/∂β = ${show(grad.dBias)}`;
      if (more.open) fill(pass, dy, grad);
      const n = state.chosen;
      const grip = handles.childNodes[n]; // with the focus on it, it says its own numbers
      const own = grip === document.activeElement ? "" : ` Sample ${n + 1}: ${grip.getAttribute("aria-valuetext")}.`;
      say(`Mean ${show(pass.mean)}, variance ${show(pass.var)}.${own}`);
    }

    function fill(pass, dy, grad) {
      table.replaceChildren();
      const row = (tag, cells) => {
        const tr = html(table, "tr", {});
        cells.forEach((text, k) => html(tr, k ? tag : "th", { text, scope: tag === "th" ? "col" : k ? "" : "row" }));
      };
      row("th", ["n", "x", "x̂", "y", "∂L/∂y", "∂L/∂x"]);
      state.x.forEach((x, n) =>
        row("td", [n + 1, ...[x, pass.xHat[n], pass.y[n], dy[n], grad.dx[n]].map((v) => show(v, 3))]),
      );
    }
    more.addEventListener("toggle", draw);

    axes();
    rebuild();
    bn.page.onWidth(board, () => {
      width = board.clientWidth;
      set(picture, { width, viewBox: `0 0 ${width} ${HEIGHT}` });
      axes();
      draw();
    });
  };
})((window.bnPlay = window.bnPlay || {}));
