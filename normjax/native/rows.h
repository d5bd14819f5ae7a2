// Norms of rows that have one mean each: layer norm, and group and instance
// norm with channels first. See layout.h.

#ifndef NORMJAX_NATIVE_ROWS_H_
#define NORMJAX_NATIVE_ROWS_H_

#include <vector>

#include "layout.h"
#include "loops.h"
#include "parallel.h"

namespace normjax {

// Additions to a sum in float32 before it moves on to a sum in double. More
// would cost digits, fewer would cost time.
constexpr int kShortSum = 32;

// Rows are best read one at a time if they are short and come from memory. If a
// row is on pages of its own, or the array is in the cache, reading kRows at
// once is faster. Shortest such row, largest such array, in bytes:
constexpr size_t kLongRow = 6144, kCachedArray = 4 << 20;

// One part's sums for the gradients of the parameters: one sum per element of
// the period, or, if the period is longer than a row, per element of the part.
class ParameterSums {
 public:
  ParameterSums() = default;
  explicit ParameterSums(Index size)
      : gain_(size), bias_(size), d_gain(size), d_bias(size) {}

  float* gain() { return gain_.data(); }
  float* bias() { return bias_.data(); }

  // Call this after every sum got one more addition.
  void Added() {
    if (++additions_ == kShortSum) Flush();
  }

  // Moves the sums in float32 to those in double.
  void Flush() {
    for (size_t j = 0; j < gain_.size(); ++j) {
      d_gain[j] += gain_[j];
      d_bias[j] += bias_[j];
      gain_[j] = bias_[j] = 0;
    }
    additions_ = 0;
  }

 private:
  int additions_ = 0;
  std::vector<float> gain_, bias_;

 public:
  std::vector<double> d_gain, d_bias;
};

template <class T>
class Rows {
 public:
  Rows(const Layout& layout, const Loops<T>& loops, const T* x,
       const float* gain, bool has_gain)
      : layout_(layout),
        period_(layout),
        division_(layout, period_),
        loops_(loops),
        x_(x),
        at_once_(sizeof(T) * layout.reduced >= kLongRow ||
                         sizeof(T) * layout.size() <= kCachedArray
                     ? kRows
                     : 1),
        gain_(LayOut(gain, has_gain, 1)) {}

