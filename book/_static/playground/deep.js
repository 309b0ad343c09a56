// Figure "deep", the view: a line for each of 24 layers, with the histogram of its values, the
// size of its signal and the size of the gradient there.
(function (bn) {
  "use strict";
  const { html, svg, set } = bn.page;
  const model = bn.models.deep;
  const { LAYERS, BINS } = model;

  const ACTIVATIONS = { tanh: "tanh", relu: "ReLU" };
  const PLACES = { none: "no layer", middle: "layer 12", some: "every sixth layer", all: "every layer", own: "my own choice" };
  const WEIGHTS = { 1: "drawn once", 2: "drawn again", 3: "a third time" };
  const ROW = 24; // px: what a finger can hit
  const TOP = 36, BOTTOM = TOP + LAYERS * ROW, HEIGHT = BOTTOM + 22;
  const REACH = 9; // the bars of sizes go from 10⁻⁹ to 10⁹
  const LEAST = 1e-3; // the smallest share of which a histogram shows something
  const BUDGET = 7; // ms of arithmetic per frame; drawing takes the rest
  const LAYER = Array.from({ length: LAYERS }, (_, l) => l + 1);

  // The columns of the picture: the left edge of each, and their width. In a still there are
  // names in the place of the buttons.
  function layout(width, isStill) {
    const first = isStill ? 46 : 2, gap = width < 420 ? 14 : 24, each = (width - first - 2 * gap - 2) / 3;
    const [histogram, signal, gradient] = [0, 1, 2].map((k) => first + k * (each + gap));
    return { width, each, histogram, signal, gradient };
  }

  // Both axes are logarithmic: the place of a size, and the height of a share.
  const power = (size) => Math.max(-REACH, Math.min(REACH, Math.log10(size)));
  const place = (size) => (power(size) + REACH) / (2 * REACH);
  const height = (share) => (share < LEAST ? 0 : 1 - Math.log10(share) / Math.log10(LEAST));

  // A histogram as one outline, in a line of the picture.
  function outline(shares, { histogram, each }) {
    const steps = shares.map((share, k) =>
      `V${(23 - 21 * height(share)).toFixed(1)}H${(histogram + ((k + 1) * each) / BINS).toFixed(1)}`);
    return `M${histogram.toFixed(1)} 23${steps.join("")}V23Z`;
  }
  // A bar from size 1 to a size; it has a point where the axis ends before it.
  function bar(size, left, each) {
    const middle = left + each / 2, end = left + each * place(size);
    const point = Math.abs(Math.log10(size)) > REACH ? 6 * Math.sign(end - middle) : 0;
    return `M${middle.toFixed(2)} 5H${(end - point).toFixed(2)}L${end.toFixed(2)} 12L${(end - point).toFixed(2)} 19H${middle.toFixed(2)}Z`;
  }
  const mark = (size, left, each) => `M${(left + each * place(size)).toFixed(2)} 2V22`;

  // Names and axes of the three columns.
  function drawAxes(group, at, activation) {
    group.replaceChildren();
    const text = (x, y, words, anchor = "middle") => svg(group, "text", { x: x.toFixed(1), y, "text-anchor": anchor, text: words });
    const size = at.each < 130 ? "" : "size of the ";
    text(at.histogram + at.each / 2, 13, `after ${ACTIVATIONS[activation]}`);
    const ends = activation === "tanh" ? ["−1", "1"] : ["0", "4 × size"];
    text(at.histogram, BOTTOM + 16, ends[0], "start");
    text(at.histogram + at.each, BOTTOM + 16, ends[1], "end");
    for (const name of ["signal", "gradient"]) {
      text(at[name] + at.each / 2, 13, size + name);
      for (const [value, words] of [[1e-6, "10⁻⁶"], [1, "1"], [1e6, "10⁶"]]) {
        const x = at[name] + at.each * place(value);
        svg(group, "line", { class: "pg-grid", x1: x, x2: x, y1: TOP, y2: BOTTOM });
        text(x, BOTTOM + 16, words);
      }
    }
  }

  // Results, one at a time, in slices between frames. What is asked for meanwhile comes next, and
  // of several the newest, so that a drag shows results on its way. `ready` gets a result: the
  // state it is for, what was found, and the same without BN.
  function computer(ready) {
    let network = null, shown = null, asked = null, wanted = null;
    const same = (a, b) => JSON.stringify({ ...a, layer: 0 }) === JSON.stringify({ ...b, layer: 0 });

    function* job(state) {
      if (!network || network.seed !== state.seed) network = { seed: state.seed, ...model.create(state.seed) };
      const found = yield* model.passes(network, state);
      const base = state.norms.length ? yield* model.passes(network, { ...state, norms: [] }) : found;
      return { state, found, base };
    }
    function show(result) {
      shown = result;
      ready(result);
    }
    function slice(work, end) {
      let next;
      do next = work.next();
      while (!next.done && performance.now() < end);
      if (!next.done) return void requestAnimationFrame(() => slice(work, performance.now() + BUDGET));
      asked = null;
      show(next.value);
      if (wanted) ask(wanted);
    }
    function ask(state, atOnce) {
      wanted = null;
      if (shown && !asked && same(shown.state, state)) return;
      const from = shown && shown.state;
      if (from && !asked && from.seed === state.seed && model.homogeneous(from) && model.homogeneous(state)) {
        const found = model.rescale(shown.found, state.gain / from.gain);
        show({ state, found, base: found }); // a ReLU network without BN needs no new pass
      } else if (asked) {
        if (!same(asked, state)) wanted = state;
      } else {
        asked = state;
        slice(job(state), atOnce ? Infinity : performance.now() + BUDGET);
      }
    }
    return { ask, shown: () => shown };
  }

  bn.widgets = bn.widgets || {};
  bn.widgets.deep = function (root, options) {
    const isStill = options.preset === "still";
    const store = bn.store(model, options.preset, update), first = store.state();
    const choose = (type) => (to) => store.send({ type, to });
    const compute = computer(draw);

    const controls = html(root, "div", { class: "pg-controls" });
    bn.page.slider(
      controls,
      { label: "Gain of every layer", values: model.GAINS, value: first.gain, format: model.sayGain },
      choose("gain"),
    );
    bn.page.select(controls, { label: "Activation", options: ACTIVATIONS, value: first.activation }, choose("activation"));
    const places = bn.page.select(controls, { label: "BN in", options: PLACES, value: "none" }, choose("places"));
    places.lastChild.disabled = true; // where the buttons lead, nothing to choose
    bn.page.select(controls, { label: "Weights", options: WEIGHTS, value: first.seed }, choose("seed"));
    const ends = html(root, "p", { class: "pg-words" }), say = bn.page.announcer(root);

    const stack = html(root, "div", { class: isStill ? "" : "dp-stack" });
    const toggles = html(stack, "div", { class: "dp-toggles", role: "group", "aria-label": "Layers with batch norm" });
    const board = html(stack, "div", { class: "pg-board" });
    const picture = svg(board, "svg", { class: "pg-picture", role: "img", height: HEIGHT });
    const axes = svg(picture, "g", {});
    const rows = LAYER.map(row);
    const buttons = isStill ? [] : LAYER.map(toggle);
    const line = html(root, "p", { class: "pg-facts" });
    html(root, "p", { class: "pg-note", text: "The network has 24 layers of 64 channels and gets 64 examples of size 1; a gradient of size 1 goes into layer 24. A number at the left puts BN into this layer, between the linear part and the activation. Bars to the right of the middle: larger than 1; a bar with a point goes on beyond the axis. Short lines: the same network without BN. The height of a histogram is logarithmic, from 0.1 % to 100 % of the values." });

    function row(l) {
      const group = svg(picture, "g", { transform: `translate(0 ${TOP + (l - 1) * ROW})` });
      const parts = { ground: svg(group, "rect", { class: "dp-layer", x: 0, y: 0, height: ROW }) };
      for (const name of ["histogram", "signal", "gradient"]) parts[name] = svg(group, "path", {});
      parts.base = svg(group, "path", { class: "dp-base" });
      if (isStill) parts.name = svg(group, "text", { x: 40, y: 16, "text-anchor": "end" });
      group.addEventListener("pointerenter", () => store.send({ type: "layer", to: l }));
      group.addEventListener("click", () => store.send({ type: "layer", to: l }));
      return parts;
    }

    // 24 buttons with one tab stop: the arrows lead from one to the next.
    function toggle(l) {
      const node = bn.page.button(toggles, String(l), () => store.send({ type: "norm", to: l }));
      set(node, { "aria-label": `Layer ${l}` });
      node.addEventListener("focus", () => store.send({ type: "layer", to: l }));
      node.addEventListener("keydown", (event) => {
        const to = { ArrowDown: l + 1, ArrowUp: l - 1, Home: 1, End: LAYERS }[event.key];
        if (!to || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        if (buttons[to - 1]) buttons[to - 1].focus();
      });
      return node;
    }

    // What shows the state is drawn at once, what shows its numbers when they are there.
    function update(state) {
      buttons.forEach((node, k) =>
        set(node, { "aria-pressed": state.norms.includes(k + 1), tabindex: k + 1 === state.layer ? 0 : -1 }));
      places.value = model.placesOf(state.norms) || "own";
      rows.forEach(({ ground }, k) => set(ground, { class: k + 1 === state.layer ? "dp-layer pg-chosen" : "dp-layer" }));
      compute.ask(state, isStill);
      tellLayer(state.layer);
    }
    function tellLayer(layer) {
      const result = compute.shown();
      if (!result) return;
      const { state, found } = result;
      line.textContent = model.layerWords({ ...state, layer }, found) + model.weakWords(state, found);
    }

    function draw({ state, found, base }) {
      const at = layout(board.clientWidth, isStill);
      drawAxes(axes, at, state.activation);
      rows.forEach((parts, k) => {
        const norm = state.norms.includes(k + 1), kind = `pg-bars ${norm ? "pg-with" : "pg-without"}`;
        set(parts.ground, { width: at.width });
        set(parts.histogram, { d: outline(found.shares[k], at), class: kind });
        for (const name of ["signal", "gradient"]) set(parts[name], { d: bar(found[name][k], at[name], at.each), class: kind });
        const marks = mark(base.signal[k], at.signal, at.each) + mark(base.gradient[k], at.gradient, at.each);
        set(parts.base, { d: state.norms.length ? marks : "" });
        if (parts.name) parts.name.textContent = norm ? `BN ${k + 1}` : k + 1;
      });
      const words = model.words(state, found);
      ends.textContent = model.endWords(state, found);
      say(words);
      set(picture, { "aria-label": `24 layers. ${words}` });
      tellLayer(store.state().layer);
    }

    bn.page.onWidth(board, () => {
      const width = board.clientWidth;
      set(picture, { width, viewBox: `0 0 ${width} ${HEIGHT}` });
      if (compute.shown()) draw(compute.shown());
    });
    store.paint();
  };
})((window.bnPlay = window.bnPlay || {}));
