"""The C++ kernel of :mod:`bnutils.fast`: what is done to each channel and value (chapter 16)."""

FORWARD = r"""
// one batch more: the weight of its statistics; None as momentum is the plain average
double count_batch(const Tensor& mean, const Tensor& var, const Tensor& count,
                   std::optional<double> momentum) {
  double factor = momentum.value_or(0);
  if (count.defined()) {
    const int64_t n = ++*count.data_ptr<int64_t>();
    if (!momentum) factor = 1.0 / n;
  }
  for (auto* t : {&mean, &var, &count})
    if (t->defined()) t->unsafeGetTensorImpl()->bump_version();
  return factor;
}
// st: (5, C), the mean as high + low part, 1 / sqrt(var + eps), and two to work with:
// y = (x - high) * scale + shift. Before the sums `hi` is a value near the mean: nothing cancels
template <class T, bool Relu = false>
void forward(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& mean,
             const Tensor& var, Tensor st, Tensor y, bool batch, double factor, double eps) {
  const Shape s = shape(x);
  const T *xp = in<T>(x), *wp = in<T>(w), *bp = in<T>(b);
  T *yp = y.mutable_data_ptr<T>(), *hi = st.mutable_data_ptr<T>();
  T *lo = hi + s.C, *inv = lo + s.C, *scale = inv + s.C, *shift = scale + s.C;
  T *mp = mean.defined() ? (T*)mean.data_ptr() : nullptr, *vp = mp ? (T*)var.data_ptr() : nullptr;
  const double m = s.N * s.L;
  const int64_t few = std::min<int64_t>(s.L > 1 ? s.L : s.N, 8), step = s.L > 1 ? 1 : s.C;
  std::fill_n(hi, s.C, T(0));
  for (int64_t r = 0; batch && r < few; ++r)
    for (int64_t c = 0; c < s.C; ++c) hi[c] += xp[c * s.L + r * step] / few;
  auto pair = [=](int64_t i, int64_t c, T& u, T& v) { u = xp[i] - hi[c]; v = u * u; };
  auto fold = [=](int64_t c, double sum, double square) {
    double off = sum / m, v = batch ? std::max(square / m - off * off, 0.0) : vp[c];
    const double mu = batch ? hi[c] + off : mp[c];
    if (batch && mp) {
      mp[c] = (1 - factor) * mp[c] + factor * mu;
      vp[c] = (1 - factor) * vp[c] + factor * v * (m / (m - 1));
    }
    hi[c] = mu; lo[c] = mu - (T)mu; inv[c] = 1 / std::sqrt(v + eps);
    scale[c] = inv[c] * (wp ? wp[c] : 1);
    shift[c] = (bp ? bp[c] : 0) - lo[c] * scale[c];
  };
  auto map = [=](int64_t i, int64_t c) {
    const T v = (xp[i] - hi[c]) * scale[c] + shift[c];
    yp[i] = Relu && v < 0 ? 0 : v;
  };
  run<T>(s, 2, batch, pair, fold, map);
}
"""

BACKWARD = r"""
template <class T, bool Relu = false>
void backward(const Tensor& dy, const Tensor& x, const Tensor& st, Tensor dx, Tensor dwb,
              bool batch) {
  const Shape s = shape(x);
  const T *gp = in<T>(dy), *xp = in<T>(x), *hi = in<T>(st);
  const T *lo = hi + s.C, *inv = lo + s.C, *scale = inv + s.C, *shift = scale + s.C;
  Tensor own = at::empty({2, s.C}, x.options());
  T *slope = own.mutable_data_ptr<T>(), *level = slope + s.C;
  T *dxp = dx.mutable_data_ptr<T>(), *dw = dwb.mutable_data_ptr<T>(), *db = dw + s.C;
  const double m = s.N * s.L;
  auto grad = [=](int64_t i, int64_t c) {
    const T v = gp[i], y = (xp[i] - hi[c]) * scale[c] + shift[c];
    return Relu && y <= 0 ? T(0) : v;
  };
  auto pair = [=](int64_t i, int64_t c, T& u, T& v) { v = grad(i, c); u = v * (xp[i] - hi[c]); };
  auto fold = [=](int64_t c, double dot, double sum) {  // Eq. (3.7), folded per channel
    dot -= lo[c] * sum;
    dw[c] = dot * inv[c]; db[c] = sum;
    slope[c] = scale[c] * (dot * inv[c] * inv[c] / m);
    level[c] = scale[c] * (sum / m) - slope[c] * lo[c];
  };
  auto map = [=](int64_t i, int64_t c) {
    dxp[i] = grad(i, c) * scale[c] - (xp[i] - hi[c]) * slope[c] - level[c];
  };
  auto line = [=](int64_t i, int64_t c) { dxp[i] = grad(i, c) * scale[c]; };
  if (batch) run<T>(s, 3, true, pair, fold, map);
  else run<T>(s, 3, true, pair, fold, line);
}
"""
