"""The C++ kernel of :mod:`bnutils.fast`: how it walks over the data; chapter 16 shows parts.

Input (N, C) is read row by row, each thread adding up its own rows; of input (N, C, L) a thread
owns whole channels and finds them in its cache when it reads them again. Sums are in double
precision from the ninth value on.
"""

PASSES = r"""
#include <ATen/Parallel.h>
#include <torch/extension.h>
#include <optional>
#ifdef __linux__
#include <sys/mman.h>
#endif
using at::Tensor;
using Maybe = std::optional<Tensor>;
Tensor given(const Maybe& t) { return t ? *t : Tensor(); }  // undefined for None
struct Shape { int64_t N, C, L; };
Shape shape(const Tensor& x) { return {x.size(0), x.size(1), x.dim() == 3 ? x.size(2) : 1}; }
// rows of length C (or L), so many per thread that starting the thread pays
int64_t grain(int64_t length, int arrays) {
  return std::max<int64_t>(1, 32768 / (length * arrays));
}
// adds f(r, j, u, v), which sets u and v, over the rows r of a range to a[j] and b[j]:
// R rows in T, and those in double
template <int R, class T, class F>
inline void add_rows(int64_t from, int64_t C, double* __restrict a, double* __restrict b, F f) {
  #pragma omp simd
  for (int64_t j = 0; j < C; ++j) {
    T su = 0, sv = 0;
    #pragma GCC unroll 8
    for (int r = 0; r < R; ++r) { T u, v; f((from + r) * C + j, j, u, v); su += u; sv += v; }
    a[j] += su; b[j] += sv;
  }
}
// the same for one channel of (N, C, L), in 16 places that are summed at the end
template <class T, class F>
inline void add_channel(Shape s, int64_t c, double& a, double& b, F f) {
  constexpr int W = 64 / sizeof(T) * 2;
  double A[W] = {}, B[W] = {};
  T p[W] = {}, q[W] = {};
  int64_t filled = 0;
  auto flush = [&] {
    #pragma omp simd
    for (int j = 0; j < W; ++j) { A[j] += p[j]; B[j] += q[j]; p[j] = q[j] = 0; }
    filled = 0;
  };
  for (int64_t n = 0; n < s.N; ++n) {
    const int64_t i = (n * s.C + c) * s.L;
    int64_t l = 0;
    for (; l + W <= s.L; l += W) {
      #pragma omp simd
      for (int j = 0; j < W; ++j) { T u, v; f(i + l + j, c, u, v); p[j] += u; q[j] += v; }
      if (++filled == 8) flush();
    }
    if (l < s.L) {
      #pragma omp simd
      for (int64_t j = 0; j < s.L - l; ++j) {
        T u, v;
        f(i + l + j, c, u, v); p[j] += u; q[j] += v;
      }
      if (++filled == 8) flush();
    }
  }
  flush();
  a = b = 0;
  for (int j = 0; j < W; ++j) { a += A[j]; b += B[j]; }
}
// sums of f, then fold(c, sum_u, sum_v) for each channel, then g(i, c) for each value
template <class T, class F, class H, class G>
void run(Shape s, int arrays, bool sums, F f, H fold, G g) {
  if (s.L > 1 && sums) {  // a thread owns a channel: the second pass finds it in the cache
    at::parallel_for(0, s.C, grain(s.N * s.L, arrays), [&](int64_t c, int64_t end) {
      for (; c < end; ++c) {
        double a, b;
        add_channel<T>(s, c, a, b, f);
        fold(c, a, b);
        for (int64_t n = 0; n < s.N; ++n) {
          const int64_t i = (n * s.C + c) * s.L;
          #pragma omp simd
          for (int64_t l = 0; l < s.L; ++l) g(i + l, c);
        }
      }
    });
    return;
  }
  const int64_t threads = at::get_num_threads(), row = grain(s.C, arrays);
  std::vector<double> all(sums ? threads * 2 * s.C : 0);
  if (sums) at::parallel_for(0, s.N, row, [&](int64_t n, int64_t end) {
    double* a = all.data() + at::get_thread_num() * 2 * s.C;
    for (; n + 8 <= end; n += 8) add_rows<8, T>(n, s.C, a, a + s.C, f);
    for (; n < end; ++n) add_rows<1, T>(n, s.C, a, a + s.C, f);
  });
  double* a = all.data();
  for (int64_t t = 1; sums && t < threads; ++t)
    for (int64_t j = 0; j < 2 * s.C; ++j) a[j] += a[t * 2 * s.C + j];
  for (int64_t c = 0; c < s.C; ++c) fold(c, sums ? a[c] : 0, sums ? a[s.C + c] : 0);
  if (s.L == 1) at::parallel_for(0, s.N, row, [&](int64_t n, int64_t end) {
    for (; n < end; ++n) {
      #pragma omp simd
      for (int64_t j = 0; j < s.C; ++j) g(n * s.C + j, j);
    }
  });
  else at::parallel_for(0, s.N * s.C, grain(s.L, arrays), [&](int64_t r, int64_t end) {
    for (; r < end; ++r) {
      const int64_t c = r % s.C;
      #pragma omp simd
      for (int64_t l = 0; l < s.L; ++l) g(r * s.L + l, c);
    }
  });
}
// an array for results; a large one always comes fresh from the system: ask for large pages
Tensor fresh(const Tensor& x) {
  Tensor y = at::empty_like(x);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = 4096, at = ((uintptr_t)y.data_ptr() + page - 1) / page * page;
  if (y.nbytes() >= (4u << 20))
    madvise((void*)at, (y.nbytes() - page) / page * page, MADV_HUGEPAGE);
#endif
  return y;
}
template <class T> const T* in(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}
"""
