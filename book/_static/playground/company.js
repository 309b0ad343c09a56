// Figure "company", the view: a batch whose first digit is asked about, digits to put beside it,
// and what the network answers. A digit is dragged, or tapped; keys do the same.
(function (bn) {
  "use strict";
  const { html, svg, set } = bn.page;
  const model = bn.models.company;
  const { ASKED, OTHERS, MOST, EACH, BATCHES } = model;

  const MODES = { train: "train()", one: "eval(), norm2 in train()", eval: "eval()" };
  const GRADIENTS = { on: "recorded", off: "no_grad()" };
  const QUESTIONS = Object.fromEntries(ASKED.map(({ label }) => [label, `a ${label}`]));
  const ACROSS = 2 * EACH; // digits in a line of the pool: two classes
  const ROW = 24, TOP = 30, HEIGHT = TOP + 10 * ROW + 4;
  const LABEL = 22, ROOM = 44; // px for the name of a class, and for the number behind a bar
  const FAR = 6; // px that a pointer moves in a drag, and not in a tap
  const BUDGET = 7; // ms of counting per frame; drawing takes the rest
  const ORDINALS = ["first", "second", "third"];

  const nameOf = (i) => `a ${OTHERS[i].label}, the ${ORDINALS[i % EACH]}`;

  // Ten bars with their numbers; `marks` are other values of the same kind, as short lines.
  function bars(parent, { left, width, top, row }, values, most, { kind, write, marks = [] }) {
    const x = (v) => left + (v / most) * width;
    values.forEach((v, k) => {
      const y = top + k * row, mark = marks[k] < 0.005 ? undefined : marks[k];
      const bar = { x: left, y: y + 0.2 * row, width: x(v) - left, height: 0.6 * row, class: `cp-bar cp-${kind}` };
      if (v) svg(parent, "rect", bar);
      if (mark) svg(parent, "line", { x1: x(mark), x2: x(mark), y1: y + 2, y2: y + row - 2, class: "cp-mark" });
      const covered = mark && x(mark) > x(v) - 2 && x(mark) < x(v) + 40; // the number stands behind the line
      svg(parent, "text", { x: (covered ? x(mark) : x(v)) + 5, y: y + row / 2 + 4, text: write(v), "data-of": `${kind} ${k}` });
    });
  }

  // For paper: one digit in two batches, in training mode.
  function strip(root) {
    const picture = svg(root, "svg", { class: "pg-picture", viewBox: "0 0 640 228" });
    const first = model.initial("train");
    const second = model.act({ ...first, turn: 3 }, { type: "fill", to: "kind" }); // seven 4s
    const coarse = ({ pixels }) => pixels.map((v) => 4 * Math.ceil(v / 4)); // few paths keep the file small
    [first, second].forEach((state, s) => {
      const left = 324 * s, found = model.numbers(state);
      [ASKED[state.asked], ...state.company.map((i) => OTHERS[i])].forEach((one, i) => {
        const x = left + 2 + 36 * (i % 2), y = 34 + 40 * Math.floor(i / 2);
        svg(picture, "rect", { x, y, width: 32, height: 32, class: i ? "pg-paper" : "pg-paper cp-asked" });
        bn.page.digit(picture, coarse(one), 32, x, y);
      });
      const head = `train(): read as ${found.answer}`;
      svg(picture, "text", { x: left + 2, y: 16, text: head, class: "cp-strong" });
      for (let k = 0; k < 10; k++) {
        svg(picture, "text", { x: left + 98, y: 45 + 19 * k, "text-anchor": "end", text: k, class: k === state.asked ? "cp-strong" : "" });
      }
      svg(picture, "line", { x1: left + 106, x2: left + 106, y1: 31, y2: 221, class: "pg-axis" });
      const place = { left: left + 106, width: 150, top: 31, row: 19 };
      bars(picture, place, found.probabilities, 1, { kind: "train", write: model.percent, marks: found.evaluation });
    });
  }

  bn.widgets = bn.widgets || {};
  bn.widgets.company = function (root, options) {
    if (options.preset === "still") return void strip(root);

    const store = bn.store(model, options.preset, draw), first = store.state();
    const choose = (type) => (to) => store.send({ type, to });
    const controls = html(root, "div", { class: "pg-choices" });
    bn.page.choice(controls, { label: "Mode of the network", options: MODES, value: first.mode }, choose("mode"));
    bn.page.choice(controls, { label: "Gradients", options: GRADIENTS, value: "on" }, (to) => store.send({ type: "recorded", to: to === "on" }));
    const question = bn.page.select(controls, { label: "Asked about", options: QUESTIONS, value: first.asked }, choose("ask"));

    const stage = html(root, "div", { class: "cp-stage" });
    const area = html(stage, "div", { class: "cp-area" });
    const batch = html(area, "div", { class: "cp-batch", role: "group", "aria-label": "The batch" });
    const pool = html(area, "div", { class: "cp-pool", role: "group", "aria-label": "Digits to put into the batch" });
    html(batch, "p", { class: "cp-head", text: "The batch" });
    html(pool, "p", { class: "cp-head", text: "Others to put in" });
    const asked = html(batch, "div", { class: "cp-digit cp-asked", role: "img" });
    const slots = Array.from({ length: MOST }, (_, at) => digitButton(batch, () => take(at)));
    const supply = OTHERS.map((one, i) => {
      const node = digitButton(pool, () => store.send({ type: "put", to: i }));
      paint(node, one);
      return set(node, { "aria-label": `Put in ${nameOf(i)}` });
    });
    rove(slots, (at) => [Math.floor((at + 1) / 2), (at + 1) % 2]);
    rove(supply, (i) => [Math.floor(i / ACROSS), i % ACROSS]);
    const buttons = html(area, "div", { class: "pg-buttons" });
    bn.page.button(buttons, "7 at random", () => choose("fill")("random"));
    bn.page.button(buttons, "7 of a kind", () => choose("fill")("kind"));
    bn.page.button(buttons, "Take all out", () => choose("fill")("none"));

    const board = html(stage, "div", { class: "pg-board" });
    const picture = svg(board, "svg", { class: "pg-picture", role: "img", height: HEIGHT });
    const now = svg(picture, "g", {}), counted = svg(picture, "g", {});
    const line = html(root, "p", { class: "pg-words" }), left = html(root, "p", { class: "pg-facts cp-left" });
    const say = bn.page.announcer(root);
    html(root, "p", { class: "pg-note", text: `Tap a digit, or drag it, to put it in or to take it out; in a full batch it comes for the last one. Short lines: what eval() says. At the right: the answers in ${BATCHES} batches with as many others, drawn at random. The digits are new to the network. Each pass is a copy's, so it starts from the same running statistics as the one before.` });

    function digitButton(parent, pressed) {
      const node = bn.page.button(parent, "", () => dragged || pressed());
      set(node, { class: "cp-digit" });
      return node;
    }
    function paint(node, one) {
      node.replaceChildren();
      if (one) bn.page.digit(svg(node, "svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }), one.pixels, 8);
    }

    // Buttons in a grid with one tab stop; the arrows lead to the next that is there.
    function rove(nodes, place) {
      const same = ([a, b], [c, d]) => a === c && b === d;
      nodes.forEach((node, i) => {
        node.tabIndex = i ? -1 : 0;
        node.addEventListener("focus", () => nodes.forEach((one) => (one.tabIndex = one === node ? 0 : -1)));
        node.addEventListener("keydown", (event) => {
          const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
          if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
          event.preventDefault();
          const to = place(i).map((v, k) => v + step[k]);
          const next = nodes.find((one, j) => !one.disabled && same(place(j), to));
          if (next) next.focus();
        });
      });
    }

    // A button that is switched off loses the focus; keep it near for the next key.
    function take(at) {
      const held = document.activeElement === slots[at];
      store.send({ type: "take", at });
      store.paint();
      if (held && slots[at].disabled) (at ? slots[at - 1] : supply.find((one) => one.tabIndex === 0)).focus();
    }

    // Dragging: a copy goes with the pointer, and where it would go in has a frame.
    let dragged = false; // the click that follows a drag means nothing
    const inside = (node, { clientX: x, clientY: y }) => {
      const { left, right, top, bottom } = node.getBoundingClientRect();
      return x >= left && x <= right && y >= top && y <= bottom;
    };
    bn.drag.drag(area, (e) => {
      const node = e.target.closest("button.cp-digit");
      dragged = false;
      if (!node || node.disabled) return null;
      node.focus({ preventScroll: true });
      const i = supply.indexOf(node), from = slots.indexOf(node);
      let ghost = null;
      function move(m) {
        const [x, y] = [m.clientX - e.clientX, m.clientY - e.clientY];
        if (!ghost && Math.hypot(x, y) < FAR) return;
        if (!ghost) {
          const { left, top, width } = node.getBoundingClientRect();
          ghost = node.firstChild.cloneNode(true);
          ghost.classList.add("cp-ghost");
          Object.assign(ghost.style, { left: `${left}px`, top: `${top}px`, width: `${width}px` });
          root.append(ghost);
          dragged = true;
        }
        ghost.style.transform = `translate(${x}px, ${y}px)`;
        batch.classList.toggle("cp-over", inside(batch, m));
      }
      function cancel() {
        if (ghost) ghost.remove();
        batch.classList.remove("cp-over");
      }
      function drop(m) {
        cancel();
        if (!dragged) return;
        const at = slots.findIndex((one) => inside(one, m));
        if (i >= 0 && inside(batch, m)) store.send({ type: "put", to: i, at: at < 0 ? undefined : at });
        if (from >= 0 && !inside(batch, m)) take(from);
      }
      return { element: node, move, cancel, drop };
    });

    let shown = { company: [] };
    function draw(state) {
      if (state.asked !== shown.asked) {
        paint(asked, ASKED[state.asked]);
        set(asked, { "aria-label": `First in the batch, and asked about: a ${state.asked}` });
        question.value = state.asked;
      }
      slots.forEach((node, at) => {
        const i = state.company[at];
        if (i === shown.company[at] && shown.asked !== undefined) return;
        paint(node, OTHERS[i]);
        node.disabled = i === undefined;
        set(node, { "aria-label": node.disabled ? "An empty place" : `Take out ${nameOf(i)}` });
      });
      const stop = slots.find((one) => one.tabIndex === 0);
      if (stop.disabled) slots.forEach((one, at) => (one.tabIndex = at ? -1 : 0));
      shown = state;
      answer(state);
    }

    // The bars of this batch at once, those of the random batches when they are counted: in slices
    // between frames, and anew when the state changes meanwhile.
    let job = null;
    function answer(state) {
      const found = model.answers(state), work = model.counting(state);
      drawBars(state, found);
      left.textContent = model.passWords(state, found);
      job = work;
      if (found.refused) done(null);
      else slice();
      function slice() {
        if (job !== work) return;
        const end = performance.now() + BUDGET;
        let next;
        do next = work.next();
        while (!next.done && performance.now() < end);
        if (next.done) done(next.value);
        else requestAnimationFrame(slice);
      }
      function done(counts) {
        const text = model.words(state, { ...found, counts });
        counted.replaceChildren();
        if (counts) bars(counted, place(1), counts, BATCHES, { kind: kindOf(state), write: String });
        set(picture, { "aria-label": text });
        line.textContent = text;
        say(`${text} ${left.textContent}`);
      }
    }

    const kindOf = ({ mode }) => (mode === "eval" ? "eval" : "train");
    function place(column) {
      const each = (board.clientWidth - LABEL - 12) / 2;
      return { left: LABEL + column * (each + 12), width: Math.max(each - ROOM, 0), top: TOP, row: ROW };
    }
    function drawBars(state, found) {
      const width = board.clientWidth;
      const text = (x, y, words, more) => svg(now, "text", { x, y, text: words, ...more });
      now.replaceChildren();
      set(picture, { width, viewBox: `0 0 ${width} ${HEIGHT}` });
      svg(now, "rect", { x: 0, y: TOP + state.asked * ROW, width, height: ROW, class: "cp-right" });
      ["this batch", width < 300 ? `${BATCHES} batches` : `${BATCHES} random batches`].forEach((head, column) => {
        const { left } = place(column);
        text(left, 16, head);
        svg(now, "line", { x1: left, x2: left, y1: TOP, y2: TOP + 10 * ROW, class: "pg-axis" });
      });
      for (let k = 0; k < 10; k++) {
        text(14, TOP + k * ROW + ROW / 2 + 4, k, { "text-anchor": "end", class: k === found.answer ? "cp-strong" : "" });
      }
      if (found.refused) return void text(LABEL + 8, TOP + 60, "ValueError");
      bars(now, place(0), found.probabilities, 1, { kind: kindOf(state), write: model.percent, marks: found.evaluation });
    }

    bn.page.onWidth(board, store.paint);
    root.playground = { state: store.state, numbers: () => model.numbers(store.state()) }; // for the tests
  };
})((window.bnPlay = window.bnPlay || {}));
