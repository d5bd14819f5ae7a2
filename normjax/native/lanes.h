// Norms of images whose lanes, or groups of adjacent lanes, have a mean each:
// batch norm, and group and instance norm with channels last. See layout.h.

#ifndef NORMJAX_NATIVE_LANES_H_
#define NORMJAX_NATIVE_LANES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "layout.h"
#include "loops.h"
#include "parallel.h"

namespace normjax {

// A chunk is what is centered by one mean and summed in float32. It has about
// this many elements, 128 kB of float32, which fits the second-level cache.
constexpr Index kChunkSize = 32768;
// Periods in a chunk. At least the first number, because every chunk has to
// fold the sums of its period into lanes. At most the second, because each
// addition to a sum in float32 costs up to half a unit in the last place.
constexpr Index kFewestPeriods = 16, kMostPeriods = 64;
// The period in lanes_gradient has at most this many elements, unless there are
// more lanes. It is shorter than in other loops because five values per
// element, 5 kB together, have to stay in the first-level cache.
constexpr Index kGradientPeriod = 256;

template <class T>
class Lanes {
 public:
  Lanes(const Layout& layout, const Loops<T>& loops, const T* x,
        const float* gain, bool has_gain)
      : layout_(layout),
        period_(layout),
        division_(layout, period_),
        loops_(loops),
        lanes_(layout.inner),
        copies_(period_.width / layout.inner),
        chunk_(std::clamp(kChunkSize / period_.width, kFewestPeriods,
                          kMostPeriods) *
               copies_),
        x_(x),
        gain_(gain, has_gain, 1, lanes_, 1, lanes_) {}

