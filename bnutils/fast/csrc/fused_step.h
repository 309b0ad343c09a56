// A whole training step of a multilayer perceptron in one call: the engine "fused" of
// bnutils.train.fit.
//
// Chapter 3's formulas stand here in a row: for each block Linear, BatchNorm, ReLU the
// matrix product and one forward pass of the kernel, the same backwards, then SGD.
// There is no graph, and all memory is kept from step to step. What is left is little
// more than the matrix products, and those are PyTorch's own.
#pragma once

#include <tuple>

#include "normalise.h"

namespace bnutils {

// A parameter of the model, and what SGD knows of it; undefined tensors for none.
struct Parameter {
  Tensor value, gradient, velocity;

  Parameter() = default;
  explicit Parameter(const OptionalTensor& p) {
    if (!p) return;
    value = p->detach();  // shares the model's memory: the update is seen there
    gradient = at::zeros_like(value);
    velocity = at::zeros_like(value);
  }
  bool exists() const { return value.defined(); }
};

struct Norm {
  Parameter weight, bias;
  Tensor running_mean, running_var, num_batches_tracked;
  std::optional<double> momentum;
  double eps;
  Tensor state, gradients;  // of normalise.h; the parameters' gradients are its rows
};

// Linear, BatchNorm or none, ReLU. The last block of a network is a Linear alone.
struct Block {
  Parameter weight, bias;
  std::optional<Norm> norm;
  Tensor z, a;  // what Linear makes, (B, outputs); what the whole block makes
};

struct Loss {
  double value = 0;        // mean over the batch, before the update
  int64_t hits = 0;        // rows whose largest logit is the label's
  int64_t bad_label = -1;  // the first row with a label out of range, if there is one
};

// Cross-entropy with label smoothing, and its gradient, written over the logits:
// softmax less the target, divided by the size of the batch. Subtracting the largest
// logit keeps exp() within range.
template <class T>
Loss cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing) {
  const int64_t B = logits.size(0), C = logits.size(1);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const double target_of_others = smoothing / C;
  Loss loss;
  T* row = logits.mutable_data_ptr<T>();
  for (int64_t r = 0; r < B; ++r, row += C) {
    const int64_t own = label[r];
    if (own < 0 || own >= C) {
      loss.value = NAN;
      loss.bad_label = r;
      return loss;
    }
    const int64_t best = std::max_element(row, row + C) - row;  // the first of equals
    const T top = row[best];
    if (best == own) ++loss.hits;
    const double own_logit = row[own] - top;
    double sum = 0, mean_logit = 0;
    for (int64_t c = 0; c < C; ++c) {
      mean_logit += (row[c] - top) / C;
      row[c] = std::exp(row[c] - top);
      sum += row[c];
    }
    loss.value += std::log(sum) - (1 - smoothing) * own_logit;
    // The mean may be minus infinity, and 0 times that is not a number.
    if (smoothing > 0) loss.value -= smoothing * mean_logit;
    for (int64_t c = 0; c < C; ++c) {
      const double extra = c == own ? 1 - smoothing : 0;
      row[c] = (row[c] / sum - target_of_others - extra) / B;
    }
  }
  loss.value /= B;
  return loss;
}

// SGD with Nesterov momentum as PyTorch defines it; with momentum 0, plain SGD.
template <class T>
void update(Parameter& p, double lr, double momentum, double weight_decay) {
  if (!p.exists()) return;
  T* value = p.value.mutable_data_ptr<T>();
  T* velocity = p.velocity.mutable_data_ptr<T>();
  const T* gradient = p.gradient.const_data_ptr<T>();
  const T rate = lr, keep = momentum, decay = weight_decay;
  constexpr int64_t per_thread = 16384;  // for fewer, starting a thread does not pay
  at::parallel_for(0, p.value.numel(), per_thread, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t k = begin; k < end; ++k) {
      const T g = gradient[k] + decay * value[k];
      const T v = keep * velocity[k] + g;
      velocity[k] = v;
      value[k] -= rate * (g + keep * v);
    }
  });
  tell_autograd_of_change(p.value);
}

class Step {
 public:
  Step(double momentum, double weight_decay, double smoothing)
      : momentum_(momentum), weight_decay_(weight_decay), smoothing_(smoothing) {}

  // The next Linear of the network.
  void add_linear(const Tensor& weight, const OptionalTensor& bias) {
    Block block{Parameter(weight), Parameter(bias), std::nullopt, {}, {}};
    block.z = at::empty({0, weight.size(0)}, block.weight.value.options());
    block.a = at::empty_like(block.z);
    blocks_.push_back(block);
  }

