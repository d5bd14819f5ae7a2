// The loops over data: everything that is compiled once per processor level.
//
// Sums are taken in float32 over a thousand elements or so, around a centre
// within their range, and are then added up in double. Where float32 overflows,
// moments are taken anew in double.

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

// Sums may be taken over four rows at once: independent sums hide the latency
// of an addition, and what the rows have in common is loaded once.
constexpr Index kRows = 4;

// The loops for elements of type T. Arrays named `gain`, `bias` and `d_...`
// hold one value per element of a row, those of "lanes" loops one per lane,
// which is a place in a row. Deviations are (x - mean) - tail.
template <class T>
struct Loops {
  // Mean and sum of squared deviations of n elements; if not `centered`, zero
  // and the sum of squares. Infinite or NaN only if an element is.
  void (*moments)(const T* x, Index n, bool centered, double* mean, double* m2);

  // y = deviation * (gain * factor) + bias, in part of a row.
  void (*row_affine)(const T* x, T* y, Index n, float mean, float tail,
                     float factor, const float* gain, const float* bias);
  // The same with a gain, within `factor`, and a bias for all of it.
  void (*run_affine)(const T* x, T* y, Index n, float mean, float tail,
                     float factor, float bias);

  // With h = deviation * factor, adds sum(dy * gain) and sum(dy * gain * h) of
  // each row to `sums` and `products`, and sums over the rows of dy * h and dy
  // to `d_gain` and `d_bias`. Takes up to kRows rows that are `stride` apart.
  void (*rows_pullback_sums)(const T* x, const T* dy, Index rows, Index stride,
                             Index width, const float* mean, const float* tail,
                             const float* factor, const float* gain,
                             float* d_gain, float* d_bias, double* sums,
                             double* products);
  // Adds sum(dy) and sum(dy * h).
  void (*run_pullback_sums)(const T* x, const T* dy, Index n, float mean,
                            float tail, float factor, double* sum,
                            double* product);

  // dx = dy * (gain * factor) - offset - deviation * slope.
  void (*row_gradient)(const T* x, const T* dy, T* dx, Index n, float mean,
                       float tail, float factor, float offset, float slope,
                       const float* gain);
  void (*run_gradient)(const T* x, const T* dy, T* dx, Index n, float mean,
                       float tail, float factor, float offset, float slope);

  // Adds sum(x - pivot) over `rows` dense rows to `sums`.
  void (*lanes_shifted_sum)(const T* x, Index rows, Index stride, Index width,
                            const float* pivot, float* sums);
  // Adds sum(x - center) and sum((x - center)^2).
  void (*lanes_deviations)(const T* x, Index rows, Index stride, Index width,
                           const float* center, float* sums, float* squares);
  // y = deviation * factor + bias.
  void (*lanes_affine)(const T* x, T* y, Index rows, Index stride, Index width,
                       const float* mean, const float* tail,
                       const float* factor, const float* bias);
  // Adds sum(dy) and sum(dy * deviation).
  void (*lanes_pullback_sums)(const T* x, const T* dy, Index rows, Index stride,
                              Index width, const float* mean, const float* tail,
                              float* sums, float* products);
  // dx = dy * factor - offset - deviation * slope.
  void (*lanes_gradient)(const T* x, const T* dy, T* dx, Index rows,
                         Index stride, Index width, const float* mean,
                         const float* tail, const float* factor,
                         const float* offset, const float* slope);
  // First elements, as floats.
  void (*widen)(const T* x, Index n, float* out);
  // Adds n sums to others.
  void (*add)(const float* more, Index n, float* sums);
};

struct AllLoops {
  Loops<float> float32;
  Loops<Bfloat16> bfloat16;
  Loops<Float16> float16;
};

}  // namespace normjax

#endif  // NORMJAX_NATIVE_LOOPS_H_
