"""The C++ kernel of :mod:`bnutils.fast`, its loops; chapter 16 shows parts of them.

One channel belongs to one thread, which reads it for the statistics and, while it is still in
the cache, once more to normalise. Sums are in double precision, relative to a value near the mean.
"""

PASSES = r"""
#include <ATen/Parallel.h>
#include <torch/extension.h>
#include <optional>
using at::Tensor;
using Maybe = std::optional<Tensor>;
constexpr int64_t W = 128;  // at most so many channels side by side; with L > 1 one
struct Shape { int64_t N, C, L; };
template <class F> void over_channels(Shape s, int arrays, F f) {  // f(first, width)
  int64_t share = (s.C / at::get_num_threads() + 15) / 16 * 16;
  int64_t step = s.L > 1 ? 1 : std::clamp<int64_t>(share, 16, W), jobs = (s.C + step - 1) / step;
  int64_t grain = std::max<int64_t>(1, 32768 / (s.N * s.L * step * arrays));
  at::parallel_for(0, jobs, grain, [&](int64_t a, int64_t b) {
    for (; a < b; ++a) f(a * step, std::min(step, s.C - a * step));
  });
}
// f(i, j): i in the array, j the channel counted from `first`; every value of the channels
template <class F> inline void each(Shape s, int64_t first, int64_t w, F f) {
  for (int64_t n = 0; n < s.N; ++n) {
    const int64_t i = (n * s.C + first) * s.L;
    if (s.L > 1) {
      #pragma omp simd
      for (int64_t l = 0; l < s.L; ++l) f(i + l, 0);
    } else {
      #pragma omp simd
      for (int64_t j = 0; j < w; ++j) f(i + j, j);
    }
  }
}
// adds g(i, j, u, v), which sets u and v, to the sums a[j] and b[j]: eight values in T,
// and those in double; with L > 1 in W places that are summed at the end
template <class T, class G>
inline void sums(Shape s, int64_t first, int64_t w, double* a, double* b, G g) {
  const bool one = s.L > 1;
  T p[W] = {}, q[W] = {};
  std::fill_n(a, W, 0.0);
  std::fill_n(b, W, 0.0);
  const int64_t all = one ? s.L : 1, used = one ? std::min(W, s.L) : w;
  int64_t filled = 0;
  auto flush = [&] {
    #pragma omp simd
    for (int64_t j = 0; j < used; ++j) { a[j] += p[j]; b[j] += q[j]; p[j] = q[j] = 0; }
    filled = 0;
  };
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t l = 0; l < all; l += W) {
      const int64_t i = (n * s.C + first) * s.L + l, width = one ? std::min(W, all - l) : w;
      if (one) {
        #pragma omp simd
        for (int64_t j = 0; j < width; ++j) { T u, v; g(i + j, 0, u, v); p[j] += u; q[j] += v; }
      } else {
        #pragma omp simd
        for (int64_t j = 0; j < width; ++j) { T u, v; g(i + j, j, u, v); p[j] += u; q[j] += v; }
      }
      if (++filled == 8) flush();
    }
  flush();
  for (int64_t j = 1; one && j < W; ++j) { a[0] += a[j]; b[0] += b[j]; }
}
template <class T> const T* in(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}
Shape shape(const Tensor& x) { return {x.size(0), x.size(1), x.dim() == 3 ? x.size(2) : 1}; }
"""

FORWARD = r"""
// st: (3, C), the mean as high + low part, and 1 / sqrt(var + eps)
template <class T>
void forward(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& mean,
             const Tensor& var, Tensor st, Tensor y, bool batch, double factor, double eps) {
  const Shape s = shape(x);
  const T *xp = in<T>(x), *wp = in<T>(w), *bp = in<T>(b);
  T *yp = y.mutable_data_ptr<T>(), *hi = st.mutable_data_ptr<T>();
  T *lo = hi + s.C, *inv = lo + s.C;
  T *mp = mean.defined() ? (T*)mean.data_ptr() : nullptr, *vp = mp ? (T*)var.data_ptr() : nullptr;
  const double m = s.N * s.L;
  over_channels(s, 2, [=](int64_t first, int64_t width) {
    double sum[W], square[W];
    T k[W], high[W], low[W], scale[W], shift[W];
    const int64_t few = s.L > 1 ? std::min<int64_t>(s.L, 8) : std::min<int64_t>(s.N, 8);
    for (int64_t j = 0; j < width; ++j) {  // k: near the mean, so that nothing cancels
      double near = 0;
      for (int64_t r = 0; r < few; ++r) near += xp[(first + j) * s.L + r * (s.L > 1 ? 1 : s.C)];
      k[j] = near / few;
    }
    if (batch) sums<T>(s, first, width, sum, square, [&](int64_t i, int64_t j, T& u, T& v) {
      u = xp[i] - k[j]; v = u * u;
    });
    for (int64_t j = 0; j < width; ++j) {
      const int64_t c = first + j;
      double mu = batch ? sum[j] / m : mp[c];
      double v = batch ? std::max(square[j] / m - mu * mu, 0.0) : vp[c];
      if (batch && square[j] != square[j]) v = square[j];  // NaN stays NaN
      if (batch) mu += k[j];
      if (batch && mp) {
        mp[c] = (1 - factor) * mp[c] + factor * mu;
        vp[c] = (1 - factor) * vp[c] + factor * v * (m / (m - 1));
      }
      hi[c] = high[j] = mu; lo[c] = low[j] = mu - (T)mu; inv[c] = 1 / std::sqrt(v + eps);
      scale[j] = inv[c] * (wp ? wp[c] : 1); shift[j] = bp ? bp[c] : 0;
    }
    each(s, first, width, [&](int64_t i, int64_t j) {
      yp[i] = (xp[i] - high[j] - low[j]) * scale[j] + shift[j];
    });
  });
}
"""

BACKWARD = r"""
template <class T>
void backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& st,
              Tensor dx, Tensor dwb, bool batch) {
  const Shape s = shape(x);
  const T *gp = in<T>(dy), *xp = in<T>(x), *wp = in<T>(w), *hi = in<T>(st);
  const T *lo = hi + s.C, *inv = lo + s.C;
  T *dxp = dx.mutable_data_ptr<T>(), *dw = dwb.mutable_data_ptr<T>(), *db = dw + s.C;
  const double m = s.N * s.L;
  over_channels(s, 3, [=](int64_t first, int64_t width) {
    double dot[W], sum[W];
    T high[W], low[W], scale[W], a[W], b[W];
    for (int64_t j = 0; j < width; ++j) high[j] = hi[first + j], low[j] = lo[first + j];
    sums<T>(s, first, width, dot, sum, [&](int64_t i, int64_t j, T& u, T& v) {
      v = gp[i]; u = v * (xp[i] - high[j] - low[j]);
    });
    for (int64_t j = 0; j < width; ++j) {  // Eq. (3.7), with everything per channel folded
      const int64_t c = first + j;
      dw[c] = dot[j] * inv[c]; db[c] = sum[j]; scale[j] = inv[c] * (wp ? wp[c] : 1);
      a[j] = batch ? sum[j] / m : 0; b[j] = batch ? dot[j] * inv[c] * inv[c] / m : 0;
    }
    each(s, first, width, [&](int64_t i, int64_t j) {
      dxp[i] = scale[j] * (gp[i] - a[j] - (xp[i] - high[j] - low[j]) * b[j]);
    });
  });
}
"""
