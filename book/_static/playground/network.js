// Widget "network": the same small network with and without batch norm, trained on 8x8 digits.
(function (bn) {
  "use strict";
  const { html, svg, set, show } = bn.page;
  const SIZES = [64, 32, 32, 10];
  const KINDS = { "pg-with": "with BN", "pg-without": "without BN" };
  const BUDGET = 7; // ms of training per frame; drawing takes the rest
  const EVERY = 10; // steps between two looks at the held-out digits
  const MOST = 2000; // steps, then it pauses by itself
  const BINS = 32, REACH = 6;

  // The digits as numbers, every fifth held out, scaled by the training pixels' mean and spread.
  function load({ pixels, labels }) {
    const size = SIZES[0], split = { train: [], test: [] };
    for (let n = 0; n < labels.length; n++) split[n % 5 ? "train" : "test"].push(n);
    const raw = Float64Array.from(pixels, (c) => c.charCodeAt(0) - 65);
    const rows = (list) => Float64Array.from({ length: list.length * size }, (_, k) =>
      raw[list[Math.floor(k / size)] * size + (k % size)]);
    const scale = bn.math.stats(rows(split.train));
    const part = (list) => ({
      n: list.length,
      x: rows(list).map((v) => (v - scale.mean) / Math.sqrt(scale.var)),
      y: Uint8Array.from(list, (n) => +labels[n]),
    });
    return { train: part(split.train), test: part(split.test) };
  }

  // A random batch, without an image twice.
  function draws(data, size, rng) {
    const chosen = new Set();
    while (chosen.size < size) chosen.add(Math.floor(rng.uniform() * data.n));
    const x = new Float64Array(size * SIZES[0]), y = new Uint8Array(size);
    [...chosen].forEach((n, i) => {
      x.set(data.x.subarray(n * SIZES[0], (n + 1) * SIZES[0]), i * SIZES[0]);
      y[i] = data.y[n];
    });
    return { x, y };
  }

  // One network and its history. A loss beyond numbers ends its training.
  function runner(norm, choice) {
    return {
      net: bn.mlp.create(SIZES, { norm, scale: choice.scale, seed: choice.seed }),
      losses: [],
      diverged: null,
    };
  }
  function learn(one, batch, size, lr) {
    if (one.diverged !== null) return;
    const loss = bn.mlp.train(one.net, batch.x, batch.y, size, lr);
    one.losses.push(loss);
    if (!(loss < 1e6)) one.diverged = one.losses.length;
  }
  function look(one, data) {
    if (one.diverged === null) one.seen = bn.mlp.evaluate(one.net, data.x, data.y, data.n);
  }

  // Training in slices: after each `yield` the page may draw and answer. A `true` ends a step.
  function* slices(pair, data, choice) {
    const rng = bn.math.random(choice.seed + 1);
    for (let step = 1; step <= MOST; step++) {
      const batch = draws(data.train, choice.size, rng);
      for (const one of pair) {
        learn(one, batch, choice.size, choice.lr);
        yield false;
      }
      if (step % EVERY === 0 || step === 1) {
        for (const one of pair) {
          look(one, data.test);
          yield false;
        }
      }
      yield true;
      if (pair.every((one) => one.diverged !== null)) return;
    }
  }

  // Averages of neighbouring losses, so that a long history stays a short line.
  function thin(losses, most = 150) {
    const width = Math.ceil(losses.length / most) || 1, points = [];
    for (let k = 0; k < losses.length; k += width) {
      const some = losses.slice(k, k + width);
      points.push([k + some.length, bn.math.mean(some)]);
    }
    return points;
  }

  // Histogram of what one hidden layer feeds to its ReLU.
  function bars(parent, title, kind) {
    const figure = html(parent, "figure", { class: "pg-chart" });
    html(figure, "figcaption", { text: title });
    const root = svg(figure, "svg", { role: "img", width: "100%", height: 60, viewBox: "0 0 160 60", preserveAspectRatio: "none" });
    const shape = svg(root, "path", { class: `pg-bars ${kind}` });
    svg(root, "line", { x1: 0, x2: 160, y1: 58, y2: 58, class: "pg-axis" });
    const ends = html(figure, "div", { class: "pg-ends", "aria-hidden": "true" });
    for (const text of ["−6", "0", "6"]) html(ends, "span", { text });
    return (values) => {
      const shares = values ? bn.mlp.histogram(values, -REACH, REACH, BINS) : [];
      const w = 160 / BINS, top = (s) => (58 - 56 * Math.min(1, Math.sqrt(s))).toFixed(1);
      set(shape, { d: shares.map((s, k) => `M${k * w} 58V${top(s)}h${w}V58Z`).join("") });
      const label = values ? describe(values) : "nothing yet";
      set(root, { "aria-label": `${title}: ${label}` });
    };
  }
  function describe(values) {
    const { mean, var: spread } = bn.math.stats(values);
    return `mean ${show(mean, 1)}, standard deviation ${show(Math.sqrt(spread))}`;
  }

  bn.widgets = bn.widgets || {};
  bn.widgets.network = function (root) {
    const data = load(bn.digits);
    const choice = { lr: 0.1, scale: 1, size: 32, seed: 1 };
    let pair, work, playing = false, drawnAt = 0, asked, whole = true;

    const controls = html(root, "div", { class: "pg-controls" });
    const knob = (label, key, values) =>
      bn.page.slider(controls, { label, values, value: choice[key], late: true }, (v) => {
        choice[key] = v;
        reset();
      });
    knob("Learning rate", "lr", [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]);
    knob("Initial scale", "scale", [0.01, 0.03, 0.1, 0.3, 1, 3, 10]);
    knob("Batch size", "size", [2, 4, 8, 16, 32, 64, 128]);
    knob("Seed", "seed", [1, 2, 3, 4, 5]);

    const buttons = html(root, "div", { class: "pg-buttons" });
    const play = bn.page.button(buttons, "Train", () => (playing ? halt() : start()));
    bn.page.button(buttons, "One step", () => {
      step();
      halt();
    });
    bn.page.button(buttons, "Reset", () => {
      pause();
      reset();
    });
    const count = html(buttons, "span", { class: "pg-count" });

    const curve = bn.page.chart(root, {
      title: "Training loss", xLabel: "steps", low: 1e-4, high: 100, log: true,
      ticks: [0.001, 0.01, 0.1, 1, 10, 100], height: 200, names: KINDS,
    });
    const lines = Object.keys(KINDS).map((kind) => html(root, "p", { class: `pg-facts pg-key ${kind}` }));
    const grid = html(root, "div", { class: "pg-quad" });
    const hists = Object.entries(KINDS).map(([kind, name]) =>
      [1, 2].map((l) => bars(grid, `Layer ${l}, ${name}`, kind)));
    html(root, "p", { class: "pg-note", text: "What reaches each ReLU, over the held-out digits, batch norm with its running statistics. A bar is as high as the square root of its share, so that few values are seen too; the outermost bars hold all that lies beyond." });
    const say = bn.page.announcer(root, 4000, 10000);

    function reset() {
      pair = [runner(true, choice), runner(false, choice)];
      pair.forEach((one) => look(one, data.test));
      work = slices(pair, data, choice);
      whole = true;
      draw(true);
    }
    // One slice; true when there are no more. `whole`: both networks have made the same steps.
    function advance() {
      const next = work.next();
      whole = next.done || next.value;
      return next.done;
    }
    function step() {
      do advance();
      while (!whole);
    }
    function start() {
      if (ended()) reset();
      playing = true;
      play.textContent = "Pause";
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(frame);
    }
    function pause() {
      playing = false;
      play.textContent = "Train";
    }
    function halt() {
      pause();
      if (!whole) step();
      pair.forEach((one) => look(one, data.test)); // the shares of this very step
      draw(true);
    }
    const ended = () => taken() >= MOST || pair.every((one) => one.diverged !== null);
    const taken = () => Math.max(...pair.map((one) => one.losses.length));

    function frame() {
      if (!playing || !root.isConnected) return;
      const end = performance.now() + BUDGET;
      let done;
      do done = advance();
      while (!done && performance.now() < end);
      if (done) pause();
      draw(done);
      if (playing) asked = requestAnimationFrame(frame);
    }

    function report(one, name) {
      const loss = one.losses[one.losses.length - 1];
      if (one.diverged !== null) {
        return `${name}: diverged at step ${one.diverged}. The loss ${Number.isNaN(loss) ? "is no longer a number (NaN)" : "has passed a million"}; a smaller learning rate or initial scale helps.`;
      }
      const now = loss === undefined ? "not trained yet" : `loss ${show(loss, loss < 0.01 ? 5 : 3)}`;
      return `${name}: ${now}, ${show(100 * one.seen.accuracy, 1)} % of the held-out digits right`;
    }

    function draw(always) {
      const now = performance.now();
      if (!always && bn.page.calm() && now - drawnAt < 500) return; // less motion: twice a second
      drawnAt = now;
      const steps = taken(), span = [100, 200, 500, 1000, MOST].find((n) => steps <= n);
      const drawn = {};
      Object.entries(KINDS).forEach(([kind, name], k) => {
        drawn[kind] = thin(pair[k].losses);
        const text = report(pair[k], name[0].toUpperCase() + name.slice(1));
        if (lines[k].textContent !== text) lines[k].textContent = text;
        hists[k].forEach((show, l) => show(pair[k].seen?.hidden[l]));
      });
      count.textContent = `Step ${steps} of ${MOST}${ended() ? ": “Train” starts over" : ""}`;
      curve.draw(span, drawn);
      const words = lines.map((p) => p.textContent).join(". ");
      curve.describe(`Step ${steps}. ${words}`);
      say(`Step ${steps}. ${words}${playing ? "" : ". Paused"}`);
    }

    reset();
    root.playground = { pair: () => pair, step, reset, choice }; // for the tests
  };
})((window.bnPlay = window.bnPlay || {}));
