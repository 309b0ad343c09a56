"""The C++ of a whole training step of a multilayer perceptron: chapter 3's formulas in a row.

Linear, BatchNorm and ReLU are one block; memory is kept from step to step, no graph is made,
and SGD follows as soon as the gradients are there. Used by ``train.fit(engine="fused")``.
"""

STEP = r"""
struct Learned { Tensor value, grad, velocity; };  // all undefined for one that is not there
struct Block {  // Linear, BatchNorm or not, ReLU; the last block is a Linear alone
  Learned weight, bias, gain, offset;
  Tensor mean, var, count, z, a, st, both;  // z: what the Linear makes, a: what the block makes
  bool norm; std::optional<double> momentum; double eps;
};
Learned learned(const Maybe& p) {
  if (!p) return {};
  return {p->detach(), at::zeros_like(p->detach()), at::zeros_like(p->detach())};
}
// cross-entropy and hits, or NaN and ~row of a label out of range; the logits become its gradient
template <class T>
std::pair<double, int64_t> cross_entropy(Tensor logits, const Tensor& target, double smoothing) {
  const int64_t B = logits.size(0), C = logits.size(1), *y = target.const_data_ptr<int64_t>();
  const double low = smoothing / C;
  double loss = 0;
  int64_t hits = 0;
  T* p = logits.mutable_data_ptr<T>();
  for (int64_t r = 0; r < B; ++r, p += C) {
    if (y[r] < 0 || y[r] >= C) return {NAN, ~r};
    const int64_t best = std::max_element(p, p + C) - p;
    const T top = p[best];
    hits += best == y[r];
    double sum = 0, mean = 0;
    const double own = p[y[r]] - top;
    for (int64_t c = 0; c < C; ++c) {
      mean += (p[c] - top) / C;
      sum += p[c] = std::exp(p[c] - top);
    }
    loss += std::log(sum) - (1 - smoothing) * own;
    if (smoothing > 0) loss -= smoothing * mean;  // else 0 times an infinite mean
    for (int64_t c = 0; c < C; ++c)
      p[c] = (p[c] / sum - low - (c == y[r] ? 1 - smoothing : 0)) / B;
  }
  return {loss / B, hits};
}
// SGD with Nesterov momentum, as PyTorch writes it; momentum 0 is plain SGD
template <class T>
void update(Learned& p, double rate, double momentum, double decay) {
  if (!p.value.defined()) return;
  T *value = p.value.mutable_data_ptr<T>(), *velocity = p.velocity.mutable_data_ptr<T>();
  const T *grad = p.grad.const_data_ptr<T>(), lr = rate, mu = momentum, wd = decay;
  at::parallel_for(0, p.value.numel(), 16384, [=](int64_t i, int64_t end) {
    #pragma omp simd
    for (int64_t k = i; k < end; ++k) {
      const T g = grad[k] + wd * value[k], v = mu * velocity[k] + g;
      velocity[k] = v;
      value[k] -= lr * (g + mu * v);
    }
  });
  p.value.unsafeGetTensorImpl()->bump_version();
}
struct Step {
  std::vector<Block> blocks;
  double momentum, decay, smoothing;
  Step(double momentum, double decay, double smoothing)
      : momentum(momentum), decay(decay), smoothing(smoothing) {}
  void add(const Tensor& w, const Maybe& b, bool norm, const Maybe& gain, const Maybe& offset,
           const Maybe& mean, const Maybe& var, const Maybe& count,
           std::optional<double> factor, double eps) {
    auto empty = [&](at::IntArrayRef size) { return at::empty(size, w.detach().options()); };
    const int64_t C = w.size(0);
    Block k{learned(w), learned(b), learned(gain), learned(offset), given(mean),
            given(var), given(count), empty({0, C}), empty({0, C}), empty({5, C}),
            empty({2, C}), norm, factor, eps};
    if (gain) k.gain.grad = k.both.select(0, 0);
    if (offset) k.offset.grad = k.both.select(0, 1);
    blocks.push_back(k);
  }
  template <class T> void normalize(Block& k) {
    const double factor = count_batch(k.mean, k.var, k.count, k.momentum);
    ::forward<T, true>(k.z, k.gain.value, k.offset.value, k.mean, k.var, k.st, k.a, true,
                       factor, k.eps);
    // the Linear's bias was left out: it moves the mean, and nothing else (chapter 2)
    if (k.mean.defined() && k.bias.value.defined()) k.mean.add_(k.bias.value, factor);
  }
  template <class T> void forward(const Tensor& x) {
    Tensor in = x;
    for (auto& k : blocks) {
      k.z.resize_({x.size(0), k.z.size(1)}); k.a.resize_(k.z.sizes());
      if (k.norm || !k.bias.value.defined()) at::mm_out(k.z, in, k.weight.value.t());
      else at::addmm_out(k.z, k.bias.value, in, k.weight.value.t());
      if (k.norm) normalize<T>(k);
      else if (&k != &blocks.back()) at::clamp_min_out(k.a, k.z, 0);
      in = k.a;
    }
  }
  template <class T> void backward(const Tensor& x) {
    Tensor d = blocks.back().z;
    for (size_t i = blocks.size(); i-- > 0;) {
      Block& k = blocks[i];
      if (&k != &blocks.back()) {  // d is the gradient of a; it becomes that of z
        if (k.norm) ::backward<T, true>(d, k.z, k.st, d, k.both, true);
        else at::threshold_backward_out(d, d, k.z, 0);
      }
      if (!k.norm && k.bias.value.defined()) at::sum_out(k.bias.grad, d, 0);
      at::mm_out(k.weight.grad, d.t(), i ? blocks[i - 1].a : x);
      if (i) d = at::mm_out(blocks[i - 1].a, d, k.weight.value);  // a is not needed any more
    }
  }
  template <class T>
  std::pair<double, int64_t> take(const Tensor& x, const Tensor& y, double lr) {
    forward<T>(x);
    auto found = cross_entropy<T>(blocks.back().z, y, smoothing);
    if (!std::isfinite(found.first)) return found;  // no update then
    backward<T>(x);
    for (auto& k : blocks)
      for (auto* p : {&k.weight, &k.bias, &k.gain, &k.offset})
        update<T>(*p, lr, momentum, decay);
    return found;
  }
  std::pair<double, int64_t> operator()(const Tensor& x, const Tensor& y, double lr) {
    at::NoGradGuard guard;
    return x.scalar_type() == at::kFloat ? take<float>(x, y, lr) : take<double>(x, y, lr);
  }
};
"""