  // The BatchNorm that follows the last Linear.
  void add_batch_norm(const OptionalTensor& weight, const OptionalTensor& bias,
                      const OptionalTensor& running_mean,
                      const OptionalTensor& running_var,
                      const OptionalTensor& num_batches_tracked,
                      std::optional<double> momentum, double eps) {
    Block& block = blocks_.back();
    Norm norm{Parameter(weight),
              Parameter(bias),
              given(running_mean),
              given(running_var),
              given(num_batches_tracked),
              momentum,
              eps,
              new_state(block.z),
              new_gradients(block.z)};
    norm.weight.gradient = norm.gradients.select(0, WEIGHT_GRADIENT);
    norm.bias.gradient = norm.gradients.select(0, BIAS_GRADIENT);
    block.norm = norm;
  }

  // One step on a batch: loss, hits, and the row of a label out of range or -1. There
  // is no update if a label is out of range or the loss is not finite.
  std::tuple<double, int64_t, int64_t> operator()(const Tensor& x, const Tensor& labels,
                                                  double lr) {
    const at::NoGradGuard guard;
    const Loss loss = x.scalar_type() == at::kFloat ? take<float>(x, labels, lr)
                                                    : take<double>(x, labels, lr);
    return {loss.value, loss.hits, loss.bad_label};
  }

 private:
  std::vector<Block> blocks_;
  double momentum_, weight_decay_, smoothing_;

  bool is_last(const Block& block) const { return &block == &blocks_.back(); }

  template <class T>
  Loss take(const Tensor& x, const Tensor& labels, double lr) {
    forward_pass<T>(x);
    const Loss loss = cross_entropy<T>(blocks_.back().z, labels, smoothing_);
    if (!std::isfinite(loss.value)) return loss;
    backward_pass<T>(x);
    for (Block& block : blocks_) {
      learn<T>(block.weight, lr);
      learn<T>(block.bias, lr);
      if (!block.norm) continue;
      learn<T>(block.norm->weight, lr);
      learn<T>(block.norm->bias, lr);
    }
    return loss;
  }

  template <class T>
  void learn(Parameter& p, double lr) {
    update<T>(p, lr, momentum_, weight_decay_);
  }

  template <class T>
  void forward_pass(const Tensor& x) {
    Tensor input = x;
    for (Block& block : blocks_) {
      block.z.resize_({x.size(0), block.z.size(1)});
      block.a.resize_(block.z.sizes());
      if (block.norm || !block.bias.exists()) {
        at::mm_out(block.z, input, block.weight.value.t());
      } else {
        at::addmm_out(block.z, block.bias.value, input, block.weight.value.t());
      }
      if (block.norm) {
        normalise<T>(block);
      } else if (!is_last(block)) {
        at::clamp_min_out(block.a, block.z, 0);
      }
      input = block.a;
    }
  }

  template <class T>
  void normalise(Block& block) {
    Norm& norm = *block.norm;
    const double factor = count_batch(norm.running_mean, norm.running_var,
                                      norm.num_batches_tracked, norm.momentum);
    forward<T, true>(block.z, norm.weight.value, norm.bias.value, norm.running_mean,
                     norm.running_var, norm.state, block.a, true, factor, norm.eps);
    // Linear's bias was left out of the product: before a BatchNorm it moves the mean
    // and changes nothing else (chapter 2). The running mean must have it, though.
    if (norm.running_mean.defined() && block.bias.exists()) {
      norm.running_mean.add_(block.bias.value, factor);
    }
  }

  template <class T>
  void backward_pass(const Tensor& x) {
    Tensor d = blocks_.back().z;  // cross_entropy left the logits' gradient here
    for (size_t i = blocks_.size(); i-- > 0;) {
      Block& block = blocks_[i];
      if (block.norm) {
        // d is the gradient of a, and becomes that of z in place
        backward<T, true>(d, block.z, block.norm->state, d, block.norm->gradients,
                          true);
      } else if (!is_last(block)) {
        at::threshold_backward_out(d, d, block.z, 0);
      }
      // In front of a norm the bias' gradient is zero, and stays it
      if (!block.norm && block.bias.exists()) at::sum_out(block.bias.gradient, d, 0);
      at::mm_out(block.weight.gradient, d.t(), i > 0 ? blocks_[i - 1].a : x);
      if (i == 0) return;  // nobody asks for the gradient of the images
      // The block below does not need its a any more: the gradient of a takes its
      // place.
      d = at::mm_out(blocks_[i - 1].a, d, block.weight.value);
    }
  }
};

}  // namespace bnutils
