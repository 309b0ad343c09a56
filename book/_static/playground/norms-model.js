// Figure "norms", the model: the output of a small convolution, and the norms that differ only in
// which of its numbers share a mean. No page in here. The tests hold it to PyTorch and `bnutils`.
(function (bn) {
  "use strict";
  const N = 4, C = 4, L = 4; // samples, channels, positions
  const SIZE = 8, KERNEL = 4; // pixels of a digit and of a kernel, along one side
  const EPS = 1e-5;

  // Digits of scikit-learn's load_digits, by their place there: a letter per pixel, A for 0 to Q
  // for 16, row by row.
  const IMAGES = {
    3: "AAHPNBAAAINGPEAAACBNNAAAAACPLBAAAAABMMBAAAAABKIAAAIEFOJAAAHNNJAA",
    1: "AAAMNFAAAAALQJAAAADPQGAAAHPQQCAAAABQQDAAAABQQGAAAABQQGAAAAALQKAA",
    0: "AAFNJBAAAANPKPFAADPCALIAAEMAAIIAAFIAAJIAAELABMHAACOFKMAAAAGNKAAA",
    4: "AAABLAAAAAAHIAAAAABNGCCAAAHPAJIAAFQKAQGAAEPQNQBAAAADPKAAAAACQEAA",
    7: "AAHINQPBAAHHELMAAAAAINBAAEIIPPGAACLPPEAAAAAQFAAAAAJPBAAAAANFAAAA",
    blank: "A".repeat(SIZE * SIZE),
  };
  const FIRST = ["3", "1", "0"]; // the last of the four is the reader's choice
  const LAST = { 4: "the digit 4", 7: "the digit 7", blank: "an empty image" };

  // The weights of the convolution, as signs: ink, left minus right, top minus bottom, and one
  // diagonal minus the other. It takes steps of four pixels, so it has 2 x 2 positions.
  const SIGNS = [
    () => 1,
    (row, col) => (col < 2 ? 1 : -1),
    (row, col) => (row < 2 ? 1 : -1),
    (row, col) => (row < 2 === col < 2 ? 1 : -1),
  ];
  const BIAS = [0, 0, 1, -1.5];
  // What each channel has learned, the same in all four norms.
  const GAMMA = [1, 0.5, 1.5, 1], BETA = [1, 0, -1, 0];

  const index = (n, c, l) => (n * C + c) * L + l;
  const place = (i) => ({ n: Math.floor(i / (C * L)), c: Math.floor(i / L) % C, l: i % L });
  const pixels = (name) => Array.from(IMAGES[name], (letter) => letter.charCodeAt(0) - 65);

  // The four samples of a batch: names of images to 64 numbers.
  function convolved(names) {
    return names.flatMap((name) => {
      const image = pixels(name);
      return SIGNS.flatMap((sign, c) =>
        Array.from({ length: L }, (_, l) => {
          const top = KERNEL * Math.floor(l / 2), left = KERNEL * (l % 2);
          let total = BIAS[c];
          for (let row = 0; row < KERNEL; row++) {
            for (let col = 0; col < KERNEL; col++) {
              // Half of the pixel's share of full ink, which keeps the numbers within ±3.
              total += (sign(row, col) * image[(top + row) * SIZE + left + col]) / 32;
            }
          }
          return total;
        }),
      );
    });
  }

  // The norms. `owner` says to which set of numbers an element belongs: those share a mean and a
  // variance. This one function makes the statistics, the outlines and what lights up.
  const KINDS = {
    batch: { sets: C, owner: (n, c) => c },
    layer: { sets: N, owner: (n) => n },
    group: { sets: 2 * N, owner: (n, c) => 2 * n + Math.floor(c / 2) },
    instance: { sets: C * N, owner: (n, c) => n * C + c },
  };

  // From 64 numbers and a norm to the statistics and to all that is shown on the way.
  function normalised(x, kind) {
    const { sets, owner } = KINDS[kind];
    const owners = x.map((_, i) => owner(place(i).n, place(i).c));
    const members = Array.from({ length: sets }, (_, s) => x.filter((_, i) => owners[i] === s));
    const stats = members.map((values) => bn.math.stats(values));
    const mean = stats.map((one) => one.mean), variance = stats.map((one) => one.var);
    const centred = x.map((v, i) => v - mean[owners[i]]);
    const xHat = centred.map((v, i) => v / Math.sqrt(variance[owners[i]] + EPS));
    const y = xHat.map((v, i) => GAMMA[place(i).c] * v + BETA[place(i).c]);
    return { owners, sets, mean, var: variance, x, centred, xHat, y };
  }

  function initial(preset) {
    return { kind: preset in KINDS ? preset : "batch", time: 0, cell: null, last: "4" };
  }

  // Actions: { kind }, { time } from 0 to 4, { cell } or null, { last }.
  function act(state, action) {
    const [[key, value]] = Object.entries(action);
    return state[key] === value ? state : { ...state, [key]: value };
  }

  function numbers(state) {
    const of = (last) => normalised(convolved([...FIRST, last]), state.kind);
    const now = of(state.last), usual = of("4");
    const others = now.y.slice(0, FIRST.length * C * L);
    // Outputs of the other three digits that the choice of the last one has changed.
    const moved = others.filter((v, i) => v !== usual.y[i]).length;
    return { ...now, moved };
  }

  // What the cells show at a time: x at 0 and 1, then on the way to the next whole step.
  function shown(given, time) {
    const steps = [given.x, given.x, given.centred, given.xHat, given.y];
    const from = Math.min(3, Math.floor(time)), part = time - from;
    return steps[from].map((v, i) => (1 - part) * v + part * steps[from + 1][i]);
  }

  const STEPS = ["the numbers x", "their means μ", "minus μ", "divided by σ", "times γ, plus β"];
  const NAMES = { batch: "Batch norm", layer: "Layer norm", group: "Group norm", instance: "Instance norm" };
  const SHARE = {
    batch: "a channel, over all four examples,",
    layer: "an example, over all its channels,",
    group: "an example in two neighbouring channels",
    instance: "one example in one channel",
  };
  const GROUPS = ["channels 0 and 1", "channels 2 and 3"];

  // The name of a set, for its line beside the picture.
  const SET = {
    batch: (s) => `channel ${s}`,
    layer: (s) => `example ${s}`,
    group: (s) => `example ${Math.floor(s / 2)}, ${GROUPS[s % 2]}`,
    instance: (s) => `example ${Math.floor(s / C)}, channel ${s % C}`,
  };
  const setName = (kind, s) => SET[kind](s);

  // What a step shows, for all numbers.
  function ofStep(kind, sets, step) {
    const size = (N * C * L) / sets;
    return [
      "Sixty-four numbers: four examples, four channels, two by two positions. A channel is what one kernel of a convolution finds in each quarter of an image.",
      `${NAMES[kind]}: the ${size} numbers of ${SHARE[kind]} share one mean μ and one standard deviation σ. There are ${sets} such sets.`,
      `Each number minus the mean of its set: all ${sets} sets have mean 0.`,
      `Then divided by the σ of its set: all ${sets} sets have mean 0 and standard deviation 1.`,
      "Each channel times its γ, plus its β. These two are learned, and belong to the channel in every one of the four norms.",
    ][step];
  }

  // What a step shows, for one number.
  function ofCell(kind, given, cell, step) {
    const { n, c, l } = place(cell), s = given.owners[cell], { show } = bn.math;
    const others = (N * C * L) / given.sets - 1;
    const value = shown(given, step)[cell];
    return `Example ${n}, channel ${c}, position ${l}: ${show(value)}. It shares μ = ${show(given.mean[s])} and σ = ${show(Math.sqrt(given.var[s]))} with ${others} others: ${setName(kind, s)}.`;
  }

  function words(state) {
    const given = numbers(state), step = Math.round(state.time);
    const first = state.cell === null
      ? ofStep(state.kind, given.sets, step)
      : ofCell(state.kind, given, state.cell, step);
    if (state.last === "4") return first;
    const count = given.moved || "None";
    return `${first} ${count} of the 48 outputs y of the other examples changed when the last image became ${LAST[state.last]}.`;
  }

  bn.models = bn.models || {};
  bn.models.norms = { initial, act, numbers, words, shown, place, index, setName, convolved, normalised, pixels };
  Object.assign(bn.models.norms, { N, C, L, FIRST, LAST, SIGNS, STEPS, KINDS: Object.keys(KINDS), IMAGES, GAMMA, BETA });
})((window.bnPlay = window.bnPlay || {}));