  void Normalize(xla::ffi::ThreadPool& pool, const float* bias, bool has_bias,
                 T* y, float* mean, float* tail, float* m2) {
    Parameter shift = LayOut(bias, has_bias, 0);
    // Moments of a row's segments, written `stride` apart.
    auto measure = [&](Index row, const Division::Range& range, Index stride,
                       double* averages, double* squares) {
      const T* from = x_ + row * layout_.reduced;
      const Index* begin = division_.begin;
      for (Index s = range.first_segment; s < range.last_segment; ++s) {
        loops_.moments(from + begin[s], begin[s + 1] - begin[s],
                       layout_.centered, averages + s * stride,
                       squares + s * stride);
      }
    };
    auto write = [&](Index row, double average, double squares) {
      mean[row] = static_cast<float>(average);
      tail[row] = static_cast<float>(average - mean[row]);
      m2[row] = RoundSquares(squares);
    };
    auto apply = [&](Index row, Index begin, Index end) {
      auto stats = layout_.StandardOf(mean[row], tail[row], m2[row]);
      float m = stats.mean, t = stats.tail, factor = stats.factor;
      ForEachPiece(row, begin, end, [&](Index start, Index size, Index place) {
        if (layout_.runs()) {
          loops_.run_affine(x_ + start, y + start, size, m, t,
                            factor * gain_[place], shift[place]);
        } else {
          loops_.row_affine(x_ + start, y + start, size, m, t, factor,
                            &gain_[place], &shift[place]);
        }
      });
    };
    if (!division_.split) {
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.RangeOf(part);
        double averages[kMaxSegments], squares[kMaxSegments];
        ForEachFew(range, at_once_, [&](Index first, Index rows) {
          for (Index row = first; row < first + rows; ++row) {
            measure(row, range, 1, averages, squares);
            division_.Merge(1, averages, squares);
            write(row, *averages, *squares);
          }
          for (Index row = first; row < first + rows; ++row) {
            apply(row, 0, layout_.reduced);
          }
        });
      });
      return;
    }
    Index outer = layout_.outer;
    std::vector<double> averages(division_.segments * outer);
    std::vector<double> squares(averages.size());
    ForEachPart(pool, division_.parts, [&](Index part) {
      auto range = division_.RangeOf(part);
      for (Index row = 0; row < outer; ++row) {
        measure(row, range, outer, &averages[row], &squares[row]);
      }
    });
    division_.Merge(outer, averages.data(), squares.data());
    for (Index row = 0; row < outer; ++row) {
      write(row, averages[row], squares[row]);
    }
    ForEachPart(pool, division_.parts, [&](Index part) {
      auto range = division_.FromTheEnd(part);
      for (Index row = 0; row < outer; ++row) {
        apply(row, range.begin, range.end);
      }
    });
  }

  void Pullback(xla::ffi::ThreadPool& pool, const T* dy, const float* mean,
                const float* tail, const float* m2, T* dx, float* d_gain,
                float* d_bias) {
    bool by_place = !layout_.runs() && period_.cycle >= layout_.reduced;
    // Sums of the segments of up to kRows rows; see rows_pullback_sums.
    auto sum = [&](Index first, Index rows, const Division::Range& range,
                   Index stride, double* sums, double* products,
                   ParameterSums& to) {
      float m[kRows], t[kRows], factor[kRows];
      for (Index i = 0; i < rows; ++i) {
        Index row = first + i;
        auto stats = layout_.StandardOf(mean[row], tail[row], m2[row]);
        m[i] = stats.mean, t[i] = stats.tail, factor[i] = stats.factor;
      }
      const Index* begin = division_.begin;
      for (Index s = range.first_segment; s < range.last_segment; ++s) {
        double *s_sums = sums + s * stride, *s_products = products + s * stride;
        std::fill_n(s_sums, rows, 0.0), std::fill_n(s_products, rows, 0.0);
        ForEachPiece(
            first, begin[s], begin[s + 1],
            [&](Index start, Index size, Index place) {
              const T *from = x_ + start, *from_dy = dy + start;
              if (layout_.runs()) {
                double g = 0, h = 0;
                loops_.run_pullback_sums(from, from_dy, size, *m, *t, *factor,
                                         &g, &h);
                to.d_gain[place] += h;
                to.d_bias[place] += g;
                *s_sums += g * gain_[place];
                *s_products += h * gain_[place];
                return;
              }
              Index target = place;
              bool everywhere = true;
              if (by_place) {
                target = place % layout_.reduced - range.begin +
                         place / layout_.reduced * (range.end - range.begin);
                everywhere = place + size == range.end;
              }
              loops_.rows_pullback_sums(from, from_dy, rows, layout_.reduced,
                                        size, m, t, factor, &gain_[place],
                                        to.gain() + target, to.bias() + target,
                                        s_sums, s_products);
              if (everywhere) to.Added();
            });
      }
    };
    auto differentiate = [&](Index row, Index begin, Index end, double sum,
                             double product) {
      auto stats = layout_.StandardOf(mean[row], tail[row], m2[row]);
      float m = stats.mean, t = stats.tail, factor = stats.factor;
      double scale = factor / static_cast<double>(layout_.reduced);
      float offset = layout_.centered ? static_cast<float>(sum * scale) : 0;
      float slope = static_cast<float>(product * scale * factor);
      ForEachPiece(row, begin, end, [&](Index start, Index size, Index place) {
        if (layout_.runs()) {
          loops_.run_gradient(x_ + start, dy + start, dx + start, size, m, t,
                              factor * gain_[place], offset, slope);
        } else {
          loops_.row_gradient(x_ + start, dy + start, dx + start, size, m, t,
                              factor, offset, slope, &gain_[place]);
        }
      });
    };
    // Rows are summed together only if their parameters are at the same place.
    bool aligned = !layout_.runs() && period_.cycle <= layout_.reduced;
    Index at_once = aligned ? at_once_ : 1;
    std::vector<ParameterSums> parameters(division_.parts);
    if (!division_.split) {
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.RangeOf(part);
        parameters[part] = ParameterSums(CountSums(range));
        double sums[kMaxSegments * kRows], products[kMaxSegments * kRows];
        ForEachFew(range, at_once, [&](Index first, Index rows) {
          sum(first, rows, range, rows, sums, products, parameters[part]);
          division_.Add(rows, sums), division_.Add(rows, products);
          for (Index i = 0; i < rows; ++i) {
            differentiate(first + i, 0, layout_.reduced, sums[i], products[i]);
          }
        });
        parameters[part].Flush();
      });
    } else {
      Index outer = layout_.outer;
      std::vector<double> sums(division_.segments * outer);
      std::vector<double> products(sums.size());
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.RangeOf(part);
        parameters[part] = ParameterSums(CountSums(range));
        ForEachFew(range, at_once, [&](Index first, Index rows) {
          sum(first, rows, range, outer, &sums[first], &products[first],
              parameters[part]);
        });
        parameters[part].Flush();
      });
      division_.Add(outer, sums.data()), division_.Add(outer, products.data());
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.FromTheEnd(part);
        for (Index row = 0; row < outer; ++row) {
          differentiate(row, range.begin, range.end, sums[row], products[row]);
        }
      });
    }
    Total(parameters, &ParameterSums::d_gain, d_gain);
    Total(parameters, &ParameterSums::d_bias, d_bias);
  }

 private:
  // Returns a parameter with a value per run, or else per element of a period.
  Parameter LayOut(const float* values, bool present, float missing) const {
    bool runs = layout_.runs();
    return Parameter(values, present, missing, layout_.features,
                     runs ? 1 : layout_.repeat,
                     runs ? layout_.features : period_.width);
  }

  // Calls work(first, rows) for all rows of a part, up to `at_once` at a time.
  template <class Work>
  void ForEachFew(const Division::Range& range, Index at_once,
                  const Work& work) const {
    for (Index row = range.outer_begin; row < range.outer_end; row += at_once) {
      work(row, std::min(at_once, range.outer_end - row));
    }
  }

  // Divides part of a row into pieces that read the parameters without a break,
  // and calls work(start, size, place) for each: where the piece starts in x,
  // its size, and where it starts in the parameters.
  template <class Work>
  void ForEachPiece(Index row, Index begin, Index end, const Work& work) const {
    Index start = row * layout_.reduced;
    if (layout_.runs()) {
      for (Index j = begin; j < end;) {
        Index run = layout_.run();
        Index size = std::min(end - j, run - (start + j) % run);
        work(start + j, size, (start + j) / layout_.repeat % layout_.features);
        j += size;
      }
    } else if (period_.cycle <= layout_.reduced) {
      // Avoids a division where it is not needed: short rows wait for it.
      Index place = begin == 0 ? 0 : begin % period_.width;
      for (Index j = begin; j < end; place = 0) {
        Index size = std::min(end - j, period_.width - place);
        work(start + j, size, place);
        j += size;
      }
    } else {
      work(start + begin, end - begin, start % period_.cycle + begin);
    }
  }

  // Returns the number of a part's sums for a parameter.
  Index CountSums(const Division::Range& range) const {
    if (layout_.runs()) return layout_.features;
    if (period_.cycle < layout_.reduced) return period_.width;
    return period_.cycle / layout_.reduced * (range.end - range.begin);
  }

  // Adds up the parts' sums for a parameter.
  void Total(const std::vector<ParameterSums>& parts,
             std::vector<double> ParameterSums::* sums, float* result) const {
    if (result == nullptr) return;
    bool by_place = !layout_.runs() && period_.cycle >= layout_.reduced;
    Index width = layout_.runs() ? layout_.features : period_.width;
    std::vector<double> total(width);
    for (Index part = 0; part < division_.parts; ++part) {
      const double* from = (parts[part].*sums).data();
      auto range = division_.RangeOf(part);
      Index stride = by_place ? layout_.reduced : width;
      Index begin = by_place ? range.begin : 0;
      Index size = by_place ? range.end - range.begin : width;
      for (Index i = begin; i < width; i += stride, from += size) {
        for (Index j = 0; j < size; ++j) total[i + j] += from[j];
      }
    }
    std::vector<double> folded(layout_.features);
    Index repeat = layout_.runs() ? 1 : layout_.repeat;
    for (auto from = total.begin(); from != total.end();) {
      for (double& sum : folded) {
        for (Index i = 0; i < repeat; ++i) sum += *from++;
      }
    }
    for (Index f = 0; f < layout_.features; ++f) {
      result[f] = static_cast<float>(folded[f]);
    }
  }

  const Layout layout_;
  const Period period_;
  const Division division_;
  const Loops<T>& loops_;
  const T* x_;
  const Index at_once_;
  const Parameter gain_;
};

}  // namespace normjax

#endif  // NORMJAX_NATIVE_ROWS_H_
