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

#include <algorithm>

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
// Add the terms of ROWS rows, `stride` values apart. `count` values of a row lie side by
// side: of neighbouring channels from c on, or all of channel c. first[k] and second[k]
// get what stands at place k of the rows.
//
// No place waits for another, so a step of the loop takes as many of them as fit the
// processor's registers, and ROWS values of each.
template <int ROWS, bool NEIGHBOURS, class Pass>
inline void add_rows(const Pass pass, int64_t start, int64_t stride, int64_t c,
                     int64_t count, double* __restrict first,
                     double* __restrict second) {
  using T = typename Pass::Number;
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) {
    T few_first = 0, few_second = 0;
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; ++r) {
      const Terms<T> terms = pass.terms(start + r * stride + k, NEIGHBOURS ? c + k : c);
      few_first += terms.first;
      few_second += terms.second;
    }
    first[k] += few_first;
    second[k] += few_second;
  }
}
// [/sums]

// The sums of one channel of (N, C, L): its L values of an example lie side by side, and
// up to PLACES of them at a time have sums of their own, which are added up at the end.
template <class T>
class ChannelSums {
 public:
  explicit ChannelSums(int64_t longest_row) {
    places_ = std::min(longest_row, PLACES);
    std::fill_n(first_, places_, 0.0);
    std::fill_n(second_, places_, 0.0);
  }

  // Some rows of channel c, any number of them and of any length.
  template <int ROWS, class Pass>
  void add(const Pass& pass, int64_t start, int64_t stride, int64_t c, int64_t length) {
    for (int64_t k = 0; k < length; k += places_) {
      add_rows<ROWS, false>(pass, start + k, stride, c, std::min(places_, length - k),
                            first_, second_);
    }
  }

  Sums total() const {
    double first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
    for (int64_t k = 0; k < places_; ++k) {
      first += first_[k];
      second += second_[k];
    }
    return {first, second};
  }

 private:
  static constexpr int64_t PLACES = 512;  // 8 KiB, to stay in a first-level cache

  int64_t places_;
  double first_[PLACES], second_[PLACES];
};

template <class Pass>
Sums sums_of_channel(const Pass& pass, const Shape s, int64_t c) {
  ChannelSums<typename Pass::Number> sums(s.L);
  int64_t n = 0;
  for (; n + VALUES_IN_T <= s.N; n += VALUES_IN_T) {
    sums.template add<VALUES_IN_T>(pass, s.start(n, c), s.C * s.L, c, s.L);
  }
  // The examples that are left: long ones are cut into as many rows.
  const int64_t part = s.L < 128 ? 0 : s.L / VALUES_IN_T;
  const int64_t cut = part * VALUES_IN_T;
  for (; n < s.N; ++n) {
    sums.template add<VALUES_IN_T>(pass, s.start(n, c), part, c, part);
    sums.template add<1>(pass, s.start(n, c) + cut, 0, c, s.L - cut);
  }
  return sums.total();
}

}  // namespace bnutils
