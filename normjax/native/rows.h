// Norms whose every row has one mean: layer norm, and whatever keeps its
// channels in front.

#ifndef NORMJAX_NATIVE_ROWS_H_
#define NORMJAX_NATIVE_ROWS_H_

#include <vector>

#include "layout.h"
#include "loops.h"
#include "parallel.h"

namespace normjax {

// Sums of one part for the parameters' gradients, one per place in the period,
// or, where the period is longer than a row, per place of the part's range.
class ParameterSums {
 public:
  ParameterSums() = default;
  explicit ParameterSums(Index size)
      : gain_(size), bias_(size), d_gain(size), d_bias(size) {}

  float* gain() { return gain_.data(); }
  float* bias() { return bias_.data(); }

  // Called after something was added everywhere: moves short sums to the long
  // ones before they get inaccurate.
  void Added() {
    if (++additions_ == 32) Flush();
  }

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
        // What comes from memory is best read in few streams, unless rows are
        // long; in the cache four rows at a time are faster.
        at_once_(sizeof(T) * layout.reduced >= 6144 ||
                         sizeof(T) * layout.size() <= (4 << 20)
                     ? kRows
                     : 1),
        gain_(Spread(gain, has_gain, 1)) {}

  void Normalize(xla::ffi::ThreadPool& pool, const float* bias, bool has_bias,
                 T* y, float* mean, float* tail, float* m2) {
    Parameter shift = Spread(bias, has_bias, 0);
    auto apply = [&](Index a, Index rows, Index begin, Index end) {
      float factor[kRows];
      for (Index i = 0; i < rows; ++i) {
        factor[i] = layout_.ReciprocalDeviation(m2[a + i]);
      }
      Pieces(a, rows, begin, end, [&](const Piece& p) {
        const T* from = x_ + p.start;
        Index i = p.row - a;
        if (layout_.runs()) {
          loops_.run_affine(from, y + p.start, p.size, mean[p.row],
                            tail[p.row], factor[i] * gain_[p.place],
                            shift[p.place]);
        } else {
          loops_.rows_affine(from, y + p.start, p.rows, layout_.reduced, p.size,
                             mean + p.row, tail + p.row, factor + i,
                             &gain_[p.place], &shift[p.place]);
        }
      });
    };
    auto write = [&](Index a, double average, double squares) {
      mean[a] = static_cast<float>(average);
      tail[a] = static_cast<float>(average - mean[a]);
      m2[a] = static_cast<float>(squares);
    };
    if (!division_.split) {
      ForEachPart(pool, division_.parts, [&](Index part) {
        ForEachRows(division_.Of(part), [&](Index a, Index rows) {
          for (Index i = a; i < a + rows; ++i) {
            double average, squares;
            loops_.moments(x_ + i * layout_.reduced, layout_.reduced,
                           layout_.centered, &average, &squares);
            write(i, average, squares);
          }
          apply(a, rows, 0, layout_.reduced);
        });
      });
      return;
    }
    Index outer = layout_.outer;
    std::vector<double> means(division_.parts * outer), squares(means.size());
    ForEachPart(pool, division_.parts, [&](Index part) {
      auto range = division_.Of(part);
      for (Index a = 0; a < outer; ++a) {
        loops_.moments(x_ + a * layout_.reduced + range.begin,
                       range.end - range.begin, layout_.centered,
                       &means[part * outer + a], &squares[part * outer + a]);
      }
    });
    for (Index part = 1; part < division_.parts; ++part) {
      auto range = division_.Of(part);
      Merge(range.begin, range.end - range.begin, outer, &means[part * outer],
            &squares[part * outer], &means[0], &squares[0]);
    }
    for (Index a = 0; a < outer; ++a) write(a, means[a], squares[a]);
    ForEachPart(pool, division_.parts, [&](Index part) {
      auto range = division_.FromTheEnd(part);
      ForEachRows(range, [&](Index a, Index rows) {
        apply(a, rows, range.begin, range.end);
      });
    });
  }

