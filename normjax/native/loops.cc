// See loops.h. Compiled once per processor level; NORMJAX_LEVEL is the table's
// name.
//
// Nothing here may come from a header's inline functions: the linker keeps one
// copy of those for all levels, perhaps one that this processor cannot run.
// `-ffast-math` is out of the question: it would turn (x - mean) - tail into
// x - (mean + tail), which is x - mean.

#include "loops.h"

#define INLINE inline __attribute__((always_inline))
#define RESTRICT __restrict__

namespace normjax {
namespace {

// As many adjacent elements as a register holds.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// So many elements are summed in float32: the fewer, the fewer sums are taken
// side by side, since each loses up to half a unit in every addition.
constexpr Index kBlock = 64 * kLanes;

template <class To, class From>
INLINE To Bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &value, sizeof(To));
  return result;
}

// The conversions below take one element or, as `U` and `F`, vectors of them.

template <class F, class U>
INLINE F Widen(Bfloat16, U bits) {
  return Bits<F>(bits << 16);
}

template <class U, class F>
INLINE U Narrow(Bfloat16, F value) {
  U bits = Bits<U>(value);
  // To the nearest, ties to even; a carry out of the mantissa is right too.
  U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  U quiet = (bits >> 16) | 0x40;
  return value != value ? quiet : rounded;
}

template <class F, class U>
INLINE F Widen(Float16, U half) {
  U magnitude = (half & 0x7fff) << 13;
  U normal = magnitude + (112u << 23);
  U infinite = magnitude + (224u << 23);
  // Subnormal: 2^-14 * (1 + m) - 2^-14, where no float32 is subnormal.
  U small = Bits<U>(Bits<F>(magnitude + (113u << 23)) - 0x1p-14f);
  U bits = magnitude < (1u << 23) ? small : normal;
  bits = magnitude >= (31u << 23) ? infinite : bits;
  return Bits<F>(bits | (half & 0x8000) << 16);
}

template <class U, class F>
INLINE U Narrow(Float16, F value) {
  U bits = Bits<U>(value);
  U magnitude = bits & 0x7fffffff;
  U normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // The unit in the last place of 1/2 is that of half's subnormals.
  U small = Bits<U>(Bits<F>(magnitude) + 0.5f) - (126u << 23);
  U infinite = magnitude * 0 + 0x7c00, quiet = infinite | 0x200;
  U half = magnitude < (113u << 23) ? small : normal;
  half = magnitude >= (143u << 23) ? infinite : half;
  half = magnitude > (255u << 23) ? quiet : half;
  return half | ((bits >> 16) & 0x8000);
}

INLINE float Load(const float* x) { return *x; }

INLINE void Store(float* y, float value) { *y = value; }

template <class T>
INLINE float Load(const T* x) {
  return Widen<float>(T{}, static_cast<uint32_t>(x->bits));
}

template <class T>
INLINE void Store(T* y, float value) {
  y->bits = static_cast<uint16_t>(Narrow<uint32_t>(T{}, value));
}

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

INLINE void LoadVector(const float* x, Vector* result) {
  __builtin_memcpy(result, x, sizeof(*result));
}

template <class T>
INLINE void LoadVector(const T* x, Vector* result) {
  Halves bits;
  __builtin_memcpy(&bits, x, sizeof(bits));
  *result = Widen<Vector>(T{}, __builtin_convertvector(bits, Words));
}

template <int kSize>
struct Half {
  typedef float Type __attribute__((vector_size(kSize * sizeof(float) / 2)));
};

template <int kSize, class V>
INLINE float Sum(const V& v) {
  if constexpr (kSize == 2) {
    return v[0] + v[1];
  } else {
    typename Half<kSize>::Type low, high;
    __builtin_memcpy(&low, &v, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low),
                     sizeof(high));
    return Sum<kSize / 2>(low + high);
  }
}

struct BlockSums {
  float deviations, squares;
};

