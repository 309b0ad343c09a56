// The kernel as one node of autograd's graph.
#pragma once

#include "normalise.h"

namespace bnutils {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A dense tensor on the CPU that nothing wraps. A tensor under torch.func.vmap, one
// with a tangent of forward-mode differentiation, or one of a subclass stands for more
// than its numbers, so reading these through a pointer would give a wrong result
// without a word.
inline bool is_plain(const Tensor& t) {
  using Key = c10::DispatchKey;
  const c10::DispatchKeySet harmless(
      {Key::AutogradCPU, Key::ADInplaceOrView, Key::AutocastCPU});
  return t.key_set() - harmless == c10::DispatchKeySet(Key::CPU) && t.is_contiguous() &&
         !t._fw_grad(0).defined();
}

struct Computed {
  Tensor y, state;
};

inline Computed compute(const Tensor& x, const OptionalTensor& weight,
                        const OptionalTensor& bias, const OptionalTensor& running_mean,
                        const OptionalTensor& running_var, bool batch, double factor,
                        double eps) {
  const Computed result{new_result(x), new_state(x)};
  const auto run = x.scalar_type() == at::kFloat ? forward<float> : forward<double>;
  run(x, given(weight), given(bias), given(running_mean), given(running_var),
      result.state, result.y, batch, factor, eps);
  return result;
}

struct Gradients {
  Tensor x, weight, bias;
};

// The usual backward pass.
inline Gradients kernel_gradients(const Tensor& dy, const Tensor& x,
                                  const Tensor& state, bool batch) {
  const Tensor dx = new_result(x), rows = new_gradients(x);
  const auto run = x.scalar_type() == at::kFloat ? backward<float> : backward<double>;
  run(dy, x, state, dx, rows, batch);
  return {dx, rows.select(0, WEIGHT_GRADIENT), rows.select(0, BIAS_GRADIENT)};
}

// The same gradients by PyTorch's operations, which can be differentiated again and
// which take several dy at once (is_grads_batched). The mean is subtracted twice for
// the reason that the kernel has its mean in two parts.
inline Gradients differentiable_gradients(const Tensor& dy, const Tensor& x,
                                          const Tensor& weight, const Tensor& state,
                                          bool batch, double eps) {
  std::vector<int64_t> dims{0}, column{1, -1};  // to reduce; to broadcast along
  if (x.dim() == 3) {
    dims.push_back(2);
    column.push_back(1);
  }
  Tensor centred, inv_std;
  if (batch) {
    centred = x - x.mean(dims, true);
    centred = centred - centred.mean(dims, true);
    inv_std = (centred.square().mean(dims, true) + eps).rsqrt();
  } else {
    centred = x - state[MEAN].view(column) - state[MEAN_REST].view(column);
    inv_std = state[INV_STD].view(column);
  }
  const Tensor x_hat = centred * inv_std;
  const Tensor scale = weight.defined() ? weight.view(column) * inv_std : inv_std;
  Tensor dx = scale * dy;
  if (batch) {
    const Tensor along_x_hat = (dy * x_hat).mean(dims, true);
    dx = scale * (dy - dy.mean(dims, true) - x_hat * along_x_hat);
  }
  return {dx, (dy * x_hat).sum(dims), dy.sum(dims)};
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x,
                        const OptionalTensor& weight, const OptionalTensor& bias,
                        const OptionalTensor& running_mean,
                        const OptionalTensor& running_var, bool batch, double factor,
                        double eps) {
    const auto [y, state] =
        compute(x, weight, bias, running_mean, running_var, batch, factor, eps);
    ctx->save_for_backward({x, given(weight), state});
    ctx->saved_data["batch"] = batch;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["has_bias"] = bias.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &state = saved[2];
    const bool batch = ctx->saved_data["batch"].toBool();
    const double eps = ctx->saved_data["eps"].toDouble();
    const Tensor dy = output_gradients[0].contiguous();
    const bool fits = is_plain(dy) && dy.scalar_type() == x.scalar_type();
    const bool differentiated_again = at::GradMode::is_enabled();
    Gradients found = fits && !differentiated_again
                          ? kernel_gradients(dy, x, state, batch)
                          : differentiable_gradients(dy, x, weight, state, batch, eps);
    if (!weight.defined()) found.weight = Tensor();
    if (!ctx->saved_data["has_bias"].toBool()) found.bias = Tensor();
    const Tensor none;  // one for each of the other arguments of forward
    return {found.x, found.weight, found.bias, none, none, none, none, none};
  }
};

}  // namespace bnutils
