// Widget "running": running statistics against momentum, batch by batch, in both modes.
(function (bn) {
  "use strict";
  const { html, show } = bn.page;
  const TRUE = { mean: 2, var: 4 }; // of the stream that the batches come from
  const MOST = 200; // batches that fit on the chart

  bn.widgets = bn.widgets || {};
  bn.widgets.running = function (root) {
    const state = { momentum: 0.1, plain: false, size: 8, training: true };
    let log, running, rng, timer = null;

    const controls = html(root, "div", { class: "pg-controls" });
    const momentum = bn.page.slider(
      controls,
      { label: "Momentum α", min: 0, max: 1, step: 0.01, value: 0.1, format: (v) => show(v) },
      (v) => (state.momentum = v),
    );
    bn.page.slider(
      controls,
      { label: "Batch size", values: [2, 4, 8, 16, 32, 64], value: 8, unit: " samples" },
      (v) => (state.size = v),
    );
    bn.page.select(
      controls,
      { label: "Mode", options: { train: "training", eval: "evaluation" }, value: "train" },
      (v) => {
        state.training = v === "train";
        tell();
      },
    );
    bn.page.check(controls, "plain average (momentum=None)", (on) => {
      state.plain = on;
      momentum.input.disabled = on;
    });

    const buttons = html(root, "div", { class: "pg-buttons" });
    bn.page.button(buttons, "One batch", () => go(1));
    bn.page.button(buttons, "Ten batches", () => go(10));
    const play = bn.page.button(buttons, "Play", () => (timer ? pause() : start()));
    bn.page.button(buttons, "Reset", reset);

    const names = { "pg-run": "running", "pg-theory": "expected", "pg-true": "stream" };
    const charts = html(root, "div", { class: "pg-pair" });
    const common = { xLabel: "batches", names };
    const means = bn.page.chart(charts, { ...common, title: "Mean", low: -1, high: 5, ticks: [0, 2, 4] });
    const vars = bn.page.chart(charts, { ...common, title: "Variance", low: 0, high: 10, ticks: [0, 4, 8] });
    const facts = html(root, "p", { class: "pg-facts" });
    const output = html(root, "p", { class: "pg-facts" });
    html(root, "p", { class: "pg-note", text: `Dots: the mean and the unbiased variance of each batch, hollow in evaluation mode; those beyond the chart lie on its edge. The stream of batches has mean ${TRUE.mean} and variance ${TRUE.var}.` });
    const say = bn.page.announcer(root, 3000, 10000);

    // What the layer does with the next batch of the stream.
    function batch() {
      const x = Array.from({ length: state.size }, () => TRUE.mean + Math.sqrt(TRUE.var) * rng.normal());
      const own = bn.math.stats(x);
      if (state.training) {
        running = bn.math.track(running, own, x.length, state.plain ? null : state.momentum);
      }
      const used = bn.math.normalize(x, state.training ? own : running, 1, 0, 1e-5);
      log.push({ own, running, m: x.length, training: state.training, out: bn.math.stats(used.y) });
    }

    function go(count) {
      for (let k = 0; k < count && log.length < MOST; k++) batch();
      if (log.length >= MOST) pause();
      draw();
    }
    function start() {
      if (log.length >= MOST) return tell();
      play.textContent = "Pause";
      timer = setInterval(() => document.hidden || go(1), bn.page.calm() ? 1000 : 150);
    }
    function pause() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }
    function reset() {
      pause();
      log = [];
      running = bn.math.start();
      rng = bn.math.random(1);
      draw();
    }

    // One statistic over the batches: the batches' own, running, expected, of the stream.
    function lines(key, initial) {
      const points = (value) => [[0, initial], ...log.map((e, t) => [t + 1, value(e.running)])];
      return {
        "pg-true": [[0, TRUE[key]], [1e9, TRUE[key]]].map(([t, v]) => [Math.min(t, span()), v]),
        "pg-theory": points((r) => TRUE[key] * (1 - r.left) + initial * r.left),
        "pg-run": points((r) => r[key]),
      };
    }
    const span = () => [20, 50, 100, MOST].find((n) => log.length <= n);
    const dots = (value) =>
      log.map((e, t) => [t + 1, value(e), e.training ? "pg-seen" : "pg-unseen"]);

    function draw() {
      means.draw(span(), lines("mean", 0), dots((e) => e.own.mean));
      vars.draw(span(), lines("var", 1), dots((e) => (e.own.var * e.m) / (e.m - 1)));
      tell();
    }

    function tell() {
      const last = log[log.length - 1];
      facts.textContent =
        `num_batches_tracked = ${running.count} · running_mean = ${show(running.mean)} · ` +
        `running_var = ${show(running.var)} · weight of the batches seen = ${show(1 - running.left, 3)}, of the start = ${show(running.left, 3)}`;
      const mode = state.training ? "training" : "evaluation";
      let text = `In ${mode} mode. Press “One batch”.`;
      if (last) {
        const by = last.training ? "the batch's own statistics" : "the running statistics";
        text = `The last batch was normalised with ${by}: its output has mean ${show(last.out.mean)} and variance ${show(last.out.var)}.`;
      }
      if (log.length >= MOST) text += ` ${MOST} batches: press Reset to go on.`;
      output.textContent = text;
      means.describe(`Running mean ${show(running.mean)} after ${running.count} batches; the stream has 2.`);
      vars.describe(`Running variance ${show(running.var)} after ${running.count} batches; the stream has 4.`);
      say(`${running.count} batches tracked. Running mean ${show(running.mean)}, running variance ${show(running.var)}. ${text}`);
    }
    reset();
  };
})((window.bnPlay = window.bnPlay || {}));