// Sums of x - center, and of its square if `kSquares`. Into several
// accumulators, which hides the latency of an addition, and in one stream,
// which processors prefetch best.
template <bool kSquares, class T>
INLINE BlockSums SumBlock(const T* x, Index n, float center) {
  Vector s0 = {}, s1 = {}, s2 = {}, s3 = {}, q0 = {}, q1 = {}, q2 = {}, q3 = {};
  Index j = 0;
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    Vector e0, e1, e2, e3;
    LoadVector(x + j, &e0);
    LoadVector(x + j + kLanes, &e1);
    LoadVector(x + j + 2 * kLanes, &e2);
    LoadVector(x + j + 3 * kLanes, &e3);
    e0 -= center, e1 -= center, e2 -= center, e3 -= center;
    s0 += e0, s1 += e1, s2 += e2, s3 += e3;
    if (kSquares) q0 += e0 * e0, q1 += e1 * e1, q2 += e2 * e2, q3 += e3 * e3;
  }
  for (; j + kLanes <= n; j += kLanes) {
    Vector e;
    LoadVector(x + j, &e);
    e -= center;
    s0 += e;
    if (kSquares) q0 += e * e;
  }
  float s = 0, q = 0;
  for (; j < n; ++j) {
    float e = Load(x + j) - center;
    s += e;
    if (kSquares) q += e * e;
  }
  return {s + Sum<kLanes>((s0 + s1) + (s2 + s3)),
          kSquares ? q + Sum<kLanes>((q0 + q1) + (q2 + q3)) : 0};
}

template <class T>
void RunMoments(const T* x, Index n, bool centered, double* mean, double* m2) {
  double count = 0, average = 0, total = 0;
  for (Index begin = 0; begin < n; begin += kBlock) {
    Index end = begin + kBlock < n ? begin + kBlock : n;
    const T* block = x + begin;
    if (!centered) {
      total += SumBlock<true>(block, end - begin, 0).squares;
      continue;
    }
    // Around the block's own mean, which is found around its first element: a
    // constant block is exactly that.
    double size = static_cast<double>(end - begin), reciprocal = 1 / size;
    float center = Load(block);
    float rough = SumBlock<false>(block, end - begin, center).deviations;
    center += static_cast<float>(rough * reciprocal);
    BlockSums sums = SumBlock<true>(block, end - begin, center);
    double shift = sums.deviations * reciprocal;
    double within = sums.squares - shift * sums.deviations;
    if (within < 0) within = 0;
    if (begin == 0) {
      count = size, average = center + shift, total = within;
      continue;
    }
    // Merged as in Chan, Golub & LeVeque, 1983.
    double gap = (center - average) + shift;
    double share = size / (count + size);
    average += gap * share;
    total += within + gap * gap * (count * share);
    count += size;
  }
  *mean = average;
  *m2 = total;
}

template <class T>
void RowAffine(const T* RESTRICT x, T* RESTRICT y, Index n, float mean,
               float tail, float factor, const float* RESTRICT gain,
               const float* RESTRICT bias) {
#pragma omp simd
  for (Index j = 0; j < n; ++j) {
    Store(y + j, ((Load(x + j) - mean) - tail) * (gain[j] * factor) + bias[j]);
  }
}

template <class T>
void RunAffine(const T* RESTRICT x, T* RESTRICT y, Index n, float mean,
               float tail, float factor, float bias) {
#pragma omp simd
  for (Index j = 0; j < n; ++j) {
    Store(y + j, ((Load(x + j) - mean) - tail) * factor + bias);
  }
}

