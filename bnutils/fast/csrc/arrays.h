// What the kernel needs of tensors: their shape, and pointers to their numbers.
#pragma once

#include <torch/extension.h>

#include <optional>

namespace bnutils {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;  // None in Python becomes std::nullopt

// C++ functions of PyTorch write "no tensor" as a tensor that is not defined.
inline Tensor given(const OptionalTensor& t) {
  return t ? *t : Tensor();
}

// N examples, C channels, L positions. Input (N, C) is input (N, C, L) with L = 1.
struct Shape {
  int64_t N, C, L;

  explicit Shape(const Tensor& x)
      : N(x.size(0)), C(x.size(1)), L(x.dim() == 3 ? x.size(2) : 1) {}

  // m of the book: so many values share a mean and a variance.
  int64_t values_per_channel() const { return N * L; }

  // Where the L values of channel c of example n start; they lie side by side.
  int64_t start(int64_t n, int64_t c) const { return (n * C + c) * L; }
};

// Pointers to the first number of a contiguous tensor, null if it is not defined.
template <class T>
const T* to_read(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}
template <class T>
T* to_write(const Tensor& t) {
  return t.defined() ? t.mutable_data_ptr<T>() : nullptr;
}

// Writing through a pointer happens behind autograd's back. It must hear of it, so that
// it can refuse to use a value that it saved for a backward pass and that has changed.
inline void tell_autograd_of_change(const Tensor& t) {
  if (t.defined()) t.unsafeGetTensorImpl()->bump_version();
}

}  // namespace bnutils