  // See `loops.h` for what is summed.
  void Pullback(xla::ffi::ThreadPool& pool, const T* dy, const float* mean,
                const float* tail, const float* m2, T* dx, float* d_gain,
                float* d_bias) {
    std::vector<ParameterSums> parameters(division_.parts);
    auto sum = [&](Index a, Index rows, Index begin, Index end,
                   ParameterSums& to, double* sums, double* products) {
      float factor[kRows];
      for (Index i = 0; i < rows; ++i) {
        factor[i] = layout_.ReciprocalDeviation(m2[a + i]);
        sums[i] = products[i] = 0;
      }
      Pieces(a, rows, begin, end, [&](const Piece& p) {
        Index i = p.row - a;
        const T *from = x_ + p.start, *from_dy = dy + p.start;
        if (layout_.runs()) {
          double s = 0, h = 0;
          loops_.run_sums(from, from_dy, p.size, mean[p.row], tail[p.row],
                          factor[i], &s, &h);
          to.d_gain[p.place] += h;
          to.d_bias[p.place] += s;
          sums[i] += s * gain_[p.place];
          products[i] += h * gain_[p.place];
          return;
        }
        Index place = p.place;
        if (period_.cycle >= layout_.reduced) {
          Index row = p.place / layout_.reduced;
          place = p.place % layout_.reduced - begin + row * (end - begin);
        }
        loops_.rows_sums(from, from_dy, p.rows, layout_.reduced, p.size,
                         mean + p.row, tail + p.row, factor + i,
                         &gain_[p.place], to.gain() + place, to.bias() + place,
                         sums + i, products + i);
        if (p.place < layout_.reduced) to.Added();
      });
    };
    auto differentiate = [&](Index a, Index rows, Index begin, Index end,
                             const double* sums, const double* products) {
      float factor[kRows], offset[kRows], slope[kRows];
      for (Index i = 0; i < rows; ++i) {
        double r = factor[i] = layout_.ReciprocalDeviation(m2[a + i]);
        double n = static_cast<double>(layout_.reduced);
        offset[i] = layout_.centered ? static_cast<float>(r * sums[i] / n) : 0;
        slope[i] = static_cast<float>(r * r * products[i] / n);
      }
      Pieces(a, rows, begin, end, [&](const Piece& p) {
        Index i = p.row - a;
        const T *from = x_ + p.start, *from_dy = dy + p.start;
        if (layout_.runs()) {
          loops_.run_gradient(from, from_dy, dx + p.start, p.size, mean[p.row],
                              tail[p.row], factor[i] * gain_[p.place],
                              offset[i], slope[i]);
        } else {
          loops_.rows_gradient(from, from_dy, dx + p.start, p.rows,
                               layout_.reduced, p.size, mean + p.row,
                               tail + p.row, factor + i, offset + i, slope + i,
                               &gain_[p.place]);
        }
      });
    };
    if (!division_.split) {
      ForEachPart(pool, division_.parts, [&](Index part) {
        parameters[part] = ParameterSums(SumsOf(division_.Of(part)));
        ForEachRows(division_.Of(part), [&](Index a, Index rows) {
          double sums[kRows], products[kRows];
          sum(a, rows, 0, layout_.reduced, parameters[part], sums, products);
          differentiate(a, rows, 0, layout_.reduced, sums, products);
        });
        parameters[part].Flush();
      });
    } else {
      Index outer = layout_.outer;
      std::vector<double> sums(division_.parts * outer), products(sums.size());
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.Of(part);
        parameters[part] = ParameterSums(SumsOf(range));
        ForEachRows(range, [&](Index a, Index rows) {
          sum(a, rows, range.begin, range.end, parameters[part],
              &sums[part * outer + a], &products[part * outer + a]);
        });
        parameters[part].Flush();
      });
      for (size_t i = outer; i < sums.size(); ++i) {
        sums[i % outer] += sums[i];
        products[i % outer] += products[i];
      }
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.FromTheEnd(part);
        ForEachRows(range, [&](Index a, Index rows) {
          differentiate(a, rows, range.begin, range.end, &sums[a],
                        &products[a]);
        });
      });
    }
    Total(parameters, &ParameterSums::d_gain, d_gain);
    Total(parameters, &ParameterSums::d_bias, d_bias);
  }

 private:
  // A stretch of `rows` rows that reads on in the parameters without a break.
  struct Piece {
    Index row, rows;
    Index start;  // In x.
    Index size;
    Index place;  // Of its first element in the parameters.
  };

  Parameter Spread(const float* values, bool present, float missing) const {
    bool runs = layout_.runs();
    return Parameter(values, present, missing, layout_.features,
                     runs ? 1 : layout_.repeat,
                     runs ? layout_.features : period_.width);
  }

  template <class Work>
  void ForEachRows(const Division::Range& range, const Work& work) const {
    for (Index a = range.outer_begin; a < range.outer_end; a += at_once_) {
      work(a, std::min(at_once_, range.outer_end - a));
    }
  }

  template <class Work>
  void Pieces(Index a, Index rows, Index begin, Index end,
              const Work& work) const {
    Index reduced = layout_.reduced;
    if (layout_.runs()) {
      for (Index row = a; row < a + rows; ++row) {
        for (Index j = begin; j < end;) {
          Index start = row * reduced + j;
          Index size = std::min(end - j, layout_.run() - start % layout_.run());
          work(Piece{row, 1, start, size,
                     start / layout_.repeat % layout_.features});
          j += size;
        }
      }
    } else if (period_.cycle <= reduced) {
      for (Index j = begin; j < end;) {
        Index place = j % period_.width;
        Index size = std::min(end - j, period_.width - place);
        work(Piece{a, rows, a * reduced + j, size, place});
        j += size;
      }
    } else {
      for (Index row = a; row < a + rows; ++row) {
        work(Piece{row, 1, row * reduced + begin, end - begin,
                   row * reduced % period_.cycle + begin});
      }
    }
  }

  Index SumsOf(const Division::Range& range) const {
    if (layout_.runs()) return layout_.features;
    if (period_.cycle < layout_.reduced) return period_.width;
    return period_.cycle / layout_.reduced * (range.end - range.begin);
  }

  void Total(const std::vector<ParameterSums>& parts,
             std::vector<double> ParameterSums::*sums, float* result) const {
    if (result == nullptr) return;
    bool by_place = !layout_.runs() && period_.cycle >= layout_.reduced;
    Index width = layout_.runs() ? layout_.features : period_.width;
    std::vector<double> total(width);
    for (Index part = 0; part < division_.parts; ++part) {
      const double* from = (parts[part].*sums).data();
      auto range = division_.Of(part);
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
