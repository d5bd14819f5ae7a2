// Normalization and its pullback, as XLA calls them on CPUs.
//
//   y = (x - mean) * gain / sqrt(m2 / n + epsilon) + bias
//
// See layout.h for the layout of arrays, rows.h and lanes.h for the two
// families of layouts, and loops.h for the arithmetic.

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>

#include "lanes.h"
#include "layout.h"
#include "loops.h"
#include "rows.h"
#include "xla/ffi/api/ffi.h"

namespace normjax {

#if defined(__x86_64__)
extern const AllLoops kLoopsV4, kLoopsV3;
#endif
extern const AllLoops kLoopsBase;

namespace {

namespace ffi = xla::ffi;

// The loops of a processor level, and its name.
struct Level {
  const char* name;
  const AllLoops& loops;
};

const Level& LevelOfThisProcessor() {
#if defined(__x86_64__)
  static const Level best =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") &&
              __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl")
          ? Level{"x86-64-v4", kLoopsV4}
      : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi2")
          ? Level{"x86-64-v3", kLoopsV3}
          : Level{"baseline", kLoopsBase};
#else
  static const Level best = {"baseline", kLoopsBase};
#endif
  return best;
}

using Floats = ffi::Buffer<ffi::F32>;
using FloatsOut = ffi::ResultBuffer<ffi::F32>;

ffi::Error Wrong(const std::string& what) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "normjax: " + what);
}

// A parameter that is missing has no elements.
bool Present(const Floats& parameter) { return parameter.element_count() != 0; }

ffi::Error Check(const Layout& layout, size_t size, size_t statistics,
                 std::initializer_list<size_t> parameters) {
  if (!layout.valid()) return Wrong("this layout is not supported.");
  if (size != static_cast<size_t>(layout.size())) {
    return Wrong("x must have outer * reduced * inner elements.");
  }
  if (statistics != static_cast<size_t>(layout.outer * layout.inner)) {
    return Wrong("statistics must have outer * inner elements.");
  }
  for (size_t given : parameters) {
    if (given != 0 && given != static_cast<size_t>(layout.features)) {
      return Wrong("parameters must have as many elements as features.");
    }
  }
  return ffi::Error::Success();
}

// Calls work(family) with Rows<T> or Lanes<T> for x.
template <class Work>
ffi::Error Dispatch(const Layout& layout, const ffi::AnyBuffer& x,
                    const Floats& gain, const Work& work) {
  auto with = [&](const auto& loops, const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    if (layout.lanes()) {
      Lanes<T> family(layout, loops, data, gain.typed_data(), Present(gain));
      work(family, data);
    } else {
      Rows<T> family(layout, loops, data, gain.typed_data(), Present(gain));
      work(family, data);
    }
    return ffi::Error::Success();
  };
  const AllLoops& loops = LevelOfThisProcessor().loops;
  const void* data = x.untyped_data();
  switch (x.element_type()) {
    case ffi::F32:
      return with(loops.float32, static_cast<const float*>(data));
    case ffi::BF16:
      return with(loops.bfloat16, static_cast<const Bfloat16*>(data));
    case ffi::F16:
      return with(loops.float16, static_cast<const Float16*>(data));
    default:
      return Wrong("x must be float32, bfloat16 or float16.");
  }
}

void Zero(Floats values) {
  std::fill_n(values.typed_data(), values.element_count(), 0.f);
}

