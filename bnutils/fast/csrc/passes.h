// How a pass over the data is split over threads, and in which order it reads memory.
//
// Forward and backward have the same form. For every channel:
//
//   1. sums over all its values         pass.terms(i, c): what value i adds to them
//   2. a few numbers from the sums      pass.between(c, sums)
//   3. a result for each of its values  pass.result(i, c), which goes to pass.results
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

#include "memory.h"
#include "sums.h"

namespace bnutils {

// The least number of rows (of so many values) for which a thread is started: with less
// than about 32,000 numbers to read or write, starting it takes longer than the work.
inline int64_t rows_per_thread(int64_t row, int arrays) {
  return std::max<int64_t>(1, 32768 / (row * arrays));
}

// The second pass over `count` values side by side in memory, from value i on: of
// neighbouring channels from c on, or all of channel c.
template <bool NEIGHBOURS, class Pass>
inline void write_usually(const Pass& pass, int64_t i, int64_t c, int64_t count) {
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) {
    pass.results[i + k] = pass.result(i + k, NEIGHBOURS ? c + k : c);
  }
}

// The same with PAST_CACHES: line by line past the caches; what does not fill a line as usual.
template <bool PAST_CACHES, bool NEIGHBOURS, class Pass>
inline void write(const Pass& pass, int64_t i, int64_t c, int64_t count) {
  if constexpr (PAST_CACHES) {
    using NumberLine = Line<typename Pass::Number>;
    constexpr int64_t WIDTH = NumberLine::WIDTH;
    const int64_t before = std::min(count, NumberLine::values_before(pass.results + i));
    write_usually<NEIGHBOURS>(pass, i, c, before);
    int64_t k = before;
    for (; k + WIDTH <= count; k += WIDTH) {
      NumberLine line;
#pragma omp simd
      for (int64_t j = 0; j < WIDTH; ++j) {
        line.values[j] = pass.result(i + k + j, NEIGHBOURS ? c + k + j : c);
      }
      line.stream(pass.results + i + k);
    }
    write_usually<NEIGHBOURS>(pass, i + k, NEIGHBOURS ? c + k : c, count - k);
  } else {
    write_usually<NEIGHBOURS>(pass, i, c, count);
  }
}

// (N, C, L): both passes over one channel, then the next.
template <bool PAST_CACHES, class Pass>
void channel_by_channel(const Pass& pass, const Shape s) {
  const auto channels = [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      pass.between(c, sums_of_channel(pass, s, c));
      for (int64_t n = 0; n < s.N; ++n) {
        write<PAST_CACHES, false>(pass, s.start(n, c), c, s.L);
      }
    }
    if (PAST_CACHES) finish_streaming();
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
template <bool LARGE_INPUT, class Pass>
void sums_row_by_row(const Pass& pass, const Shape s) {
  constexpr int64_t LINE = 64 / sizeof(typename Pass::Number);
  SumsByThread sums(at::get_num_threads(), s.C);
  const auto rows = [&](int64_t begin, int64_t end) {
    double* first = sums.first(at::get_thread_num());
    double* second = sums.second(at::get_thread_num());
    int64_t row = begin;
    for (; row + VALUES_IN_T <= end; row += VALUES_IN_T) {
      const int64_t start = row * s.C, next = start + VALUES_IN_T * s.C;
      if constexpr (LARGE_INPUT) {
        for (int64_t i = 0; i < VALUES_IN_T * s.C; i += LINE) pass.fetch(next + i);
      }
      add_rows<VALUES_IN_T, true>(pass, start, s.C, 0, s.C, first, second);
    }
    for (; row < end; ++row) {
      add_rows<1, true>(pass, row * s.C, 0, 0, s.C, first, second);
    }
  };
  at::parallel_for(0, s.N, rows_per_thread(s.C, Pass::ARRAYS), rows);
  sums.add_up();
  const double *first = sums.first(0), *second = sums.second(0);
#pragma omp simd
  for (int64_t c = 0; c < s.C; ++c) pass.between(c, {first[c], second[c]});
}

// The second pass over (N, C), or the only one over either, in the order of memory.
template <bool PAST_CACHES, class Pass>
void write_in_order(const Pass& pass, const Shape s) {
  const auto rows_of_channels = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      write<PAST_CACHES, true>(pass, row * s.C, 0, s.C);
    }
    if (PAST_CACHES) finish_streaming();
  };
  const auto rows_of_positions = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      write<PAST_CACHES, false>(pass, row * s.L, row % s.C, s.L);
    }
    if (PAST_CACHES) finish_streaming();
  };
  if (s.L == 1) {
    at::parallel_for(0, s.N, rows_per_thread(s.C, Pass::ARRAYS), rows_of_channels);
  } else {
    at::parallel_for(0, s.N * s.C, rows_per_thread(s.L, Pass::ARRAYS),
                     rows_of_positions);
  }
}

template <bool PAST_CACHES, class Pass>
void both_passes(const Pass& pass, const Shape s, bool needs_sums) {
  if (needs_sums && s.L > 1) {
    channel_by_channel<PAST_CACHES>(pass, s);
    return;
  }
  if (needs_sums) {
    sums_row_by_row<PAST_CACHES>(pass, s);
  } else {
    for (int64_t c = 0; c < s.C; ++c) pass.between(c, {});
  }
  write_in_order<PAST_CACHES>(pass, s);
}

// Everything for one forward or backward pass. In evaluation the statistics are known
// beforehand: forward then does without the sums, and one pass over memory is enough.
template <class Pass>
void run(const Pass& pass, const Shape s, bool needs_sums) {
  const int64_t bytes = s.N * s.C * s.L * sizeof(typename Pass::Number);
  if (bytes < (needs_sums ? LARGE : LARGE_IN_EVALUATION)) {
    both_passes<false>(pass, s, needs_sums);
  } else {
    both_passes<true>(pass, s, needs_sums);
  }
}

}  // namespace bnutils