template <class T>
void RowsSums(const T* RESTRICT x, const T* RESTRICT dy, Index rows,
              Index stride, Index width, const float* mean, const float* tail,
              const float* factor, const float* RESTRICT gain,
              float* RESTRICT d_gain, float* RESTRICT d_bias, double* sums,
              double* products) {
  for (Index begin = 0; begin < width; begin += kBlock) {
    Index end = begin + kBlock < width ? begin + kBlock : width;
    if (rows == kRows) {
      const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
      const T *d1 = dy + stride, *d2 = d1 + stride, *d3 = d2 + stride;
      float m0 = mean[0], m1 = mean[1], m2 = mean[2], m3 = mean[3];
      float t0 = tail[0], t1 = tail[1], t2 = tail[2], t3 = tail[3];
      float f0 = factor[0], f1 = factor[1], f2 = factor[2], f3 = factor[3];
      float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      float p0 = 0, p1 = 0, p2 = 0, p3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, p0, p1, p2, p3)
      for (Index j = begin; j < end; ++j) {
        float g = gain[j];
        float g0 = Load(dy + j), g1 = Load(d1 + j);
        float g2 = Load(d2 + j), g3 = Load(d3 + j);
        float h0 = ((Load(x + j) - m0) - t0) * f0 * g0;
        float h1 = ((Load(x1 + j) - m1) - t1) * f1 * g1;
        float h2 = ((Load(x2 + j) - m2) - t2) * f2 * g2;
        float h3 = ((Load(x3 + j) - m3) - t3) * f3 * g3;
        s0 += g0 * g, s1 += g1 * g, s2 += g2 * g, s3 += g3 * g;
        p0 += h0 * g, p1 += h1 * g, p2 += h2 * g, p3 += h3 * g;
        d_gain[j] += (h0 + h1) + (h2 + h3);
        d_bias[j] += (g0 + g1) + (g2 + g3);
      }
      sums[0] += s0, sums[1] += s1, sums[2] += s2, sums[3] += s3;
      products[0] += p0, products[1] += p1;
      products[2] += p2, products[3] += p3;
      continue;
    }
    for (Index i = 0; i < rows; ++i) {
      const T *xi = x + i * stride, *di = dy + i * stride;
      float m = mean[i], t = tail[i], f = factor[i], s = 0, p = 0;
#pragma omp simd reduction(+ : s, p)
      for (Index j = begin; j < end; ++j) {
        float g = Load(di + j), h = ((Load(xi + j) - m) - t) * f * g;
        s += g * gain[j], p += h * gain[j];
        d_gain[j] += h, d_bias[j] += g;
      }
      sums[i] += s, products[i] += p;
    }
  }
}

template <class T>
void RunSums(const T* RESTRICT x, const T* RESTRICT dy, Index n, float mean,
             float tail, float factor, double* sum, double* product) {
  for (Index begin = 0; begin < n; begin += kBlock) {
    Index size = n - begin < kBlock ? n - begin : kBlock, half = size / 2;
    const T *xa = x + begin, *xb = xa + half;
    const T *da = dy + begin, *db = da + half;
    float s0 = 0, s1 = 0, p0 = 0, p1 = 0;
#pragma omp simd reduction(+ : s0, s1, p0, p1)
    for (Index j = 0; j < half; ++j) {
      float g0 = Load(da + j), g1 = Load(db + j);
      s0 += g0, p0 += ((Load(xa + j) - mean) - tail) * factor * g0;
      s1 += g1, p1 += ((Load(xb + j) - mean) - tail) * factor * g1;
    }
    if (size % 2) {
      float g = Load(da + size - 1);
      s0 += g, p0 += ((Load(xa + size - 1) - mean) - tail) * factor * g;
    }
    *sum += s0 + s1;
    *product += p0 + p1;
  }
}

template <class T>
void RowGradient(const T* RESTRICT x, const T* RESTRICT dy, T* RESTRICT dx,
                 Index n, float mean, float tail, float factor, float offset,
                 float slope, const float* RESTRICT gain) {
#pragma omp simd
  for (Index j = 0; j < n; ++j) {
    float c = (Load(x + j) - mean) - tail;
    Store(dx + j, (Load(dy + j) * (gain[j] * factor) - offset) - c * slope);
  }
}

template <class T>
void RunGradient(const T* RESTRICT x, const T* RESTRICT dy, T* RESTRICT dx,
                 Index n, float mean, float tail, float factor, float offset,
                 float slope) {
#pragma omp simd
  for (Index j = 0; j < n; ++j) {
    float c = (Load(x + j) - mean) - tail;
    Store(dx + j, (Load(dy + j) * factor - offset) - c * slope);
  }
}

template <class T>
void LanesSum(const T* RESTRICT x, Index rows, Index stride, Index width,
              const float* RESTRICT pivot, float* RESTRICT sums) {
  Index i = 0;
  for (; i + 4 <= rows; i += 4, x += 4 * stride) {
    const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float p = pivot[j];
      sums[j] += ((Load(x + j) - p) + (Load(x1 + j) - p)) +
                 ((Load(x2 + j) - p) + (Load(x3 + j) - p));
    }
  }
  for (; i < rows; ++i, x += stride) {
#pragma omp simd
    for (Index j = 0; j < width; ++j) sums[j] += Load(x + j) - pivot[j];
  }
}

