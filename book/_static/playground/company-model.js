// Figure "company", the model: what a trained network answers about one digit, in a batch with
// others, where each of its two norms is in training or in evaluation mode, with gradients recorded
// or under no_grad; and how far this pass moves the running statistics. No page in here.
(function (bn) {
  "use strict";
  const { linear, columns } = bn.mlp;
  const data = bn.company;
  const EPS = 1e-5;
  const MOMENTUM = 0.1; // PyTorch's default
  const UNIT = 1000; // the data is in thousandths
  const CLASSES = 10;
  const MOST = 7; // others in a batch
  const BATCHES = 200; // drawn at random, for the count

  const real = (values) => Float64Array.from(values.flat(), (v) => v / UNIT);
  const NET = data.layers.map(({ inputs, outputs, w, b, norm }) => ({
    inputs,
    outputs,
    w: real(w),
    b: real(b),
    norm: norm && Object.fromEntries(Object.entries(norm).map(([key, values]) => [key, real(values)])),
  }));
  // A digit has its pixels, 0 to 16, and what the first layer makes of them, which no batch changes.
  function digit([place, label, letters]) {
    const pixels = Array.from(letters, (letter) => letter.charCodeAt(0) - 65);
    return { place, label, pixels, first: linear(pixels.map((v) => v / 16), 1, NET[0]) };
  }
  const ASKED = data.asked.map(digit), OTHERS = data.others.map(digit);
  const EACH = OTHERS.length / CLASSES; // others of a class, which stand side by side

  // Which of the two norms is in training mode.
  const MODES = { train: [true, true], one: [false, true], eval: [false, false] };

  // Through a norm and a ReLU, for n digits, with given statistics.
  function normalized(z, n, { outputs: c, norm }, { mean, var: spread }) {
    const factor = spread.map((v, j) => norm.weight[j] / Math.sqrt(v + EPS));
    const y = new Float64Array(n * c);
    for (let i = 0; i < n * c; i++) y[i] = Math.max(0, factor[i % c] * (z[i] - mean[i % c]) + norm.bias[i % c]);
    return y;
  }

  // The ten scores of the first digit of a batch, and the statistics that each norm has used. It
  // changes nothing: the running statistics are those of the training, whatever the mode.
  function forward(batch, modes) {
    const n = batch.length, [one, two, last] = NET, z = new Float64Array(n * one.outputs);
    const statistics = (values, part, k) => (modes[k] ? columns(values, n, part.outputs) : part.norm);
    batch.forEach(({ first }, i) => z.set(first, i * one.outputs));
    const first = statistics(z, one, 0), a = linear(normalized(z, n, one, first), n, two);
    const second = statistics(a, two, 1), b = normalized(a, n, two, second);
    return { scores: linear(b, 1, last), used: [first, second] };
  }

  // The running statistics of both norms after a pass of n digits: in training mode a step towards
  // the batch's, in evaluation mode the same. Whether gradients are recorded is not asked.
  function running(used, n, modes) {
    const step = (old, now) => Array.from(old, (v, j) => v + MOMENTUM * (now[j] - v));
    return used.map((own, k) => {
      const { mean, var: spread } = NET[k].norm;
      if (!modes[k]) return { mean: [...mean], var: [...spread] };
      return { mean: step(mean, own.mean), var: step(spread, own.var.map((v) => (v * n) / (n - 1))) };
    });
  }

  function softmax(scores) {
    const top = Math.max(...scores), e = scores.map((v) => Math.exp(v - top)), all = bn.math.sum(e);
    return e.map((v) => v / all);
  }

  const largest = (values) => values.indexOf(Math.max(...values));
  // One value per channel has no variance: PyTorch refuses it.
  const refuses = (mode, n) => n === 1 && MODES[mode].includes(true);

  // One pass: the digit that is asked about, in the first place of the batch, and the others.
  const pass = (asked, company, mode) => forward([ASKED[asked], ...company.map((i) => OTHERS[i])], MODES[mode]);
  // Its ten probabilities.
  const probabilities = (asked, company, mode) => softmax([...pass(asked, company, mode).scores]);

  // Others drawn at random, with replacement.
  function drawn(rng, count) {
    return Array.from({ length: count }, () => Math.floor(rng.uniform() * OTHERS.length));
  }

  // The answers in 200 random batches with as many others, kept once they are known. After each
  // `yield` the page may draw and answer.
  const known = new Map();
  function* counting({ asked, company, mode }) {
    const count = company.length, key = `${asked} ${count} ${mode}`;
    if (known.has(key)) return known.get(key);
    const rng = bn.math.random(2015), found = new Array(CLASSES).fill(0);
    for (let k = 0; k < BATCHES; k++) {
      const others = drawn(rng, MOST).slice(0, count); // a larger batch has those of a smaller one
      found[largest(probabilities(asked, others, mode))] += 1;
      yield;
    }
    known.set(key, found);
    return found;
  }
  function counts(state) {
    const work = counting(state);
    let next = work.next();
    while (!next.done) next = work.next();
    return next.value;
  }

  // The start in training mode: a 6 among seven others, drawn at random. `turn` counts what was
  // drawn, so that each press of a button draws anew.
  function initial(preset) {
    const company = drawn(bn.math.random(1), MOST);
    return { asked: 6, company, mode: preset in MODES ? preset : "train", recorded: true, turn: 1 };
  }

  const KINDS = {
    random: ({ turn }) => drawn(bn.math.random(turn), MOST),
    kind: ({ turn }) => Array.from({ length: MOST }, (_, i) => EACH * (turn % CLASSES) + (i % EACH)),
    none: () => [],
  };

  // Actions: ask about the digit of a class; a mode; gradients recorded or not; put in one of the others, at a place or
  // behind the rest (the last one leaves a full batch); take out the one at a place; fill.
  function act(state, { type, to, at }) {
    const { company } = state;
    if (type === "ask" && +to in ASKED) return { ...state, asked: +to };
    if (type === "mode" && to in MODES) return { ...state, mode: to };
    if (type === "recorded" && typeof to === "boolean") return { ...state, recorded: to };
    if (type === "put" && to in OTHERS) {
      const place = Math.min(at ?? MOST - 1, company.length, MOST - 1), next = company.slice();
      next[place] = to;
      return { ...state, company: next };
    }
    if (type === "take" && at in company) return { ...state, company: company.filter((_, i) => i !== at) };
    if (type === "fill" && to in KINDS) {
      const next = { ...state, turn: state.turn + 1 };
      return { ...next, company: KINDS[to](next) };
    }
    throw new Error(`no action ${type} to ${to}`);
  }

  // What the network says of the digit in this batch, and the running statistics after it; nothing
  // where PyTorch refuses the batch. Under no_grad every number is the same, so it is not asked for.
  function answers({ asked, company, mode }) {
    const n = company.length + 1, evaluation = probabilities(asked, [], "eval");
    if (refuses(mode, n)) return { refused: true, probabilities: null, answer: null, evaluation, after: null, moved: null };
    const { scores, used } = pass(asked, company, mode), found = softmax([...scores]);
    const after = running(used, n, MODES[mode]);
    const moved = after.map(({ mean }, k) => Math.max(...mean.map((v, j) => Math.abs(v - NET[k].norm.mean[j]))));
    return { refused: false, probabilities: found, answer: largest(found), evaluation, after, moved };
  }
  function numbers(state) {
    const found = answers(state);
    return { ...found, counts: found.refused ? null : counts(state) };
  }

  const NAMES = { train: "train()", one: "eval(), but norm2 in train()", eval: "eval()" };
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  const among = (count) => (count === 0 ? "alone" : count === 1 ? "with one other" : `with ${count} others`);

  function words({ asked, company, mode }, { refused, probabilities: found, answer, counts: count }) {
    const where = `In ${NAMES[mode]}, ${among(company.length)} in the batch`;
    if (refused) {
      const size = "torch.Size([1, 32])";
      return `${where}: ValueError: Expected more than 1 value per channel when training, got input size ${size}. One value has no variance.`;
    }
    const order = count.map((_, k) => k).filter((k) => count[k]).sort((a, b) => count[b] - count[a]);
    const [first, ...rest] = order.map((k, i) => (i ? `${count[k]} as ${k}` : `${count[k]} read it as ${k}`));
    const few = rest.slice(0, 2), others = bn.math.sum(order.slice(3).map((k) => count[k]));
    if (others) few.push(`${others} as something else`);
    const last = few.pop(), list = last ? `${[first, ...few].join(", ")} and ${last}` : first;
    const size = company.length ? `random batches of ${company.length + 1}` : "batches of 1";
    return `${where}, this ${asked} is read as ${answer} (${percent(found[answer])}). Of ${BATCHES} ${size}, ${list}.`;
  }

  // What the pass leaves behind: a graph for backward(), unless under no_grad, and running means that
  // have moved, unless in eval().
  function passWords({ mode, recorded }, { refused, moved }) {
    const graph = recorded ? "This pass records a graph for backward()" : "Under no_grad() this pass records no graph for backward()";
    if (refused) return recorded ? "" : "Under no_grad() the error is the same: the mode decides.";
    const parts = moved.map((v, k) => v && `norm${k + 1} by up to ${v.toFixed(3)}`).filter(Boolean);
    if (!parts.length) return `${graph}. No running mean moves, because of ${mode}()${recorded ? "" : ", not because of no_grad()"}.`;
    const means = `the running mean of ${parts.join(", of ")}`;
    return recorded ? `${graph}. It moves ${means}.` : `${graph}. It still moves ${means}, as far as without no_grad().`;
  }

  bn.models = bn.models || {};
  bn.models.company = { initial, act, answers, counting, numbers, words, passWords, forward, drawn, percent, NET, ASKED, OTHERS, MODES, MOST, EACH, BATCHES };
})((window.bnPlay = window.bnPlay || {}));
