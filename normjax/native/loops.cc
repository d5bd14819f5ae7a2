// See loops.h. Compiled once per processor level. NORMJAX_LEVEL is the name of
// the table of loops.
//
// Do not call inline functions of other headers here: the linker keeps one copy
// of those for all levels, which may need a newer processor than this one.
//
// Do not compile with -ffast-math: it would turn (x - mean) - tail into
// x - (mean + tail), which is x - mean.

#include "loops.h"

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE inline ALWAYS_INLINE
#define RESTRICT __restrict__

namespace normjax {
namespace {

// Elements that a vector register holds.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// At most this many additions to each float32 of a vector before its sum moves
// on to double. Each addition costs up to half a unit in the last place. So the
// number is the same on all processors, and longer vectors have longer blocks.
constexpr Index kAdditions = 64;
constexpr Index kBlock = kAdditions * kLanes;

static_assert(kRows == 4, "The loops are written out for four rows.");

template <class To, class From>
INLINE To Bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &value, sizeof(To));
  return result;
}

// The conversions below work on single elements and on vectors: `U` is for
// bits, `F` for float32.

template <class F, class U>
INLINE F Widen(Bfloat16, U bits) {
  return Bits<F>(bits << 16);
}

template <class U, class F>
INLINE U Narrow(Bfloat16, F value) {
  U bits = Bits<U>(value);
  // To nearest, ties to even. A carry from the mantissa into the exponent gives
  // the right number too.
  U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  U quiet = (bits >> 16) | 0x40;
  return value != value ? quiet : rounded;
}

template <class F, class U>
INLINE F Widen(Float16, U half) {
  U magnitude = (half & 0x7fff) << 13;
  U normal = magnitude + (112u << 23);
  U infinite = magnitude + (224u << 23);
  // Subnormal numbers as 2^-14 * (1 + m) - 2^-14, which avoids subnormal
  // float32.
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
  // The unit in the last place of the float32 1/2 is the smallest float16.
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

template <class Element, int kSize>
struct VectorOf {
  typedef Element Type __attribute__((vector_size(kSize * sizeof(Element))));
};

using Vector = VectorOf<float, kLanes>::Type;

template <class V>
INLINE void LoadVector(const float* x, V* result) {
  __builtin_memcpy(result, x, sizeof(*result));
}

template <class T, class V>
INLINE void LoadVector(const T* x, V* result) {
  constexpr int kSize = sizeof(V) / sizeof(float);
  typename VectorOf<uint16_t, kSize>::Type bits;
  __builtin_memcpy(&bits, x, sizeof(bits));
  using Words = typename VectorOf<uint32_t, kSize>::Type;
  *result = Widen<V>(T{}, __builtin_convertvector(bits, Words));
}

template <int kSize, class V>
INLINE float Sum(V v) {
  if constexpr (kSize == 1) {
    return v[0];
  } else if constexpr (kSize == 2) {
    return v[0] + v[1];
  } else {
    // Copied as a whole: if it is read in parts, the compiler keeps it in memory.
    typename VectorOf<float, kSize / 2>::Type halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return Sum<kSize / 2>(halves[0] + halves[1]);
  }
}

struct BlockSums {
  float deviations, squares;
};

// Sums of x - center, and of its square if `kSquares`. Several accumulators
// hide the latency of an addition. They read one stream, which processors
// prefetch best.
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

struct WideSums {
  double deviations, squares;
};

// SumBlock in double, for the rare case that float32 overflows.
template <class T>
__attribute__((noinline, cold)) WideSums SumWide(const T* x, Index n,
                                                 double center) {
  using Wide = VectorOf<double, kLanes>::Type;
  Wide s = {}, q = {};
  Index j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    Vector e;
    LoadVector(x + j, &e);
    Wide wide = __builtin_convertvector(e, Wide) - center;
    s += wide, q += wide * wide;
  }
  WideSums sums = {0, 0};
  for (int i = 0; i < kLanes; ++i) {
    sums.deviations += s[i], sums.squares += q[i];
  }
  for (; j < n; ++j) {
    double e = Load(x + j) - center;
    sums.deviations += e, sums.squares += e * e;
  }
  return sums;
}

