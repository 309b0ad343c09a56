// The first pass: two sums for each channel.
//
// Each value of the input adds a pair of terms to its channel. In the forward pass the
// pair is (d, d * d), with d the distance from a number near the mean; in the backward
// pass it is (dy * (x - mean), dy). Which terms is a matter of the pass (normalise.h);
// how they are added up, fast and without losing digits, is the matter of this file.
// (Several threads share the rows of an (N, C) input: passes.h adds up their sums.)
//
// Why double: float32 rounds every addition to 7 digits. Over a million additions the
// errors reach the digits that we need. Sums in double have digits to spare, but adding
// in double is half as fast. So at most eight values are added in T (float or double),
// which costs about one digit in the worst case, and only their sum goes into a double.
//
// `#pragma omp simd` promises the compiler that the rounds of a loop do not depend on
// each other, so that it may do several at once: 16 float32 values with AVX-512.
#pragma once

#include "arrays.h"

namespace bnutils {

// What one value adds to the sums of its channel.
template <class T>
struct Terms {
  T first, second;
};

// The sums of one channel.
struct Sums {
  double first = 0, second = 0;
};

constexpr int VALUES_IN_T = 8;  // so many are added in T before they go into a double

// [sums]
// Input (N, C): add the terms of some neighbouring rows to the sums of all channels.
//
// Neighbours in a row belong to different channels, so a step of the loop takes as many
// channels as fit the processor's registers, and ROWS values of each.
template <int ROWS, class Pass>
inline void add_rows(const Pass pass, int64_t row, int64_t C, double* __restrict first,
                     double* __restrict second) {
  using T = typename Pass::Number;
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    T few_first = 0, few_second = 0;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Terms<T> terms = pass.terms((row + r) * C + c, c);
      few_first += terms.first;
      few_second += terms.second;
    }
    first[c] += few_first;
    second[c] += few_second;
  }
}
// [/sums]

// Sums of one channel of (N, C, L), where neighbours belong to the same channel.
//
// A single running sum would make every addition wait for the one before it. Lanes are
// WIDTH running sums side by side, two registers of AVX-512 wide; value number l goes
// into lane l % WIDTH, and the lanes are added up at the very end.
template <class T>
struct Lanes {
  static constexpr int WIDTH = 2 * 64 / sizeof(T);

  double first[WIDTH] = {}, second[WIDTH] = {};
  T few_first[WIDTH] = {}, few_second[WIDTH] = {};  // at most VALUES_IN_T a lane
  int64_t few = 0;

  // The terms of `count` values side by side, at most one a lane.
  template <class Pass>
  void add(const Pass pass, int64_t i, int64_t c, int64_t count) {
#pragma omp simd
    for (int64_t lane = 0; lane < count; ++lane) {
      const Terms<T> terms = pass.terms(i + lane, c);
      few_first[lane] += terms.first;
      few_second[lane] += terms.second;
    }
    if (++few == VALUES_IN_T) into_double();
  }

  void into_double() {
#pragma omp simd
    for (int lane = 0; lane < WIDTH; ++lane) {
      first[lane] += few_first[lane];
      second[lane] += few_second[lane];
      few_first[lane] = few_second[lane] = 0;
    }
    few = 0;
  }

  Sums total() {
    into_double();
    Sums sums;
    for (int lane = 0; lane < WIDTH; ++lane) {
      sums.first += first[lane];
      sums.second += second[lane];
    }
    return sums;
  }
};

template <class Pass>
Sums sums_of_channel(const Pass pass, const Shape s, int64_t c) {
  Lanes<typename Pass::Number> lanes;
  constexpr int64_t WIDTH = lanes.WIDTH;
  for (int64_t n = 0; n < s.N; ++n) {
    const int64_t start = s.start(n, c);
    int64_t l = 0;
    for (; l + WIDTH <= s.L; l += WIDTH) lanes.add(pass, start + l, c, WIDTH);
    if (l < s.L) lanes.add(pass, start + l, c, s.L - l);
  }
  return lanes.total();
}

}  // namespace bnutils
