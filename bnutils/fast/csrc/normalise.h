// What happens to each value and each channel: the formulas of chapters 2 and 3.
//
// Shifted sums. The textbook's variance, the mean of the squares less the square of the
// mean, loses all its digits when the data lies far from zero: with a mean of a
// million, both terms are about 10^12, and a float32 has 7 digits. The remedy is to
// subtract a number k near the mean from every value first; the variance does not
// change, and the two terms become small. Which k does not matter, so the mean of a
// few values will do. That is why one pass over the data gives both statistics.
//
// The mean in two parts. After the sums we know the mean as a double, but x - mean must
// be computed in T. The rounded mean would be off by up to half of its last digit; what
// the rounding left out is kept, and put back into the constant term, once a channel.
//
// Saved for backward: the input x itself, the weight (for a second derivative) and the
// (5, C) numbers of ChannelState. Not x_hat, which autograd would keep for chapter 4's
// layer: computing it again from x costs two operations, storing it costs an array.
#pragma once

#include <algorithm>
#include <cmath>

#include "passes.h"

namespace bnutils {

// Rows of the (5, C) tensor that forward fills and backward reads.
enum StateRow { MEAN, MEAN_REST, INV_STD, SCALE, SHIFT, STATE_ROWS };

inline Tensor new_state(const Tensor& x) {
  return at::empty({STATE_ROWS, x.size(1)}, x.options());
}

// The same rows as pointers, each to C numbers. T is const where they are only read.
template <class T>
struct ChannelState {
  T* mean;       // rounded to T; before the sums: a value near the mean
  T* mean_rest;  // what the rounding left out
  T* inv_std;    // 1 / sqrt(variance + eps)
  T* scale;      // y = (x - mean) * scale + shift
  T* shift;

  ChannelState(T* rows, int64_t C)
      : mean(rows + MEAN * C),
        mean_rest(rows + MEAN_REST * C),
        inv_std(rows + INV_STD * C),
        scale(rows + SCALE * C),
        shift(rows + SHIFT * C) {}
};

// One batch more: count it, and return the weight of its statistics in the running
// ones. Without a momentum that is 1 / count, which makes the plain average of all
// batches.
inline double count_batch(const Tensor& running_mean, const Tensor& running_var,
                          const Tensor& num_batches_tracked,
                          std::optional<double> momentum) {
  double factor = momentum.value_or(0);
  if (num_batches_tracked.defined()) {
    const int64_t count = ++*num_batches_tracked.mutable_data_ptr<int64_t>();
    if (!momentum) factor = 1.0 / count;
  }
  tell_autograd_of_change(running_mean);
  tell_autograd_of_change(running_var);
  tell_autograd_of_change(num_batches_tracked);
  return factor;
}

// A number near each channel's mean: the mean of eight of its values, from examples and
// positions all over the batch, since a batch may begin with padding.
template <class T>
void find_near_mean(const T* x, const Shape s, T* near_mean) {
  const int64_t few = std::min<int64_t>(s.values_per_channel(), 8);
  std::fill_n(near_mean, s.C, T(0));
  for (int64_t k = 0; k < few; ++k) {
    // The middle of the k-th of `few` equal parts of the examples, and of the positions.
    const int64_t n = (2 * k + 1) * s.N / (2 * few), l = (2 * k + 1) * s.L / (2 * few);
    for (int64_t c = 0; c < s.C; ++c) near_mean[c] += x[s.start(n, c) + l] / few;
  }
}

// RELU: y = max(0, .) on top, for the fused step; the layer leaves it off.
template <class T, bool RELU>
struct Forward {
  using Number = T;
  static constexpr int ARRAYS = 2;  // as large as the input, read or written: x, y

  const T* x;
  T* results;                     // y
  const T *weight, *bias;         // null: 1 and 0
  T *running_mean, *running_var;  // null: not kept
  ChannelState<T> state;
  bool batch;     // normalise by the batch, else by the running statistics
  double m;       // values per channel
  double factor;  // weight of the batch in the running statistics
  double eps;

  void fetch(int64_t i) const { bnutils::fetch(x + i); }

  // [forward, first pass]
  Terms<T> terms(int64_t i, int64_t c) const {
    const T distance = x[i] - state.mean[c];  // from a value near the mean
    return {distance, distance * distance};
  }
  // [/forward, first pass]

  void between(int64_t c, Sums sums) const {
    double mean, var;
    if (batch) {
      const double off = sums.first / m;  // the mean's distance from the value near it
      mean = state.mean[c] + off;
      var = std::max(sums.second / m - off * off, 0.0);
    } else {
      mean = running_mean[c];
      var = running_var[c];
    }
    if (batch && running_mean) {
      running_mean[c] = (1 - factor) * running_mean[c] + factor * mean;
      running_var[c] = (1 - factor) * running_var[c] + factor * var * (m / (m - 1));
    }
    state.mean[c] = mean;
    state.mean_rest[c] = mean - static_cast<T>(mean);
    state.inv_std[c] = 1 / std::sqrt(var + eps);
    state.scale[c] = state.inv_std[c] * (weight ? weight[c] : 1);
    state.shift[c] = (bias ? bias[c] : 0) - state.mean_rest[c] * state.scale[c];
  }