template <class T>
void LanesDeviations(const T* RESTRICT x, Index rows, Index stride, Index width,
                     const float* RESTRICT center, float* RESTRICT sums,
                     float* RESTRICT squares) {
  Index i = 0;
  for (; i + 4 <= rows; i += 4, x += 4 * stride) {
    const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float a = center[j];
      float e0 = Load(x + j) - a, e1 = Load(x1 + j) - a;
      float e2 = Load(x2 + j) - a, e3 = Load(x3 + j) - a;
      sums[j] += (e0 + e1) + (e2 + e3);
      squares[j] += (e0 * e0 + e1 * e1) + (e2 * e2 + e3 * e3);
    }
  }
  for (; i < rows; ++i, x += stride) {
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float e = Load(x + j) - center[j];
      sums[j] += e, squares[j] += e * e;
    }
  }
}

template <class T>
void LanesAffine(const T* RESTRICT x, T* RESTRICT y, Index rows, Index stride,
                 Index width, const float* RESTRICT mean,
                 const float* RESTRICT tail, const float* RESTRICT factor,
                 const float* RESTRICT bias) {
  Index i = 0;
  for (; i + 4 <= rows; i += 4, x += 4 * stride, y += 4 * stride) {
    const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    T *y1 = y + stride, *y2 = y1 + stride, *y3 = y2 + stride;
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float m = mean[j], t = tail[j], f = factor[j], b = bias[j];
      Store(y + j, ((Load(x + j) - m) - t) * f + b);
      Store(y1 + j, ((Load(x1 + j) - m) - t) * f + b);
      Store(y2 + j, ((Load(x2 + j) - m) - t) * f + b);
      Store(y3 + j, ((Load(x3 + j) - m) - t) * f + b);
    }
  }
  for (; i < rows; ++i, x += stride, y += stride) {
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      Store(y + j, ((Load(x + j) - mean[j]) - tail[j]) * factor[j] + bias[j]);
    }
  }
}

template <class T>
void LanesSums(const T* RESTRICT x, const T* RESTRICT dy, Index rows,
               Index stride, Index width, const float* RESTRICT mean,
               const float* RESTRICT tail, float* RESTRICT sums,
               float* RESTRICT products) {
  Index i = 0;
  for (; i + 4 <= rows; i += 4, x += 4 * stride, dy += 4 * stride) {
    const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    const T *d1 = dy + stride, *d2 = d1 + stride, *d3 = d2 + stride;
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float m = mean[j], t = tail[j];
      float g0 = Load(dy + j), g1 = Load(d1 + j);
      float g2 = Load(d2 + j), g3 = Load(d3 + j);
      sums[j] += (g0 + g1) + (g2 + g3);
      products[j] += (g0 * ((Load(x + j) - m) - t) +
                      g1 * ((Load(x1 + j) - m) - t)) +
                     (g2 * ((Load(x2 + j) - m) - t) +
                      g3 * ((Load(x3 + j) - m) - t));
    }
  }
  for (; i < rows; ++i, x += stride, dy += stride) {
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float g = Load(dy + j);
      sums[j] += g, products[j] += g * ((Load(x + j) - mean[j]) - tail[j]);
    }
  }
}

template <class T>
void LanesGradient(const T* RESTRICT x, const T* RESTRICT dy, T* RESTRICT dx,
                   Index rows, Index stride, Index width,
                   const float* RESTRICT mean, const float* RESTRICT tail,
                   const float* RESTRICT factor, const float* RESTRICT offset,
                   const float* RESTRICT slope) {
  for (Index i = 0; i < rows; ++i, x += stride, dy += stride, dx += stride) {
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float c = (Load(x + j) - mean[j]) - tail[j];
      Store(dx + j, (Load(dy + j) * factor[j] - offset[j]) - c * slope[j]);
    }
  }
}

template <class T>
void Convert(const T* RESTRICT x, Index n, float* RESTRICT out) {
  for (Index j = 0; j < n; ++j) out[j] = Load(x + j);
}

template <class T>
constexpr Loops<T> LoopsFor() {
  return {RunMoments<T>, RowAffine<T>,     RunAffine<T>, RowsSums<T>,
          RunSums<T>,    RowGradient<T>,   RunGradient<T>, LanesSum<T>,
          LanesDeviations<T>, LanesAffine<T>, LanesSums<T>, LanesGradient<T>,
          Convert<T>};
}

}  // namespace

extern const AllLoops NORMJAX_LEVEL;
const AllLoops NORMJAX_LEVEL = {LoopsFor<float>(), LoopsFor<Bfloat16>(),
                                LoopsFor<Float16>()};

}  // namespace normjax
