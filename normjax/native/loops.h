// The loops over data, which are compiled once per processor level.
//
// Sums are taken in float32 over about a thousand elements at a time, relative
// to a center within their range, and then added up in double. If float32
// overflows, the moments are computed again in double.

#ifndef NORMJAX_NATIVE_LOOPS_H_
#define NORMJAX_NATIVE_LOOPS_H_

#include <cstdint>

namespace normjax {

using Index = int64_t;

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// Rows that a loop reads at once. Independent sums hide the latency of an
// addition, and what the rows have in common is loaded once. The loops are
// written out for four.
constexpr Index kRows = 4;

// The loops for elements of type T.
//
// "row" loops process (part of) a row that has one mean: arrays of parameters
// have one value per element. In "run" loops the parameters are one number.
// "lanes" loops process several rows of an image: all arrays but x, y, dx and
// dy have one value per lane. A deviation is (x - mean) - tail.
template <class T>
struct Loops {
  // Mean and sum of squared deviations of n elements. If not `centered`, zero
  // and the sum of squares. Infinite or NaN only if an element is.
  void (*moments)(const T* x, Index n, bool centered, double* mean, double* m2);

  // y = deviation * (gain * factor) + bias.
  void (*row_affine)(const T* x, T* y, Index n, float mean, float tail,
                     float factor, const float* gain, const float* bias);
  // y = deviation * factor + bias. `factor` contains the gain.
  void (*run_affine)(const T* x, T* y, Index n, float mean, float tail,
                     float factor, float bias);

  // With h = deviation * factor: adds sum(dy * gain) and sum(dy * gain * h) of
  // each row to `sums` and `products`, and dy * h and dy of all rows to
  // `d_gain` and `d_bias`. Takes up to kRows rows that are `stride` apart.
  void (*rows_pullback_sums)(const T* x, const T* dy, Index rows, Index stride,
                             Index width, const float* mean, const float* tail,
                             const float* factor, const float* gain,
                             float* d_gain, float* d_bias, double* sums,
                             double* products);
  // Adds sum(dy) and sum(dy * h) of a run.
  void (*run_pullback_sums)(const T* x, const T* dy, Index n, float mean,
                            float tail, float factor, double* sum,
                            double* product);

  // dx = dy * (gain * factor) - offset - deviation * slope.
  void (*row_gradient)(const T* x, const T* dy, T* dx, Index n, float mean,
                       float tail, float factor, float offset, float slope,
                       const float* gain);
  void (*run_gradient)(const T* x, const T* dy, T* dx, Index n, float mean,
                       float tail, float factor, float offset, float slope);

  // Adds sum(x - pivot) over `rows` rows to `sums`.
  void (*lanes_shifted_sum)(const T* x, Index rows, Index stride, Index width,
                            const float* pivot, float* sums);
  // Adds sum(x - center) and sum((x - center)^2), over rows.
  void (*lanes_deviations)(const T* x, Index rows, Index stride, Index width,
                           const float* center, float* sums, float* squares);
  // y = deviation * factor + bias.
  void (*lanes_affine)(const T* x, T* y, Index rows, Index stride, Index width,
                       const float* mean, const float* tail,
                       const float* factor, const float* bias);
  // Adds sum(dy) and sum(dy * deviation), over rows.
  void (*lanes_pullback_sums)(const T* x, const T* dy, Index rows, Index stride,
                              Index width, const float* mean, const float* tail,
                              float* sums, float* products);
  // dx = dy * factor - offset - deviation * slope.
  void (*lanes_gradient)(const T* x, const T* dy, T* dx, Index rows,
                         Index stride, Index width, const float* mean,
                         const float* tail, const float* factor,
                         const float* offset, const float* slope);
  // Converts n elements to float.
  void (*widen)(const T* x, Index n, float* out);
  // Adds `more` to `sums`, n numbers each.
  void (*add)(const float* more, Index n, float* sums);
};

struct AllLoops {
  Loops<float> float32;
  Loops<Bfloat16> bfloat16;
  Loops<Float16> float16;
};

}  // namespace normjax

#endif  // NORMJAX_NATIVE_LOOPS_H_
