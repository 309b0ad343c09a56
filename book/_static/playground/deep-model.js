// Figure "deep", the model: what 24 layers make of a signal and of its gradient, at one gain for
// all layers, with batch norm (γ = 1, β = 0) in the layers of one's choice. No page in here.
(function (bn) {
  "use strict";
  const LAYERS = 24;
  const WIDTH = 64; // channels of each layer
  const ROWS = 64; // examples in the batch
  const EPS = 1e-5;
  const BINS = 32;
  const TIMES = 4; // histograms of ReLU end at four times the layer's size
  // From 1/4 to 8. A step is 9 % for a layer and, over 24 layers, a factor of 8.
  const GAINS = Array.from({ length: 41 }, (_, k) => 2 ** ((k - 16) / 8));
  const PLACES = {
    none: [],
    middle: [12],
    some: [6, 12, 18, 24],
    all: Array.from({ length: LAYERS }, (_, l) => l + 1),
  };

  // The still shows what a single norm does.
  function initial(preset) {
    const state = { gain: 1, activation: "tanh", norms: [], seed: 1, layer: LAYERS };
    return preset === "still" ? { ...state, gain: 2 ** -0.5, norms: PLACES.middle, layer: 12 } : state;
  }
  const placesOf = (norms) => Object.keys(PLACES).find((key) => String(PLACES[key]) === String(norms));

  function act(state, { type, to }) {
    if (type === "gain" && GAINS.includes(to)) return { ...state, gain: to };
    if (type === "activation" && (to === "tanh" || to === "relu")) return { ...state, activation: to };
    if (type === "places" && to in PLACES) return { ...state, norms: PLACES[to].slice() };
    if (type === "seed" && +to >= 1) return { ...state, seed: +to };
    if (type === "layer" && to >= 1 && to <= LAYERS) return to === state.layer ? state : { ...state, layer: to };
    if (type === "norm" && to >= 1 && to <= LAYERS) {
      const others = state.norms.filter((l) => l !== to);
      const norms = others.length < state.norms.length ? others : [...others, to].sort((a, b) => a - b);
      return { ...state, norms, layer: to };
    }
    throw new Error(`no action ${type} to ${to}`);
  }

  // Weights of gain 1 (outputs x inputs, row by row), examples, and the gradient into layer 24.
  // They are drawn once for a seed; a gain only multiplies the weights.
  function create(seed) {
    const rng = bn.math.random(seed);
    const normals = (count, spread) => Float64Array.from({ length: count }, () => spread * rng.normal());
    return {
      weights: Array.from({ length: LAYERS }, () => normals(WIDTH * WIDTH, 1 / Math.sqrt(WIDTH))),
      x: normals(ROWS * WIDTH, 1),
      top: normals(ROWS * WIDTH, 1),
    };
  }

  // z = gain * h W, for h of shape (ROWS, WIDTH).
  function linear(h, w, gain) {
    const z = new Float64Array(h.length);
    for (let i = 0; i < h.length; i += WIDTH) {
      for (let o = 0; o < WIDTH; o++) {
        let total = 0;
        for (let k = 0; k < WIDTH; k++) total += h[i + k] * w[o * WIDTH + k];
        z[i + o] = gain * total;
      }
    }
    return z;
  }

  // The gradient by h, from the one by z.
  function backLinear(dz, w, gain) {
    const dh = new Float64Array(dz.length);
    for (let i = 0; i < dz.length; i += WIDTH) {
      for (let o = 0; o < WIDTH; o++) {
        const g = gain * dz[i + o];
        if (g === 0) continue; // a ReLU lets half of it through
        for (let k = 0; k < WIDTH; k++) dh[i + k] += g * w[o * WIDTH + k];
      }
    }
    return dh;
  }

  // The mean of each channel of v, or of the products of v and u.
  function channelMeans(v, u) {
    const means = new Float64Array(WIDTH);
    for (let i = 0; i < v.length; i++) means[i % WIDTH] += (u ? v[i] * u[i] : v[i]) / ROWS;
    return means;
  }

  function normalize(z) {
    const mean = channelMeans(z);
    const centred = z.map((v, i) => v - mean[i % WIDTH]);
    const variance = channelMeans(centred, centred);
    const inv = variance.map((v) => 1 / Math.sqrt(v + EPS));
    return { xHat: centred.map((v, i) => v * inv[i % WIDTH]), inv, spread: Math.sqrt(bn.math.mean([...variance])) };
  }

  // Chapter 3's closed form, with γ = 1.
  function backNorm(dy, { xHat, inv }) {
    const g = channelMeans(dy), gx = channelMeans(dy, xHat);
    return dy.map((v, i) => inv[i % WIDTH] * (v - g[i % WIDTH] - xHat[i] * gx[i % WIDTH]));
  }

  const ACTIVATIONS = {
    tanh: { of: Math.tanh, slope: (h) => 1 - h ** 2, extreme: (h) => Math.abs(h) > 0.99 },
    relu: { of: (z) => (z > 0 ? z : 0), slope: (h) => +(h > 0), extreme: (h) => h === 0 },
  };

  const rms = (v) => Math.sqrt(v.reduce((total, one) => total + one * one, 0) / v.length);

  // Shares of the values in equal bins: from -1 to 1 after tanh, from 0 to four times the
  // layer's size after ReLU; what lies beyond counts in the last one.
  function histogram(h, activation, size) {
    const shares = new Array(BINS).fill(0);
    const [low, high] = activation === "tanh" ? [-1, 1] : [0, TIMES * (size || 1)];
    for (const v of h) {
      const bin = Math.floor(((v - low) / (high - low)) * BINS);
      shares[Math.max(0, Math.min(BINS - 1, bin))] += 1 / h.length;
    }
    return shares;
  }

  // Both passes, a layer at a time: after each `yield` the page may draw and answer.
  function* passes({ weights, x, top }, { gain, activation, norms }) {
    const { of, slope, extreme } = ACTIVATIONS[activation];
    const found = { signal: [], gradient: [], shares: [], extreme: [], spread: [] };
    const kept = [];
    let h = x;
    for (let l = 0; l < LAYERS; l++) {
      const z = linear(h, weights[l], gain);
      const norm = norms.includes(l + 1) ? normalize(z) : null;
      h = (norm ? norm.xHat : z).map(of);
      kept.push({ h, norm });
      const size = rms(h);
      found.signal.push(size);
      found.shares.push(histogram(h, activation, size));
      found.extreme.push(h.filter(extreme).length / h.length);
      found.spread.push(norm ? norm.spread : null); // of what reaches this layer's norm
      yield;
    }
    let g = top;
    for (let l = LAYERS - 1; l >= 0; l--) {
      const { h: out, norm } = kept[l];
      found.gradient[l] = rms(g);
      const dz = g.map((v, i) => v * slope(out[i]));
      g = backLinear(norm ? backNorm(dz, norm) : dz, weights[l], gain);
      yield;
    }
    return found;
  }

  function run(network, choice) {
    const work = passes(network, choice);
    let next = work.next();
    while (!next.done) next = work.next();
    return next.value;
  }

  const numbers = (state) => run(create(state.seed), state);

  // A ReLU network without norm and bias is homogeneous: at another gain, the signal of layer l
  // is multiplied by ratio ** l and its gradient by ratio ** (24 - l). Nothing is computed anew.
  const homogeneous = (state) => state.activation === "relu" && !state.norms.length;
  function rescale(found, ratio) {
    return {
      ...found,
      signal: found.signal.map((v, l) => v * ratio ** (l + 1)),
      gradient: found.gradient.map((v, l) => v * ratio ** (LAYERS - l - 1)),
    };
  }

  // A size for readers, such as 0.63 or 4.0 · 10⁻⁸.
  function say(v) {
    if (v === 0) return "0";
    if (!Number.isFinite(v)) return Number.isNaN(v) ? "no number" : "∞";
    if (v >= 0.01 && v < 1000) return v.toPrecision(2).includes("e") ? v.toFixed(0) : v.toPrecision(2);
    const [digits, power] = v.toExponential(1).split("e");
    const raised = String(+power).replace("-", "⁻").replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
    return `${digits} · 10${raised}`;
  }
  const sayGain = (gain) => String(+gain.toFixed(2));
  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
  const NAMES = { tanh: "tanh", relu: "ReLU" };
  const EXTREME = { tanh: "of its values beyond ±0.99", relu: "of its values are 0" };

  function where(norms) {
    if (!norms.length) return "no BN";
    if (norms.length === LAYERS) return "BN in every layer";
    if (norms.length > 4) return `BN in ${norms.length} layers`;
    return `BN in layer${norms.length > 1 ? "s" : ""} ${norms.join(", ")}`;
  }

  // Both ends, in sentences.
  function endWords(state, { signal, gradient, extreme }) {
    const last = LAYERS - 1;
    return `${NAMES[state.activation]}, gain ${sayGain(state.gain)}, ${where(state.norms)}. ` +
      `Signal in layer 24: ${say(signal[last])}, ${percent(extreme[last])} ${EXTREME[state.activation]}. ` +
      `Gradient in layer 1: ${say(gradient[0])}.`;
  }
  // Why a norm does not repair what reaches it, where it does not.
  function weakWords(state, { spread }) {
    const weak = state.norms.find((l) => spread[l - 1] < Math.sqrt(EPS));
    return weak ? ` What reaches the BN of layer ${weak} is smaller than √ε = 0.003: divided by √(σ²+ε) it stays small.` : "";
  }
  const words = (state, found) => endWords(state, found) + weakWords(state, found);
  function layerWords(state, found) {
    const l = state.layer - 1;
    return `Layer ${state.layer}${state.norms.includes(state.layer) ? " with BN" : ""}: ` +
      `signal ${say(found.signal[l])}, gradient ${say(found.gradient[l])}, ` +
      `${percent(found.extreme[l])} ${EXTREME[state.activation]}.`;
  }

  bn.models = bn.models || {};
  bn.models.deep = {
    initial, act, placesOf, create, passes, run, numbers, homogeneous, rescale, words, endWords, weakWords, layerWords, say, sayGain,
    LAYERS, GAINS, PLACES, BINS, TIMES, EPS,
  };
})((window.bnPlay = window.bnPlay || {}));
