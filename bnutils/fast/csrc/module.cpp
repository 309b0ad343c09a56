// What Python sees of the kernel: batch_norm and Step. The rest, from the bottom up:
//
//   arrays.h      shapes and pointers
//   memory.h      memory for results
//   sums.h        the sums of a channel: the first pass over memory
//   passes.h      both passes, split over threads
//   normalise.h   the formulas for each value and each channel, forward and backward
//   autograd.h    a node of autograd's graph
//   fused_step.h  a whole training step
#include "autograd.h"
#include "fused_step.h"

namespace bnutils {

// Whether x is what the kernel can normalise. Everything else goes to the layer in
// plain PyTorch (bnutils.norm), which also says what is wrong with it.
bool covers_input(const Tensor& x, bool batch) {
  const auto type = x.scalar_type();
  if (type != at::kFloat && type != at::kDouble) return false;
  if (x.dim() != 2 && x.dim() != 3) return false;
  if (!is_plain(x) || x.numel() == 0) return false;
  const bool one_value_per_channel = x.numel() == x.size(1);
  return !(batch && one_value_per_channel);
}

// Whether a parameter or statistic, if there is one, is a plain tensor of x's type and
// of one value for each channel.
bool covers(const OptionalTensor& t, const Tensor& x) {
  return !t || (t->scalar_type() == x.scalar_type() && t->numel() == x.size(1) &&
                is_plain(*t));
}

bool is_learned(const OptionalTensor& t) {
  return t && t->requires_grad();
}

// The layer's forward pass; None where the kernel does not apply. Checks, counting and
// running statistics are in here because a call from Python takes as long as
// normalising a small batch does.
OptionalTensor batch_norm(const Tensor& x, const OptionalTensor& weight,
                          const OptionalTensor& bias,
                          const OptionalTensor& running_mean,
                          const OptionalTensor& running_var,
                          const OptionalTensor& num_batches_tracked, bool training,
                          std::optional<double> momentum, double eps) {
  const bool batch = training || !running_mean;
  if (!covers_input(x, batch) || !(eps > 0)) return {};
  if (running_mean.has_value() != running_var.has_value()) return {};
  for (const OptionalTensor* t : {&weight, &bias, &running_mean, &running_var}) {
    if (!covers(*t, x)) return {};
  }
  const OptionalTensor& count = num_batches_tracked;
  if (training && count && (count->scalar_type() != at::kLong || !is_plain(*count))) {
    return {};
  }
  double factor = 0;
  if (training) {
    factor =
        count_batch(given(running_mean), given(running_var), given(count), momentum);
  }
  const bool learns = x.requires_grad() || is_learned(weight) || is_learned(bias);
  if (at::GradMode::is_enabled() && learns) {
    return BatchNorm::apply(x, weight, bias, running_mean, running_var, batch, factor,
                            eps);
  }
  return compute(x, weight, bias, running_mean, running_var, batch, factor, eps).y;
}

}  // namespace bnutils

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  // Other threads of Python may run while C++ computes
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  m.def("batch_norm", &bnutils::batch_norm, unlocked);
  m.def("idle_bytes", [] { return bnutils::kept_memory().idle_bytes(); });
  using bnutils::Step;
  py::class_<Step>(m, "Step")
      .def(py::init<double, double, double>(), py::arg("momentum"),
           py::arg("weight_decay"), py::arg("smoothing"))
      .def("add_linear", &Step::add_linear, py::arg("weight"), py::arg("bias"))
      .def("add_batch_norm", &Step::add_batch_norm, py::arg("weight"), py::arg("bias"),
           py::arg("running_mean"), py::arg("running_var"),
           py::arg("num_batches_tracked"), py::arg("momentum"), py::arg("eps"))
      .def("__call__", &Step::operator(), unlocked);
}