ffi::Error Normalize(ffi::ThreadPool pool, ffi::AnyBuffer x, Floats gain,
                     Floats bias, ffi::Result<ffi::AnyBuffer> y, FloatsOut mean,
                     FloatsOut mean_tail, FloatsOut m2, int64_t outer,
                     int64_t reduced, int64_t inner, int64_t features,
                     int64_t repeat, int64_t groups, float epsilon,
                     bool centered) {
  Layout layout{outer,  reduced, inner,   features,
                repeat, groups,  epsilon, centered};
  ffi::Error error = Check(layout, x.element_count(), m2->element_count(),
                           {gain.element_count(), bias.element_count()});
  if (error.failure()) return error;
  if (layout.size() == 0) {
    Zero(*mean), Zero(*mean_tail), Zero(*m2);
    return error;
  }
  return Dispatch(layout, x, gain, [&](auto& family, const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    family.Normalize(pool, bias.typed_data(), Present(bias),
                     static_cast<T*>(y->untyped_data()), mean->typed_data(),
                     mean_tail->typed_data(), m2->typed_data());
  });
}

ffi::Error Pullback(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                    Floats gain, Floats mean, Floats mean_tail, Floats m2,
                    ffi::Result<ffi::AnyBuffer> dx, FloatsOut d_gain,
                    FloatsOut d_bias, int64_t outer, int64_t reduced,
                    int64_t inner, int64_t features, int64_t repeat,
                    int64_t groups, float epsilon, bool centered) {
  Layout layout{outer,  reduced, inner,   features,
                repeat, groups,  epsilon, centered};
  ffi::Error error = Check(
      layout, x.element_count(), m2.element_count(),
      {gain.element_count(), d_gain->element_count(), d_bias->element_count()});
  if (error.failure()) return error;
  if (layout.size() == 0) {
    Zero(*d_gain), Zero(*d_bias);
    return error;
  }
  return Dispatch(layout, x, gain, [&](auto& family, const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    family.Pullback(pool, static_cast<const T*>(dy.untyped_data()),
                    mean.typed_data(), mean_tail.typed_data(), m2.typed_data(),
                    static_cast<T*>(dx->untyped_data()),
                    Present(*d_gain) ? d_gain->typed_data() : nullptr,
                    Present(*d_bias) ? d_bias->typed_data() : nullptr);
  });
}

template <class Binding>
auto WithLayout(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("outer")
      .template Attr<int64_t>("reduced")
      .template Attr<int64_t>("inner")
      .template Attr<int64_t>("features")
      .template Attr<int64_t>("repeat")
      .template Attr<int64_t>("groups")
      .template Attr<float>("epsilon")
      .template Attr<bool>("centered");
}

}  // namespace
}  // namespace normjax

// The library exports nothing else.
#define NORMJAX_EXPORT extern "C" __attribute__((visibility("default")))
NORMJAX_EXPORT XLA_FFI_Error* normjax_normalize(XLA_FFI_CallFrame* frame);
NORMJAX_EXPORT XLA_FFI_Error* normjax_pullback(XLA_FFI_CallFrame* frame);
// The name of the level that the kernels use on this processor.
NORMJAX_EXPORT const char* normjax_level() {
  return normjax::LevelOfThisProcessor().name;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    normjax_normalize, normjax::Normalize,
    normjax::WithLayout(xla::ffi::Ffi::Bind()
                            .Ctx<xla::ffi::ThreadPool>()
                            .Arg<xla::ffi::AnyBuffer>()
                            .Arg<normjax::Floats>()
                            .Arg<normjax::Floats>()
                            .Ret<xla::ffi::AnyBuffer>()
                            .Ret<normjax::Floats>()
                            .Ret<normjax::Floats>()
                            .Ret<normjax::Floats>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    normjax_pullback, normjax::Pullback,
    normjax::WithLayout(xla::ffi::Ffi::Bind()
                            .Ctx<xla::ffi::ThreadPool>()
                            .Arg<xla::ffi::AnyBuffer>()
                            .Arg<xla::ffi::AnyBuffer>()
                            .Arg<normjax::Floats>()
                            .Arg<normjax::Floats>()
                            .Arg<normjax::Floats>()
                            .Arg<normjax::Floats>()
                            .Ret<xla::ffi::AnyBuffer>()
                            .Ret<normjax::Floats>()
                            .Ret<normjax::Floats>()));
