// Batch normalisation of one channel, as arrays of numbers. No page in here, only
// arithmetic, and numbers as readers want them.
// The tests compare each function with the one of `bnutils` that has the same job.
(function (bn) {
  "use strict";

  const sum = (values) => values.reduce((total, v) => total + v, 0);
  const mean = (values) => sum(values) / values.length;

  // Mean and biased variance, in two passes.
  function stats(x) {
    const m = mean(x);
    return { mean: m, var: mean(x.map((v) => (v - m) ** 2)) };
  }

  // y = weight * (x - mean) / sqrt(var + eps) + bias, with given statistics.
  function normalize(x, given, weight, bias, eps) {
    const inv = 1 / Math.sqrt(given.var + eps);
    const xHat = x.map((v) => (v - given.mean) * inv);
    return { ...given, inv, xHat, y: xHat.map((v) => weight * v + bias) };
  }

  // The same with the batch's own statistics: training mode.
  const forward = (x, weight, bias, eps) => normalize(x, stats(x), weight, bias, eps);

  // Gradients of the loss by input, weight and bias, from the gradient dy by the output.
  function backward(dy, pass, weight) {
    const dWeight = sum(dy.map((g, n) => g * pass.xHat[n]));
    const dBias = sum(dy);
    const m = dy.length;
    const dx = dy.map(
      (g, n) => weight * pass.inv * (g - dBias / m - (pass.xHat[n] * dWeight) / m),
    );
    return { dx, dWeight, dBias };
  }

  // New running statistics after a batch of m values. momentum null: the plain average.
  function track(running, batch, m, momentum) {
    const count = running.count + 1;
    const a = momentum === null ? 1 / count : momentum;
    const mix = (old, now) => (1 - a) * old + a * now;
    return {
      count,
      mean: mix(running.mean, batch.mean),
      var: mix(running.var, (batch.var * m) / (m - 1)), // unbiased, as PyTorch stores it
      left: running.left * (1 - a), // the weight that the initial values still have
    };
  }

  const start = () => ({ count: 0, mean: 0, var: 1, left: 1 });

  // Random numbers from a seed (mulberry32): the same ones on every visit.
  function random(seed) {
    let state = seed >>> 0;
    function uniform() {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    }
    function normal() {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      return radius * Math.cos(2 * Math.PI * uniform());
    }
    return { uniform, normal };
  }

  // A number for readers: a true minus sign, never "-0.00", words where there is no number.
  function show(value, digits = 2) {
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (Math.abs(value) >= 1e4) return value.toExponential(1).replace("-", "−");
    const text = value.toFixed(digits);
    return /^-0\.?0*$/.test(text) ? text.slice(1) : text.replace("-", "−");
  }

  bn.math = { show, sum, mean, stats, normalize, forward, backward, track, start, random };
})((window.bnPlay = window.bnPlay || {}));
