"""What joins the C++ kernel of :mod:`bnutils.fast` to autograd and to Python."""

AUTOGRAD = r"""
using torch::autograd::AutogradContext;
using Tensors = torch::autograd::variable_list;
bool plain(const Tensor& t) {  // a dense CPU tensor that nothing wraps
  using K = c10::DispatchKey;
  auto usual = c10::DispatchKeySet({K::AutogradCPU, K::ADInplaceOrView, K::AutocastCPU});
  return (t.key_set() - usual) == c10::DispatchKeySet(K::CPU)
      && t.is_contiguous() && !t._fw_grad(0).defined();
}
std::pair<Tensor, Tensor> compute(const Tensor& x, const Maybe& w_, const Maybe& b_,
                                  const Maybe& mean_, const Maybe& var_, bool batch,
                                  double factor, double eps) {
  Tensor y = fresh(x), st = at::empty({5, x.size(1)}, x.options());
  auto go = x.scalar_type() == at::kFloat ? ::forward<float> : ::forward<double>;
  go(x, given(w_), given(b_), given(mean_), given(var_), st, y, batch, factor, eps);
  return {y, st};
}
struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Maybe& w_, const Maybe& b_,
                        const Maybe& mean_, const Maybe& var_, bool batch,
                        double factor, double eps) {
    auto [y, st] = compute(x, w_, b_, mean_, var_, batch, factor, eps);
    ctx->save_for_backward({x, w_ ? *w_ : Tensor(), st});
    ctx->saved_data["batch"] = batch; ctx->saved_data["eps"] = eps;
    ctx->saved_data["bias"] = b_.has_value();
    return y;
  }
  static Tensors backward(AutogradContext* ctx, Tensors grads) {
    auto saved = ctx->get_saved_variables();
    Tensor x = saved[0], w = saved[1], st = saved[2], dy = grads[0].contiguous(), none, dx, dw, db;
    bool batch = ctx->saved_data["batch"].toBool();
    if (at::GradMode::is_enabled() || !plain(dy) || dy.scalar_type() != x.scalar_type()) {
      std::vector<int64_t> dims{0}, view{1, -1};  // differentiated again, or batched
      if (x.dim() == 3) { dims.push_back(2); view.push_back(1); }
      Tensor c = batch ? x - x.mean(dims, true) : x - st[0].view(view) - st[1].view(view);
      if (batch) c = c - c.mean(dims, true);
      double eps = ctx->saved_data["eps"].toDouble();
      Tensor inv = batch ? (c.square().mean(dims, true) + eps).rsqrt() : st[2].view(view);
      Tensor h = c * inv, scale = w.defined() ? w.view(view) * inv : inv;
      dx = batch ? scale * (dy - dy.mean(dims, true) - h * (dy * h).mean(dims, true)) : scale * dy;
      dw = (dy * h).sum(dims), db = dy.sum(dims);
    } else {
      Tensor both = at::empty({2, x.size(1)}, x.options());
      dx = fresh(x);
      if (x.scalar_type() == at::kFloat) ::backward<float>(dy, x, st, dx, both, batch);
      else ::backward<double>(dy, x, st, dx, both, batch);
      dw = both.select(0, 0), db = both.select(0, 1);
    }
    if (!w.defined()) dw = none;
    if (!ctx->saved_data["bias"].toBool()) db = none;
    return {dx, dw, db, none, none, none, none, none};
  }
};
"""

ENTRY = r"""
// None where this kernel does not apply; the caller then takes the plain layer
Maybe batch_norm(const Tensor& x, const Maybe& w_, const Maybe& b_, const Maybe& mean_,
                 const Maybe& var_, const Maybe& count_, bool training,
                 std::optional<double> momentum, double eps) {
  auto type = x.scalar_type();
  if (type != at::kFloat && type != at::kDouble) return {};
  if (x.dim() < 2 || x.dim() > 3 || !plain(x) || !x.numel() || !(eps > 0)) return {};
  bool batch = training || !mean_;
  if (mean_.has_value() != var_.has_value() || (batch && x.numel() == x.size(1))) return {};
  for (auto* t : {&w_, &b_, &mean_, &var_})
    if (*t && ((*t)->scalar_type() != type || (*t)->numel() != x.size(1) || !plain(**t))) return {};
  if (training && count_ && (count_->scalar_type() != at::kLong || !plain(*count_))) return {};
  double factor = 0;
  if (training) factor = count_batch(given(mean_), given(var_), given(count_), momentum);
  auto learns = [](const Maybe& t) { return t && t->requires_grad(); };
  if (at::GradMode::is_enabled() && (x.requires_grad() || learns(w_) || learns(b_)))
    return BatchNorm::apply(x, w_, b_, mean_, var_, batch, factor, eps);
  return compute(x, w_, b_, mean_, var_, batch, factor, eps).first;
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  auto unlocked = py::call_guard<py::gil_scoped_release>();
  m.def("batch_norm", &batch_norm, unlocked);
  py::class_<Step>(m, "Step").def(py::init<double, double, double>()).def("add", &Step::add)
      .def("__call__", &Step::operator(), unlocked);
}
"""
