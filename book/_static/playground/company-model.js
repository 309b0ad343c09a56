// Figure "company", the model: what a trained network answers about one digit, in a batch with
// others, where each of its two norms is in training or in evaluation mode. No page in here.
(function (bn) {
  "use strict";
  const { linear, columns } = bn.mlp;
  const data = bn.company;
  const EPS = 1e-5;
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

  // Through a norm and a ReLU, for n digits.
  function normalized(z, n, { outputs: c, norm }, training) {
    const { mean, var: spread } = training ? columns(z, n, c) : norm;
    const factor = spread.map((v, j) => norm.weight[j] / Math.sqrt(v + EPS));
    const y = new Float64Array(n * c);
    for (let i = 0; i < n * c; i++) y[i] = Math.max(0, factor[i % c] * (z[i] - mean[i % c]) + norm.bias[i % c]);
    return y;
  }

  // The ten scores of the first digit of a batch. It changes nothing: the running statistics are
  // those of the training, whatever the mode.
  function forward(batch, modes) {
    const n = batch.length, [one, two, last] = NET, z = new Float64Array(n * one.outputs);
    batch.forEach(({ first }, i) => z.set(first, i * one.outputs));
    const a = normalized(z, n, one, modes[0]);
    const b = normalized(linear(a, n, two), n, two, modes[1]);
    return linear(b, 1, last);
  }

  function softmax(scores) {
    const top = Math.max(...scores), e = scores.map((v) => Math.exp(v - top)), all = bn.math.sum(e);
    return e.map((v) => v / all);
  }

  const largest = (values) => values.indexOf(Math.max(...values));
  // One value per channel has no variance: PyTorch refuses it.
  const refuses = (mode, n) => n === 1 && MODES[mode].includes(true);

  // The ten probabilities of the digit that is asked about, in the first place of the batch.
  function probabilities(asked, company, mode) {
    return softmax([...forward([ASKED[asked], ...company.map((i) => OTHERS[i])], MODES[mode])]);
  }

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
    return { asked: 6, company, mode: preset in MODES ? preset : "train", turn: 1 };
  }

  const KINDS = {
    random: ({ turn }) => drawn(bn.math.random(turn), MOST),
    kind: ({ turn }) => Array.from({ length: MOST }, (_, i) => EACH * (turn % CLASSES) + (i % EACH)),
    none: () => [],
  };

  // Actions: ask about the digit of a class; a mode; put in one of the others, at a place or
  // behind the rest (the last one leaves a full batch); take out the one at a place; fill.
  function act(state, { type, to, at }) {
    const { company } = state;
    if (type === "ask" && +to in ASKED) return { ...state, asked: +to };
    if (type === "mode" && to in MODES) return { ...state, mode: to };
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

  // What the network says of the digit in this batch; nothing where PyTorch refuses the batch.
  function answers({ asked, company, mode }) {
    const refused = refuses(mode, company.length + 1);
    const found = refused ? null : probabilities(asked, company, mode);
    const evaluation = probabilities(asked, [], "eval");
    return { refused, probabilities: found, answer: refused ? null : largest(found), evaluation };
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

  bn.models = bn.models || {};
  bn.models.company = { initial, act, answers, counting, numbers, words, forward, drawn, percent, NET, ASKED, OTHERS, MODES, MOST, EACH, BATCHES };
})((window.bnPlay = window.bnPlay || {}));
