// Figure "graph", the model: batch norm of one channel as a graph of eight lines. Values go
// forward line by line, gradients come back edge by edge. No page in here, only arithmetic.
(function (bn) {
  "use strict";
  const { sum, mean } = bn.math;

  // The eight lines of the forward pass, as chapter 3 cuts them. A value per row is an array, a
  // value per channel is a number. `back` holds what a line sends to each of its inputs when it
  // receives the gradient g: g times its own derivative, summed where a number was broadcast.
  const LINES = [
    {
      name: "mean",
      of: (v) => mean(v.x),
      back: { x: (g, v) => v.x.map(() => g / v.x.length) },
    },
    {
      name: "centred",
      of: (v) => v.x.map((x) => x - v.mean),
      back: { x: (g) => g.slice(), mean: (g) => -sum(g) },
    },
    {
      name: "square",
      of: (v) => v.centred.map((c) => c ** 2),
      back: { centred: (g, v) => g.map((one, n) => 2 * v.centred[n] * one) },
    },
    {
      name: "var",
      of: (v) => mean(v.square),
      back: { square: (g, v) => v.x.map(() => g / v.x.length) },
    },
    {
      name: "std",
      of: (v) => Math.sqrt(v.var + v.eps),
      back: { var: (g, v) => g / (2 * v.std) },
    },
    {
      name: "x_hat",
      of: (v) => v.centred.map((c) => c / v.std),
      back: {
        centred: (g, v) => g.map((one) => one / v.std),
        std: (g, v) => -sum(g.map((one, n) => one * v.x_hat[n])) / v.std,
      },
    },
    {
      name: "scaled",
      of: (v) => v.x_hat.map((x) => v.weight * x),
      back: {
        x_hat: (g, v) => g.map((one) => v.weight * one),
        weight: (g, v) => sum(g.map((one, n) => one * v.x_hat[n])),
      },
    },
    {
      name: "y",
      of: (v) => v.scaled.map((s) => s + v.bias),
      back: { scaled: (g) => g.slice(), bias: (g) => sum(g) },
    },
  ];

  // The edges in the order of the way back: line 8 first, and in a line as its inputs are named.
  const EDGES = LINES.flatMap((line, i) =>
    Object.keys(line.back).map((to) => ({ from: line.name, to, line: i + 1 })),
  ).sort((a, b) => b.line - a.line);

  // The roads from y back to x: the edges that each of them takes.
  const TOP = ["y scaled", "scaled x_hat"];
  const ROADS = {
    all: EDGES.map((e) => `${e.from} ${e.to}`),
    direct: [...TOP, "x_hat centred", "centred x"],
    mean: [...TOP, "x_hat centred", "centred mean", "mean x"],
    std: [...TOP, "x_hat std", "std var", "var square", "square centred", "centred x"],
  };

  const TARGETS = [-8, -1, 2, 3, 4];
  // The gradient that arrives at y, for a choice.
  const ARRIVES = {
    error: (y) => y.map((v, n) => v - TARGETS[n]), // of half the sum of the squared errors
    row: (y, state) => y.map((_, n) => +(n === state.row)),
    ones: (y) => y.map(() => 1),
    x_hat: (y, state, v) => v.x_hat.slice(),
  };

  const REACH = 9; // a row of the batch may move from -9 to 9

  // What happens, in order: a line forward, the gradient at y, an edge back.
  const STEPS = [
    { kind: "start" },
    ...LINES.map((line, i) => ({ kind: "line", name: line.name, line: i + 1 })),
    { kind: "arrival" },
    ...EDGES.map((edge) => ({ kind: "edge", ...edge })),
  ];
  const LAST = STEPS.length - 1;

  // The state: t is the time in steps, with a fraction while something is under way.
  function initial(preset) {
    const t = preset === "still" ? LAST : 0;
    return { x: [1, 3, 4, 5, 7], weight: 6, bias: 1, eps: 1e-5, arrives: "error", road: "all", row: 0, t };
  }
  const stepOf = (state) => Math.floor(state.t + 1e-9);

  function act(state, { type, to }) {
    if (type === "time") return { ...state, t: Math.max(0, Math.min(LAST, to)) };
    if (type === "road" && to in ROADS) return { ...state, road: to };
    if (type === "arrives" && to in ARRIVES) return { ...state, arrives: to };
    if (type === "row" && to in state.x) return { ...state, row: +to };
    if (type === "x") {
      const value = Math.max(-REACH, Math.min(REACH, to));
      return { ...state, x: state.x.map((v, n) => (n === state.row ? value : v)) };
    }
    throw new Error(`no action ${type} to ${to}`);
  }

  const add = (old, more) =>
    old === undefined ? more : typeof more === "number" ? old + more : old.map((v, n) => v + more[n]);

  const edgeName = (step) => `${step.from} ${step.to}`;
  // Whether a step happens at all: an edge that is not on the chosen road sends nothing.
  const happens = (step, road) => step.kind !== "edge" || ROADS[road].includes(edgeName(step));

  // All values and, along a road, all gradients after the first steps, up to step `until`.
  function run(state, road, until) {
    const v = { x: state.x, weight: state.weight, bias: state.bias, eps: state.eps };
    for (const line of LINES) v[line.name] = line.of(v);
    const arriving = ARRIVES[state.arrives](v.y, state, v);
    const grads = {}, known = ["x", "weight", "bias"];
    let sent = null; // by the last step
    for (const step of STEPS.slice(0, until + 1)) {
      sent = null;
      if (step.kind === "line") known.push(step.name);
      if (step.kind === "arrival") grads.y = arriving;
      if (step.kind === "edge" && happens(step, road)) {
        sent = LINES[step.line - 1].back[step.to](grads[step.from], v);
        grads[step.to] = add(grads[step.to], sent);
      }
    }
    const values = Object.fromEntries(known.map((name) => [name, v[name]]));
    return { values, grads, sent, arriving };
  }

  // The edge with which the share of a road in the gradient at x is known. Of all three roads,
  // the first two are known at centred already, since centred has the same gradient as x there.
  const KNOWN = {
    all: { direct: "x_hat centred", std: "square centred", mean: "mean x" },
    direct: { direct: "centred x" },
    std: { std: "centred x" },
    mean: { mean: "mean x" },
  };

  // What the figure shows. `terms`: the share of each road in the gradient at x, as far as the
  // steps have come; a road's share is the gradient that comes back along this road alone.
  function numbers(state) {
    const step = stepOf(state), { values, grads, sent, arriving } = run(state, state.road, step);
    const made = STEPS.slice(0, step + 1).map(edgeName), terms = {};
    for (const [road, edge] of Object.entries(KNOWN[state.road])) {
      if (made.includes(edge)) terms[road] = run(state, road, LAST).grads.x;
    }
    return {
      values,
      grads,
      sent,
      terms,
      dx: step === LAST ? grads.x : null,
      loss: state.arrives === "error" ? sum(arriving.map((g) => g ** 2)) / 2 : null,
    };
  }

  // A number for the text of a step: short, with a true minus sign.
  function say(v) {
    const size = Math.abs(v), digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
    return String(+v.toFixed(digits) + 0).replace("-", "−");
  }
  const all = (v) => (typeof v === "number" ? say(v) : `(${v.map(say).join(", ")})`);

  const FORWARD = {
    mean: "the mean of x",
    centred: "x minus the mean",
    square: "the square of centred",
    var: "the mean of the squares",
    std: "the root of var + ε",
    x_hat: "centred divided by std",
    scaled: "γ times x_hat",
    y: "scaled plus β",
  };
  const LABELS = { weight: "γ", bias: "β" };
  const label = (name) => LABELS[name] || name;
  // Why a line sends what it sends, by edge.
  const BACK = {
    "y bias": "β was added to every row: the sum",
    "y scaled": "adding β changes nothing",
    "scaled weight": "γ multiplied every row: the sum of g times x_hat",
    "scaled x_hat": "times γ",
    "x_hat std": "std divided every row: minus the sum of g times x_hat, divided by std",
    "x_hat centred": "divided by std",
    "std var": "the derivative of a root: divided by 2 std",
    "var square": "a mean shares out: each row gets a fifth",
    "square centred": "times 2 centred",
    "centred mean": "the mean was subtracted from every row: minus the sum",
    "centred x": "x goes straight into centred",
    "mean x": "a mean shares out: each row gets a fifth",
  };

  // One sentence on the step that was made last.
  function stepWords(state) {
    const step = STEPS[stepOf(state)], { values, grads, sent, loss } = numbers(state);
    if (step.kind === "start") return `The batch: x = ${all(values.x)}, γ = ${say(values.weight)}, β = ${say(values.bias)}.`;
    if (step.kind === "line") {
      return `Line ${step.line} forward: ${step.name} is ${FORWARD[step.name]}, ${all(values[step.name])}.`;
    }
    if (step.kind === "arrival") {
      const from = loss === null ? "" : ` It is the error y − t; the loss is ${say(loss)}.`;
      return `The gradient arrives at y: ${all(grads.y)}.${from}`;
    }
    const way = `Line ${step.line} back, from ${label(step.from)} to ${label(step.to)}`;
    if (!sent) return `${way}: not on the chosen road, so nothing is sent.`;
    let text = `${way}: ${BACK[edgeName(step)]}, ${all(sent)}.`;
    if (all(sent) !== all(grads[step.to])) text += ` With what was there: ${all(grads[step.to])}.`;
    return text;
  }

  const SHARES = { direct: "direct", mean: "by the mean", std: "by the std" };
  // What the roads bring to the chosen row.
  function shareWords(state) {
    const { terms, dx } = numbers(state), n = state.row;
    const known = Object.keys(SHARES).filter((road) => terms[road]); // in the order of Eq. 3.7
    if (!known.length) return "";
    const parts = known.map((road) => `${say(terms[road][n])} (${SHARES[road]})`);
    const sumOf = parts.join(" + ").replace(/\+ −/g, "− ");
    const end = dx ? ` = ${say(dx[n])}. All rows together: ${say(sum(dx))}.` : " …";
    return ` Row ${n + 1}, gradient of x: ${sumOf}${end}`;
  }
  const words = (state) => stepWords(state) + shareWords(state);

  // A short name of a step, for the slider.
  function nameOf(k) {
    const step = STEPS[k];
    if (step.kind === "edge") return `back: ${label(step.from)} to ${label(step.to)}`;
    return { start: "x", arrival: "gradient at y", line: `forward: ${step.name}` }[step.kind];
  }

  bn.models = bn.models || {};
  bn.models.graph = {
    initial, act, numbers, words, stepWords, nameOf, stepOf, happens, edgeName,
    STEPS, LAST, EDGES, REACH,
  };
})((window.bnPlay = window.bnPlay || {}));