  // [forward, second pass]
  T result(int64_t i, int64_t c) const {
    const T y = (x[i] - state.mean[c]) * state.scale[c] + state.shift[c];
    return RELU && y < 0 ? 0 : y;
  }
  // [/forward, second pass]
};

template <class T, bool RELU = false>
void forward(const Tensor& x, const Tensor& weight, const Tensor& bias,
             const Tensor& running_mean, const Tensor& running_var, const Tensor& state,
             const Tensor& y, bool batch, double factor, double eps) {
  const Shape s(x);
  const Forward<T, RELU> pass{to_read<T>(x),
                              to_write<T>(y),
                              to_read<T>(weight),
                              to_read<T>(bias),
                              to_write<T>(running_mean),
                              to_write<T>(running_var),
                              ChannelState<T>(to_write<T>(state), s.C),
                              batch,
                              static_cast<double>(s.values_per_channel()),
                              factor,
                              eps};
  if (batch) find_near_mean(pass.x, s, pass.state.mean);
  run(pass, s, batch);
}

// Rows of the (2, C) tensor of gradients per channel.
enum GradientRow { WEIGHT_GRADIENT, BIAS_GRADIENT, GRADIENT_ROWS };

inline Tensor new_gradients(const Tensor& x) {
  return at::empty({GRADIENT_ROWS, x.size(1)}, x.options());
}

// Eq. (3.7), dx = scale * (dy - mean(dy) - x_hat * mean(dy * x_hat)), needs two sums as
// well. What is the same for a whole channel is folded into `slope` and `level`, so
// that
//
//   dx = scale * dy - slope * (x - mean) - level
//
// BATCH: the statistics came from the batch. In evaluation they are constants, and all
// that is left is dx = scale * dy.
template <class T, bool RELU, bool BATCH>
struct Backward {
  using Number = T;
  static constexpr int ARRAYS = 3;  // x, dy, dx

  const T *dy, *x;
  T* results;  // dx
  ChannelState<const T> state;
  T *weight_gradient, *bias_gradient;
  T *slope, *level;
  double m;

  void fetch(int64_t i) const {
    bnutils::fetch(x + i);
    bnutils::fetch(dy + i);
  }

  // [backward, gradient]
  // The gradient that arrives; with RELU, nothing passes where forward wrote a zero.
  // It is loaded in any case: a load under a condition would keep the compiler from
  // using vectors, and take six times as long.
  T gradient(int64_t i, int64_t c) const {
    const T g = dy[i];
    const T y = (x[i] - state.mean[c]) * state.scale[c] + state.shift[c];
    return RELU && y <= 0 ? T(0) : g;
  }
  // [/backward, gradient]

  // [backward, first pass]
  Terms<T> terms(int64_t i, int64_t c) const {
    const T g = gradient(i, c);
    return {g * (x[i] - state.mean[c]), g};
  }
  // [/backward, first pass]

  void between(int64_t c, Sums sums) const {
    const double sum = sums.second;
    const double dot = sums.first - state.mean_rest[c] * sum;  // with the exact mean
    const T inv_std = state.inv_std[c], scale = state.scale[c];
    weight_gradient[c] = dot * inv_std;
    bias_gradient[c] = sum;
    slope[c] = scale * (dot * inv_std * inv_std / m);
    level[c] = scale * (sum / m) - slope[c] * state.mean_rest[c];
  }

  // [backward, second pass]
  T result(int64_t i, int64_t c) const {
    const T direct = gradient(i, c) * state.scale[c];
    return BATCH ? direct - (x[i] - state.mean[c]) * slope[c] - level[c] : direct;
  }
  // [/backward, second pass]
};

template <class T, bool RELU, bool BATCH>
void run_backward(const Tensor& dy, const Tensor& x, const Tensor& state,
                  const Tensor& dx, const Tensor& gradients) {
  const Shape s(x);
  const Tensor scratch = at::empty({2, s.C}, x.options());
  T *gradient_rows = to_write<T>(gradients), *scratch_rows = to_write<T>(scratch);
  const Backward<T, RELU, BATCH> pass{to_read<T>(dy),
                                      to_read<T>(x),
                                      to_write<T>(dx),
                                      ChannelState<const T>(to_read<T>(state), s.C),
                                      gradient_rows + WEIGHT_GRADIENT * s.C,
                                      gradient_rows + BIAS_GRADIENT * s.C,
                                      scratch_rows,
                                      scratch_rows + s.C,
                                      static_cast<double>(s.values_per_channel())};
  run(pass, s, true);  // the sums are gradients, in evaluation too
}

// dx may be dy: each value is read before it is written.
template <class T, bool RELU = false>
void backward(const Tensor& dy, const Tensor& x, const Tensor& state, const Tensor& dx,
              const Tensor& gradients, bool batch) {
  if (batch) {
    run_backward<T, RELU, true>(dy, x, state, dx, gradients);
  } else {
    run_backward<T, RELU, false>(dy, x, state, dx, gradients);
  }
}

}  // namespace bnutils