  void Normalize(xla::ffi::ThreadPool& pool, const float* bias, bool has_bias,
                 T* y, float* mean, float* tail, float* m2) {
    Parameter shift(bias, has_bias, 0, lanes_, 1, lanes_);
    auto apply = [&](Index a, Index begin, Index end) {
      PerLane means(*this), tails(*this), factors(*this), shifts(*this);
      for (Index c = 0; c < lanes_; ++c) {
        Index i = a * lanes_ + c;
        auto stats = layout_.StandardOf(mean[i], tail[i], m2[i]);
        means[c] = stats.mean, tails[c] = stats.tail;
        factors[c] = stats.factor * gain_[c], shifts[c] = shift[c];
      }
      means.Repeat(), tails.Repeat(), factors.Repeat(), shifts.Repeat();
      Rounds(a, begin, end, period_.width,
             [&](Index start, Index rows, Index width) {
               loops_.lanes_affine(x_ + start, y + start, rows, period_.width,
                                   width, means.data(), tails.data(),
                                   factors.data(), shifts.data());
             });
    };
    // Merges the moments of lanes into those of groups.
    auto write = [&](Index a, const double* averages, const double* squares) {
      Index size = lanes_ / layout_.groups, rows = layout_.reduced;
      for (Index first = 0; first < lanes_; first += size) {
        double average = 0, total = 0;
        for (Index c = first; c < first + size; ++c) average += averages[c];
        average /= static_cast<double>(size);
        for (Index c = first; c < first + size; ++c) {
          double gap = averages[c] - average;
          total += squares[c] + gap * gap * static_cast<double>(rows);
        }
        for (Index i = a * lanes_ + first, c = 0; c < size; ++i, ++c) {
          mean[i] = static_cast<float>(average);
          tail[i] = static_cast<float>(average - mean[i]);
          m2[i] = RoundSquares(total);
        }
      }
    };
    Index segments = division_.segments;
    if (!division_.split) {
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.RangeOf(part);
        std::vector<double> averages(segments * lanes_);
        std::vector<double> squares(averages.size());
        for (Index a = range.outer_begin; a < range.outer_end; ++a) {
          for (Index s = 0; s < segments; ++s) {
            Moments(a, s, &averages[s * lanes_], &squares[s * lanes_]);
          }
          division_.Merge(lanes_, averages.data(), squares.data());
          write(a, averages.data(), squares.data());
          apply(a, 0, layout_.reduced);
        }
      });
      return;
    }
    Index all = layout_.outer * lanes_;
    std::vector<double> averages(segments * all), squares(averages.size());
    ForEachPart(pool, division_.parts, [&](Index part) {
      auto range = division_.RangeOf(part);
      for (Index a = 0; a < layout_.outer; ++a) {
        for (Index s = range.first_segment; s < range.last_segment; ++s) {
          Index i = s * all + a * lanes_;
          Moments(a, s, &averages[i], &squares[i]);
        }
      }
    });
    division_.Merge(all, averages.data(), squares.data());
    for (Index a = 0; a < layout_.outer; ++a) {
      write(a, &averages[a * lanes_], &squares[a * lanes_]);
    }
    ForEachPart(pool, division_.parts, [&](Index part) {
      auto range = division_.FromTheEnd(part);
      for (Index a = 0; a < layout_.outer; ++a) {
        apply(a, range.begin, range.end);
      }
    });
  }

  void Pullback(xla::ffi::ThreadPool& pool, const T* dy, const float* mean,
                const float* tail, const float* m2, T* dx, float* d_gain,
                float* d_bias) {
    Index parts = division_.split ? 1 : division_.parts;
    std::vector<double> d_gains(parts * lanes_), d_biases(parts * lanes_);
    // From the sums of the lanes to `offset` and `slope` of lanes_gradient.
    auto reduce = [&](Index a, const double* sums, const double* products,
                      Index part, float* offset, float* slope) {
      Index size = lanes_ / layout_.groups;
      double n = static_cast<double>(layout_.count());
      for (Index first = 0; first < lanes_; first += size) {
        double r = layout_.StandardOf(0, 0, m2[a * lanes_ + first]).factor;
        double sum = 0, product = 0;
        for (Index c = first; c < first + size; ++c) {
          // If r is zero, the product may be infinite.
          double h = r == 0 ? 0 : products[c] * r;
          sum += sums[c] * gain_[c];
          product += h * gain_[c];
          d_gains[part * lanes_ + c] += h;
          d_biases[part * lanes_ + c] += sums[c];
        }
        for (Index c = first; c < first + size; ++c) {
          offset[c] = layout_.centered ? static_cast<float>(r * sum / n) : 0;
          slope[c] = static_cast<float>(r * r * product / n);
        }
      }
    };
    auto differentiate = [&](Index a, Index begin, Index end,
                             const float* offset, const float* slope) {
      PerLane means(*this), tails(*this), factors(*this);
      PerLane offsets(*this), slopes(*this);
      for (Index c = 0; c < lanes_; ++c) {
        Index i = a * lanes_ + c;
        auto stats = layout_.StandardOf(mean[i], tail[i], m2[i]);
        means[c] = stats.mean, tails[c] = stats.tail;
        factors[c] = stats.factor * gain_[c];
        offsets[c] = offset[c], slopes[c] = slope[c];
      }
      means.Repeat(), tails.Repeat(), factors.Repeat();
      offsets.Repeat(), slopes.Repeat();
      Index period =
          lanes_ * std::clamp<Index>(kGradientPeriod / lanes_, 1, copies_);
      Rounds(a, begin, end, period, [&](Index start, Index rows, Index width) {
        loops_.lanes_gradient(x_ + start, dy + start, dx + start, rows, period,
                              width, means.data(), tails.data(), factors.data(),
                              offsets.data(), slopes.data());
      });
    };
    Index segments = division_.segments;
    if (!division_.split) {
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.RangeOf(part);
        std::vector<double> sums(segments * lanes_), products(sums.size());
        std::vector<float> offset(lanes_), slope(lanes_);
        for (Index a = range.outer_begin; a < range.outer_end; ++a) {
          for (Index s = 0; s < segments; ++s) {
            PullbackSums(a, s, dy, mean, tail, &sums[s * lanes_],
                         &products[s * lanes_]);
          }
          division_.Add(lanes_, sums.data());
          division_.Add(lanes_, products.data());
          reduce(a, sums.data(), products.data(), part, offset.data(),
                 slope.data());
          differentiate(a, 0, layout_.reduced, offset.data(), slope.data());
        }
      });
    } else {
      Index all = layout_.outer * lanes_;
      std::vector<double> sums(segments * all), products(sums.size());
      std::vector<float> offset(all), slope(all);
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.RangeOf(part);
        for (Index a = 0; a < layout_.outer; ++a) {
          for (Index s = range.first_segment; s < range.last_segment; ++s) {
            Index i = s * all + a * lanes_;
            PullbackSums(a, s, dy, mean, tail, &sums[i], &products[i]);
          }
        }
      });
      division_.Add(all, sums.data()), division_.Add(all, products.data());
      for (Index a = 0; a < layout_.outer; ++a) {
        Index i = a * lanes_;
        reduce(a, &sums[i], &products[i], 0, &offset[i], &slope[i]);
      }
      ForEachPart(pool, division_.parts, [&](Index part) {
        auto range = division_.FromTheEnd(part);
        for (Index a = 0; a < layout_.outer; ++a) {
          differentiate(a, range.begin, range.end, &offset[a * lanes_],
                        &slope[a * lanes_]);
        }
      });
    }
    Total(d_gains, parts, d_gain);
    Total(d_biases, parts, d_bias);
  }

 private:
  // One value per lane, repeated to fill a period.
  class PerLane {
   public:
    explicit PerLane(const Lanes& lanes)
        : lanes_(lanes.lanes_),
          values_(static_cast<size_t>(lanes.period_.width)) {}

    float& operator[](Index lane) { return values_[lane]; }
    float* data() { return values_.data(); }

    void Clear() { std::fill(values_.begin(), values_.end(), 0.f); }

    // Fills the period with copies of the lanes. Doubles the copied length in
    // every step, because long copies are fast.
    void Repeat() {
      Index size = static_cast<Index>(values_.size());
      for (Index n = lanes_; n < size; n *= 2) {
        std::copy_n(data(), std::min(n, size - n), data() + n);
      }
    }

    // Adds all copies to the first, in pairs. One after the other, every
    // addition to a sum that contains an outlier would round as coarsely as the
    // outlier.
    void Fold(const Loops<T>& loops) {
      for (Index copies = static_cast<Index>(values_.size()) / lanes_;
           copies > 1; copies = (copies + 1) / 2) {
        Index half = (copies + 1) / 2 * lanes_;
        loops.add(data() + half, copies * lanes_ - half, data());
      }
    }

    // For sums of squares, which are not negative.
    bool Finite() const {
      int32_t finite = 1;  // As wide as a float, so that the loop vectorizes.
      for (Index c = 0; c < lanes_; ++c) {
        finite &= values_[c] <= std::numeric_limits<float>::max();
      }
      return finite;
    }

   private:
    Index lanes_;
    std::vector<float> values_;
  };

  // Calls work(start, rows, width) for all whole periods, then for the rest.
  template <class Work>
  void Rounds(Index a, Index begin, Index end, Index period,
              const Work& work) const {
    Index start = (a * layout_.reduced + begin) * lanes_;
    Index size = (end - begin) * lanes_;
    Index rows = size / period, rest = size % period;
    if (rows) work(start, rows, period);
    if (rest) work(start + rows * period, Index{1}, rest);
  }

  // Moments of the lanes of a segment. Each chunk is centered by its own mean,
  // which is computed relative to the chunk's first row. So the mean of a
  // constant lane is exact.
  void Moments(Index a, Index segment, double* mean, double* m2) const {
    Index begin = division_.begin[segment], end = division_.begin[segment + 1];
    std::fill(mean, mean + lanes_, 0.0);
    std::fill(m2, m2 + lanes_, 0.0);
    PerLane center(*this), sums(*this), squares(*this);
    std::vector<double> chunk_mean(lanes_), chunk_m2(lanes_);
    for (Index row = begin; row < end; row += chunk_) {
      Index last = std::min(end, row + chunk_);
      double n = static_cast<double>(last - row);
      if (layout_.centered) {
        loops_.widen(x_ + (a * layout_.reduced + row) * lanes_, lanes_,
                     center.data());
        center.Repeat();
        sums.Clear();
        Rounds(a, row, last, period_.width,
               [&](Index start, Index rows, Index width) {
                 loops_.lanes_shifted_sum(x_ + start, rows, period_.width,
                                          width, center.data(), sums.data());
               });
        sums.Fold(loops_);
        for (Index c = 0; c < lanes_; ++c) {
          center[c] += sums[c] / static_cast<float>(n);
        }
        center.Repeat();
      }
      sums.Clear(), squares.Clear();
      Rounds(a, row, last, period_.width,
             [&](Index start, Index rows, Index width) {
               loops_.lanes_deviations(x_ + start, rows, period_.width, width,
                                       center.data(), sums.data(),
                                       squares.data());
             });
      sums.Fold(loops_), squares.Fold(loops_);
      for (Index c = 0; c < lanes_; ++c) {
        double step = layout_.centered ? sums[c] / n : 0;
        double within = squares[c] - step * step * n;
        chunk_mean[c] = center[c] + step;
        chunk_m2[c] = within < 0 ? 0 : within;
      }
      if (!squares.Finite()) {
        WideMoments(a, row, last, squares.data(), chunk_mean.data(),
                    chunk_m2.data());
      }
      Merge(row - begin, last - row, lanes_, chunk_mean.data(), chunk_m2.data(),
            mean, m2);
    }
  }

  // Replaces the moments of lanes whose `squares` overflow float32 by moments
  // that are computed in double.
  void WideMoments(Index a, Index begin, Index end, const float* squares,
                   double* mean, double* m2) const {
    std::vector<float> x(lanes_);
    std::vector<double> average(lanes_), total(lanes_);
    auto for_each = [&](const auto& work) {
      for (Index row = begin; row < end; ++row) {
        loops_.widen(x_ + (a * layout_.reduced + row) * lanes_, lanes_,
                     x.data());
        for (Index c = 0; c < lanes_; ++c) work(c);
      }
    };
    if (layout_.centered) {
      for_each([&](Index c) { average[c] += x[c]; });
      for (double& sum : average) sum /= static_cast<double>(end - begin);
    }
    for_each([&](Index c) {
      double gap = x[c] - average[c];
      total[c] += gap * gap;
    });
    for (Index c = 0; c < lanes_; ++c) {
      if (!std::isfinite(squares[c])) mean[c] = average[c], m2[c] = total[c];
    }
  }

  // Sums of dy and of dy * deviation over a segment, per lane.
  void PullbackSums(Index a, Index segment, const T* dy, const float* mean,
                    const float* tail, double* sums, double* products) const {
    Index begin = division_.begin[segment], end = division_.begin[segment + 1];
    PerLane means(*this), tails(*this);
    PerLane chunk_sums(*this), chunk_products(*this);
    for (Index c = 0; c < lanes_; ++c) {
      means[c] = mean[a * lanes_ + c], tails[c] = tail[a * lanes_ + c];
      sums[c] = products[c] = 0;
    }
    means.Repeat(), tails.Repeat();
    for (Index row = begin; row < end; row += chunk_) {
      Index last = std::min(end, row + chunk_);
      chunk_sums.Clear(), chunk_products.Clear();
      Rounds(a, row, last, period_.width,
             [&](Index start, Index rows, Index width) {
               loops_.lanes_pullback_sums(x_ + start, dy + start, rows,
                                          period_.width, width, means.data(),
                                          tails.data(), chunk_sums.data(),
                                          chunk_products.data());
             });
      chunk_sums.Fold(loops_), chunk_products.Fold(loops_);
      for (Index c = 0; c < lanes_; ++c) {
        sums[c] += chunk_sums[c], products[c] += chunk_products[c];
      }
    }
  }

  // Adds up the parts' sums for a parameter.
  void Total(const std::vector<double>& sums, Index parts,
             float* result) const {
    if (result == nullptr) return;
    for (Index c = 0; c < lanes_; ++c) {
      double total = 0;
      for (Index part = 0; part < parts; ++part) {
        total += sums[part * lanes_ + c];
      }
      result[c] = static_cast<float>(total);
    }
  }

  const Layout layout_;
  const Period period_;
  const Division division_;
  const Loops<T>& loops_;
  const Index lanes_, copies_, chunk_;
  const T* x_;
  const Parameter gain_;
};

}  // namespace normjax

#endif  // NORMJAX_NATIVE_LANES_H_
