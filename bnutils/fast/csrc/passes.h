// How a pass over the data is split over threads, and in which order it reads memory.
//
// Forward and backward have the same form. For every channel:
//
//   1. sums over all its values         pass.terms(i, c): what value i adds to them
//   2. a few numbers from the sums      pass.between(c, sums)
//   3. a result for each of its values  pass.write(i, c)
//
// That is two passes over memory, and no fewer will do: the first output needs the mean
// and the variance of the whole channel, so all of it has been read before anything can
// be written. (Mean and variance come from the same pass, though; see normalise.h.)
//
// Channels never meet, but memory does not lie channel by channel:
//
//   (N, C)     Neighbours in memory are neighbouring channels. Whoever follows a single
//              channel loads 64 bytes and uses 4. So a thread takes a share of the
//              rows, reads them as they lie, and keeps sums of its own for all
//              channels; the threads' sums are added up between the passes.
//   (N, C, L)  The L values of a channel lie side by side. A thread takes whole
//              channels and does both passes over one before it goes on to the next: a
//              channel that fits the cache comes from memory once, not twice.
#pragma once

#include <ATen/Parallel.h>

#include <vector>

#include "sums.h"

namespace bnutils {

// The least number of rows (of so many values) for which a thread is started: with less
// than about 32,000 numbers to read or write, starting it takes longer than the work.
inline int64_t rows_per_thread(int64_t row, int arrays) {
  return std::max<int64_t>(1, 32768 / (row * arrays));
}

// (N, C, L): both passes over one channel, then the next.
template <class Pass>
void channel_by_channel(const Pass& pass, const Shape s) {
  const auto channels = [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      pass.between(c, sums_of_channel(pass, s, c));
      for (int64_t n = 0; n < s.N; ++n) {
        const int64_t start = s.start(n, c);
#pragma omp simd
        for (int64_t l = 0; l < s.L; ++l) pass.write(start + l, c);
      }
    }
  };
  at::parallel_for(0, s.C, rows_per_thread(s.values_per_channel(), Pass::ARRAYS),
                   channels);
}

// Sums of all channels, for each thread its own: no thread waits for another.
class SumsByThread {
 public:
  SumsByThread(int64_t threads, int64_t C)
      : threads_(threads), C_(C), numbers_(threads * 2 * C) {}

  double* first(int64_t thread) { return numbers_.data() + thread * 2 * C_; }
  double* second(int64_t thread) { return first(thread) + C_; }

  void add_up() {  // into those of thread 0
    double* total = first(0);
    for (int64_t t = 1; t < threads_; ++t) {
      const double* other = first(t);
      for (int64_t k = 0; k < 2 * C_; ++k) total[k] += other[k];
    }
  }

 private:
  int64_t threads_, C_;
  std::vector<double> numbers_;
};

// (N, C): the first pass over all rows, then what follows from each channel's sums.
template <class Pass>
void sums_row_by_row(const Pass& pass, const Shape s) {
  SumsByThread sums(at::get_num_threads(), s.C);
  const auto rows = [&](int64_t begin, int64_t end) {
    double* first = sums.first(at::get_thread_num());
    double* second = sums.second(at::get_thread_num());
    int64_t row = begin;
    for (; row + VALUES_IN_T <= end; row += VALUES_IN_T) {
      add_rows<VALUES_IN_T>(pass, row, s.C, first, second);
    }
    for (; row < end; ++row) add_rows<1>(pass, row, s.C, first, second);
  };
  at::parallel_for(0, s.N, rows_per_thread(s.C, Pass::ARRAYS), rows);
  sums.add_up();
  for (int64_t c = 0; c < s.C; ++c) {
    pass.between(c, {sums.first(0)[c], sums.second(0)[c]});
  }
}

// The second pass over (N, C), or the only one over either, in the order of memory.
template <class Pass>
void write_in_order(const Pass& pass, const Shape s) {
  const auto rows_of_channels = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
#pragma omp simd
      for (int64_t c = 0; c < s.C; ++c) pass.write(row * s.C + c, c);
    }
  };
  const auto rows_of_positions = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t c = row % s.C;
#pragma omp simd
      for (int64_t l = 0; l < s.L; ++l) pass.write(row * s.L + l, c);
    }
  };
  if (s.L == 1) {
    at::parallel_for(0, s.N, rows_per_thread(s.C, Pass::ARRAYS), rows_of_channels);
  } else {
    at::parallel_for(0, s.N * s.C, rows_per_thread(s.L, Pass::ARRAYS),
                     rows_of_positions);
  }
}

// Everything for one forward or backward pass. In evaluation the statistics are known
// beforehand: forward then does without the sums, and one pass over memory is enough.
template <class Pass>
void run(const Pass& pass, const Shape s, bool needs_sums) {
  if (needs_sums && s.L > 1) {
    channel_by_channel(pass, s);
    return;
  }
  if (needs_sums) {
    sums_row_by_row(pass, s);
  } else {
    for (int64_t c = 0; c < s.C; ++c) pass.between(c, {});
  }
  write_in_order(pass, s);
}

}  // namespace bnutils