template <class T>
void RunMoments(const T* x, Index n, bool centered, double* mean, double* m2) {
  double count = 0, average = 0, total = 0;
  for (Index begin = 0; begin < n; begin += kBlock) {
    Index end = begin + kBlock < n ? begin + kBlock : n;
    const T* block = x + begin;
    if (!centered) {
      float squares = SumBlock<true>(block, end - begin, 0).squares;
      total += __builtin_isfinite(squares)
                   ? squares
                   : SumWide(block, end - begin, 0).squares;
      continue;
    }
    // The center is the block's mean, which is computed relative to its first
    // element. So the mean of a constant block is exact.
    double size = static_cast<double>(end - begin), reciprocal = 1 / size;
    float center = Load(block);
    float rough = SumBlock<false>(block, end - begin, center).deviations;
    center += static_cast<float>(rough * reciprocal);
    BlockSums sums = SumBlock<true>(block, end - begin, center);
    double shift = sums.deviations * reciprocal;
    double within = sums.squares - shift * sums.deviations;
    if (within < 0) within = 0;
    if (!__builtin_isfinite(sums.squares)) {
      double middle = SumWide(block, end - begin, 0).deviations * reciprocal;
      within = SumWide(block, end - begin, middle).squares;
      center = static_cast<float>(middle), shift = middle - center;
    }
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

// Adds elements from j on to the sums of kCount rows: whole vectors first, then
// vectors of half the size, and so on. A row's sums must not depend on its
// neighbors. So the order of additions is the same for any kCount, and is not
// left to the compiler.
template <int kCount, int kSize, class T>
INLINE void AddRowPullbackSums(const T* RESTRICT x, const T* RESTRICT dy,
                               Index stride, Index j, Index n,
                               const float* mean, const float* tail,
                               const float* factor, const float* RESTRICT gain,
                               float* RESTRICT d_gain, float* RESTRICT d_bias,
                               float* sums, float* products) {
  static_assert(kCount == 1 || kCount == kRows);
  using V = typename VectorOf<float, kSize>::Type;
  V s0 = {}, s1 = {}, s2 = {}, s3 = {}, p0 = {}, p1 = {}, p2 = {}, p3 = {};
  auto add = [&](int i, const V& g, V& s, V& p, V& h, V& d) ALWAYS_INLINE {
    LoadVector(x + i * stride + j, &h);
    LoadVector(dy + i * stride + j, &d);
    h = ((h - mean[i]) - tail[i]) * factor[i] * d;
    s += d * g, p += h * g;
  };
  auto step = [&]() ALWAYS_INLINE {
    V g, gains, biases, h0, h1, h2, h3, d0, d1, d2, d3;
    LoadVector(gain + j, &g);
    LoadVector(d_gain + j, &gains), LoadVector(d_bias + j, &biases);
    add(0, g, s0, p0, h0, d0);
    if constexpr (kCount == kRows) {
      add(1, g, s1, p1, h1, d1);
      add(2, g, s2, p2, h2, d2);
      add(3, g, s3, p3, h3, d3);
      h0 = (h0 + h1) + (h2 + h3), d0 = (d0 + d1) + (d2 + d3);
    }
    gains += h0, biases += d0;
    __builtin_memcpy(d_gain + j, &gains, sizeof(V));
    __builtin_memcpy(d_bias + j, &biases, sizeof(V));
    j += kSize;
  };
  bool any = j + kSize <= n;
  if constexpr (kSize == kLanes) {
    while (j + kSize <= n) step();
  } else if (any) {
    step();
  }
  if (any) {
    sums[0] += Sum<kSize>(s0), products[0] += Sum<kSize>(p0);
    if constexpr (kCount == kRows) {
      sums[1] += Sum<kSize>(s1), products[1] += Sum<kSize>(p1);
      sums[2] += Sum<kSize>(s2), products[2] += Sum<kSize>(p2);
      sums[3] += Sum<kSize>(s3), products[3] += Sum<kSize>(p3);
    }
  }
  if constexpr (kSize > 1) {
    if (j < n) {
      AddRowPullbackSums<kCount, kSize / 2>(x, dy, stride, j, n, mean, tail,
                                            factor, gain, d_gain, d_bias, sums,
                                            products);
    }
  }
}

template <int kCount, class T>
INLINE void SomeRowsPullbackSums(const T* x, const T* dy, Index stride,
                                 Index width, const float* mean,
                                 const float* tail, const float* factor,
                                 const float* gain, float* d_gain,
                                 float* d_bias, double* sums,
                                 double* products) {
  for (Index begin = 0; begin < width; begin += kBlock) {
    Index end = begin + kBlock < width ? begin + kBlock : width;
    float s[kCount] = {}, p[kCount] = {};
    AddRowPullbackSums<kCount, kLanes>(x, dy, stride, begin, end, mean, tail,
                                       factor, gain, d_gain, d_bias, s, p);
    for (int i = 0; i < kCount; ++i) sums[i] += s[i], products[i] += p[i];
  }
}

template <class T>
void RowsPullbackSums(const T* x, const T* dy, Index rows, Index stride,
                      Index width, const float* mean, const float* tail,
                      const float* factor, const float* gain, float* d_gain,
                      float* d_bias, double* sums, double* products) {
  if (rows == kRows) {
    SomeRowsPullbackSums<kRows>(x, dy, stride, width, mean, tail, factor, gain,
                                d_gain, d_bias, sums, products);
    return;
  }
  for (Index i = 0; i < rows; ++i) {
    SomeRowsPullbackSums<1>(x + i * stride, dy + i * stride, stride, width,
                            mean + i, tail + i, factor + i, gain, d_gain,
                            d_bias, sums + i, products + i);
  }
}

template <class T>
void RunPullbackSums(const T* RESTRICT x, const T* RESTRICT dy, Index n,
                     float mean, float tail, float factor, double* sum,
                     double* product) {
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
void LanesShiftedSum(const T* RESTRICT x, Index rows, Index stride, Index width,
                     const float* RESTRICT pivot, float* RESTRICT sums) {
  Index i = 0;
  for (; i + kRows <= rows; i += kRows, x += kRows * stride) {
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
  for (; i + kRows <= rows; i += kRows, x += kRows * stride) {
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
  for (; i + kRows <= rows;
       i += kRows, x += kRows * stride, y += kRows * stride) {
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
void LanesPullbackSums(const T* RESTRICT x, const T* RESTRICT dy, Index rows,
                       Index stride, Index width, const float* RESTRICT mean,
                       const float* RESTRICT tail, float* RESTRICT sums,
                       float* RESTRICT products) {
  Index i = 0;
  for (; i + kRows <= rows;
       i += kRows, x += kRows * stride, dy += kRows * stride) {
    const T *x1 = x + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    const T *d1 = dy + stride, *d2 = d1 + stride, *d3 = d2 + stride;
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      float m = mean[j], t = tail[j];
      float g0 = Load(dy + j), g1 = Load(d1 + j);
      float g2 = Load(d2 + j), g3 = Load(d3 + j);
      sums[j] += (g0 + g1) + (g2 + g3);
      products[j] +=
          (g0 * ((Load(x + j) - m) - t) + g1 * ((Load(x1 + j) - m) - t)) +
          (g2 * ((Load(x2 + j) - m) - t) + g3 * ((Load(x3 + j) - m) - t));
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

void Add(const float* RESTRICT more, Index n, float* RESTRICT sums) {
#pragma omp simd
  for (Index j = 0; j < n; ++j) sums[j] += more[j];
}

template <class T>
constexpr Loops<T> LoopsFor() {
  return {RunMoments<T>,        RowAffine<T>,
          RunAffine<T>,         RowsPullbackSums<T>,
          RunPullbackSums<T>,   RowGradient<T>,
          RunGradient<T>,       LanesShiftedSum<T>,
          LanesDeviations<T>,   LanesAffine<T>,
          LanesPullbackSums<T>, LanesGradient<T>,
          Convert<T>,           Add};
}

}  // namespace

extern const AllLoops NORMJAX_LEVEL;
const AllLoops NORMJAX_LEVEL = {LoopsFor<float>(), LoopsFor<Bfloat16>(),
                                LoopsFor<Float16>()};

}  // namespace normjax
