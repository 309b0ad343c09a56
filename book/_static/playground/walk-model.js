// Figure "walk", the model: gradient descent on two weights with a batch norm behind them. The
// inputs are whitened, so that batch norm's output is w·x / |w|, and the loss, half the mean
// squared error to u·x with a unit vector u, is 1 − cos of the angle between w and u, whatever
// the length of w. No page in here.
(function (bn) {
  "use strict";
  const LAST = 200; // steps of a walk
  const RECENT = 50; // steps over which the turn is averaged, as the root of the mean square
  const SIDE = 30; // degrees by which a batch pulls to one side, where batches differ
  const LENGTHS = Array.from({ length: 17 }, (_, k) => 2 ** ((k - 8) / 4)); // 1/4 to 4
  const TICK = 5; // degrees from one start to the next
  const RATES = Array.from({ length: 8 }, (_, k) => 0.025 * 2 ** k); // to 3.2
  const DECAYS = [0, ...Array.from({ length: 7 }, (_, k) => 0.0025 * 2 ** k)]; // to 0.16
  const DEGREE = Math.PI / 180;

  // The start: `angle` in degrees from the target, which points to the right.
  const START = { angle: 120, length: 1, lr: 0.1, decay: 0, batches: "same", t: 0 };
  const PRESETS = { free: {}, decay: { lr: 0.4, decay: 0.04, batches: "differ" } };
  const initial = (preset) => ({ ...START, ...PRESETS[preset] });

  const within = (v, low, high) => Math.max(low, Math.min(high, v));
  const far = (a, b) => Math.abs(Math.log(a / b)); // as a ratio
  const ALLOWED = {
    angle: (v) => within(TICK * Math.round(v / TICK), -180, 180),
    length: (v) => LENGTHS.reduce((a, b) => (far(b, v) < far(a, v) ? b : a)), // the nearest
    lr: (v) => (RATES.includes(v) ? v : undefined),
    decay: (v) => (DECAYS.includes(v) ? v : undefined),
    batches: (v) => (["same", "differ"].includes(v) ? v : undefined),
    t: (v) => within(v, 0, LAST),
  };

  // Actions: { type: a part of the state, to: its new value }.
  function act(state, { type, to }) {
    const value = type in ALLOWED ? ALLOWED[type](to) : undefined;
    if (value === undefined) throw new Error(`no action ${type} to ${to}`);
    return value === state[type] ? state : { ...state, [type]: value };
  }

  // The angle at which each batch has its minimum: the target's, or to one side of it by chance.
  function pulls(batches) {
    const rng = bn.math.random(7);
    const side = () => (rng.uniform() < 0.5 ? -SIDE : SIDE) * DEGREE;
    return Array.from({ length: LAST }, () => (batches === "same" ? 0 : side()));
  }

  // The gradient of 1 − cos(angle of w − pull): perpendicular to w, and as long as 1/|w| allows.
  function gradient([x, y], pull) {
    const size = Math.sin(Math.atan2(y, x) - pull) / (x * x + y * y);
    return [-size * y, size * x];
  }

  // One step of SGD with weight decay, as PyTorch takes it.
  function step(w, pull, lr, decay) {
    const g = gradient(w, pull);
    return w.map((v, k) => v - lr * (g[k] + decay * v));
  }

  // The whole walk, for all steps: the weights, their length, the angle to the target, the loss,
  // the effective learning rate, and the turn of the step that comes next, η|g| / |w|.
  function numbers({ angle, length, lr, decay, batches }) {
    const side = pulls(batches), found = { w: [], length: [], angle: [], loss: [], rate: [], turn: [] };
    let w = [length * Math.cos(angle * DEGREE), length * Math.sin(angle * DEGREE)];
    for (let k = 0; k <= LAST; k++) {
      const size = Math.hypot(...w), theta = Math.atan2(w[1], w[0]);
      found.w.push(w);
      found.length.push(size);
      found.angle.push(theta / DEGREE);
      found.loss.push(1 - Math.cos(theta));
      found.rate.push(lr / size ** 2);
      if (k === LAST) break;
      found.turn.push((lr * Math.hypot(...gradient(w, side[k]))) / size);
      w = step(w, side[k], lr, decay);
    }
    // The turn where growth and decay balance (chapter 12); without decay they never do.
    const balance = decay ? Math.sqrt(2 * lr * decay) : null;
    return { ...found, balance };
  }

  // A number with two digits that count, of which at most four stand behind the point.
  const say = (v) => (v >= 100 ? v.toFixed(0) : v < 1e-4 ? v.toFixed(4) : String(+v.toPrecision(2)));

  function words(state, { length, angle, loss, rate, turn, balance }) {
    const k = Math.floor(state.t + 1e-9);
    const place = `After ${k} ${k === 1 ? "step" : "steps"}: |w| = ${length[k].toFixed(3)}, ${say(Math.abs(angle[k]))}° from the target, loss ${say(loss[k])}. The effective rate η/|w|\u2060² is ${say(rate[k])}`;
    const next = k === LAST ? "." : `, the turn of the next step ${say(turn[k])}.`;
    if (balance === null) return `${place}${next}`;
    const recent = turn.slice(Math.max(0, k - RECENT), k), mean = Math.sqrt(bn.math.mean(recent.map((v) => v * v)));
    const last = recent.length < RECENT ? "" : `; that of the last ${RECENT} steps was ${say(mean)}`;
    return `${place}${next} In balance the turn is √(2ηλ) = ${say(balance)}${last}.`;
  }

  bn.models = bn.models || {};
  bn.models.walk = { initial, act, numbers, words, gradient, pulls, say, LAST, LENGTHS, RATES, DECAYS, TICK, DEGREE };
})((window.bnPlay = window.bnPlay || {}));
