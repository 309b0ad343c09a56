// A small fully connected network with ReLU, with or without batch normalisation, trained by
// plain gradient descent. Matrices are flat Float64Arrays, row by row. No page in here.
(function (bn) {
  "use strict";
  const MOMENTUM = 0.1;
  const EPS = 1e-5;

  // One layer: weights (outputs x inputs), bias and, if wanted, the norm's numbers.
  function layer(inputs, outputs, scale, norm, rng) {
    const w = Float64Array.from({ length: inputs * outputs }, () => rng.normal());
    const std = scale * Math.sqrt(2 / inputs); // He et al., times the scale
    const fill = (v) => new Float64Array(outputs).fill(v);
    return {
      inputs,
      outputs,
      w: w.map((v) => v * std),
      b: fill(0),
      norm: norm ? { weight: fill(1), bias: fill(0), mean: fill(0), var: fill(1) } : null,
    };
  }

  // Networks of one seed start from the same weights, with or without norm.
  function create(sizes, { norm, scale, seed }) {
    const rng = bn.math.random(seed);
    const last = sizes.length - 2;
    return sizes.slice(1).map((outputs, l) =>
      layer(sizes[l], outputs, scale, norm && l < last, rng),
    );
  }

  function linear(x, n, { inputs, outputs, w, b }) {
    const z = new Float64Array(n * outputs);
    for (let i = 0; i < n; i++) {
      for (let o = 0; o < outputs; o++) {
        let total = b[o];
        const row = o * inputs, at = i * inputs;
        for (let k = 0; k < inputs; k++) total += x[at + k] * w[row + k];
        z[i * outputs + o] = total;
      }
    }
    return z;
  }

  // Mean and biased variance of each column of z (n x c).
  function columns(z, n, c) {
    const mean = new Float64Array(c), variance = new Float64Array(c);
    for (let i = 0; i < n * c; i++) mean[i % c] += z[i] / n;
    for (let i = 0; i < n * c; i++) variance[i % c] += (z[i] - mean[i % c]) ** 2 / n;
    return { mean, var: variance };
  }

  function normalize(z, n, c, norm, training) {
    const used = training ? columns(z, n, c) : norm;
    if (training) {
      for (let j = 0; j < c; j++) {
        norm.mean[j] += MOMENTUM * (used.mean[j] - norm.mean[j]);
        norm.var[j] += MOMENTUM * ((used.var[j] * n) / (n - 1) - norm.var[j]);
      }
    }
    const inv = used.var.map((v) => 1 / Math.sqrt(v + EPS));
    const xHat = z.map((v, i) => (v - used.mean[i % c]) * inv[i % c]);
    return { xHat, inv, y: xHat.map((v, i) => norm.weight[i % c] * v + norm.bias[i % c]) };
  }

  // The whole network; returns what the backward pass needs, layer by layer.
  function forward(net, x, n, training) {
    const passes = [];
    let a = x;
    net.forEach((part, l) => {
      const pass = { x: a, y: linear(a, n, part) };
      if (part.norm) Object.assign(pass, normalize(pass.y, n, part.outputs, part.norm, training));
      a = l < net.length - 1 ? pass.y.map((v) => (v > 0 ? v : 0)) : pass.y;
      passes.push(pass);
    });
    return passes;
  }

  // Mean cross-entropy, its gradient by the scores (n x c), and the share of right answers.
  function loss(scores, labels, n) {
    const c = scores.length / n, grad = new Float64Array(scores.length);
    let total = 0, right = 0;
    for (let i = 0; i < n; i++) {
      const row = scores.subarray(i * c, (i + 1) * c);
      const top = row.reduce((m, v) => (v > m ? v : m), -Infinity);
      const e = row.map((v) => Math.exp(v - top));
      const all = e.reduce((s, v) => s + v, 0);
      total += Math.log(all) - (row[labels[i]] - top);
      if (row[labels[i]] === top) right += 1;
      for (let j = 0; j < c; j++) grad[i * c + j] = (e[j] / all - (j === labels[i])) / n;
    }
    return { loss: total / n, accuracy: right / n, grad };
  }

  // Through the norm of one layer; returns the gradient by its input and moves its parameters.
  function backNorm(dy, n, c, pass, norm, lr) {
    const dWeight = new Float64Array(c), dBias = new Float64Array(c);
    for (let i = 0; i < n * c; i++) {
      dWeight[i % c] += dy[i] * pass.xHat[i];
      dBias[i % c] += dy[i];
    }
    const dz = dy.map((g, i) => {
      const j = i % c;
      return norm.weight[j] * pass.inv[j] * (g - dBias[j] / n - (pass.xHat[i] * dWeight[j]) / n);
    });
    for (let j = 0; j < c; j++) {
      norm.weight[j] -= lr * dWeight[j];
      norm.bias[j] -= lr * dBias[j];
    }
    return dz;
  }

  // Through the linear part; returns the gradient by its input and moves its parameters.
  function backLinear(dz, n, x, { inputs, outputs, w, b }, lr) {
    const dw = new Float64Array(w.length), dx = new Float64Array(n * inputs);
    for (let i = 0; i < n; i++) {
      for (let o = 0; o < outputs; o++) {
        const g = dz[i * outputs + o], row = o * inputs, at = i * inputs;
        if (g === 0) continue;
        for (let k = 0; k < inputs; k++) {
          dw[row + k] += g * x[at + k];
          dx[at + k] += g * w[row + k];
        }
      }
    }
    for (let k = 0; k < w.length; k++) w[k] -= lr * dw[k];
    for (let i = 0; i < dz.length; i++) b[i % outputs] -= lr * dz[i];
    return dx;
  }

  // One step of gradient descent on a batch; the loss before it.
  function train(net, x, labels, n, lr) {
    const passes = forward(net, x, n, true);
    const found = loss(passes[net.length - 1].y, labels, n);
    let grad = found.grad;
    for (let l = net.length - 1; l >= 0; l--) {
      const part = net[l], pass = passes[l];
      if (l < net.length - 1) grad = grad.map((g, i) => (pass.y[i] > 0 ? g : 0));
      if (part.norm) grad = backNorm(grad, n, part.outputs, pass, part.norm, lr);
      grad = backLinear(grad, n, pass.x, part, lr);
    }
    return found.loss;
  }

  // Evaluation mode: loss, accuracy and what each hidden layer feeds to its ReLU.
  function evaluate(net, x, labels, n) {
    const passes = forward(net, x, n, false);
    const { loss: value, accuracy } = loss(passes[net.length - 1].y, labels, n);
    return { loss: value, accuracy, hidden: passes.slice(0, -1).map((p) => p.y) };
  }

  // Shares of the values in equal bins; what lies outside counts in the outermost ones.
  function histogram(values, low, high, bins) {
    const shares = new Array(bins).fill(0);
    for (const v of values) {
      const bin = Math.floor(((v - low) / (high - low)) * bins);
      if (!Number.isNaN(bin)) shares[Math.min(bins - 1, Math.max(0, bin))] += 1 / values.length;
    }
    return shares;
  }

  bn.mlp = { create, train, evaluate, histogram, linear, columns };
})((window.bnPlay = window.bnPlay || {}));
