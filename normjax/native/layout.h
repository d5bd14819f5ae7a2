// Which elements share a mean and which a parameter, and how work is divided.

#ifndef NORMJAX_NATIVE_LAYOUT_H_
#define NORMJAX_NATIVE_LAYOUT_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "loops.h"

namespace normjax {

// x is [outer, reduced, inner], dense; means are over `reduced`. Element e has
// parameter (e / repeat) % features. With inner == 1 a row shares a mean; else
// `groups` groups of adjacent lanes do.
struct Layout {
  Index outer, reduced, inner, features, repeat, groups;
  float epsilon;
  bool centered;

  Index unit() const { return reduced * inner; }
  Index size() const { return outer * unit(); }
  bool lanes() const { return inner > 1; }
  // Elements that share a mean.
  Index count() const { return lanes() ? reduced * (inner / groups) : reduced; }

  // Parameters stand still over long runs, or there is one for all.
  bool runs() const { return !lanes() && (repeat >= 64 || features == 1); }
  Index run() const { return features == 1 ? size() : repeat; }
  // After this many elements the parameters begin anew.
  Index cycle() const { return features * repeat; }

  bool valid() const {
    if (outer < 0 || reduced < 0 || inner < 1 || features < 1 || repeat < 1) {
      return false;
    }
    if (lanes()) {
      return repeat == 1 && features == inner && groups >= 1 &&
             inner % groups == 0;
    }
    if (features == 1 || reduced == 0) return true;
    if (repeat > 1 && reduced % repeat != 0 && repeat % reduced != 0) {
      return false;
    }
    return reduced % cycle() == 0 || cycle() % reduced == 0;
  }

  // What a group's elements are standardized by: ((x - mean) - tail) * factor.
  struct Standard {
    float mean, tail, factor;
  };

  // A group whose squares add up to more than float32 holds has a factor of
  // zero. It comes out as zero too if nothing is subtracted from it: even the
  // deviations may be infinite.
  Standard StandardOf(float mean, float tail, float m2) const {
    float factor = 1 / std::sqrt(m2 / static_cast<float>(count()) + epsilon);
    bool huge = m2 > std::numeric_limits<float>::max();
    return {huge ? 0 : mean, huge ? 0 : tail, factor};
  }
};

// Sums of squares in double are infinite only if an element is: its group is
// to be NaN, unlike one whose squares are merely large.
inline float RoundSquares(double m2) {
  if (std::isinf(m2)) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(m2);
}

// Short cycles, of the parameters or of the lanes, are laid out several times
// in a row, which makes inner loops long.
struct Period {
  Index cycle;  // In elements.
  Index width;  // A multiple of it.

  explicit Period(const Layout& layout) : cycle(layout.cycle()) {
    auto reaching = [&](Index size) { return (size - 1 + cycle) / cycle; };
    Index copies = 1;
    if (layout.lanes()) {
      // 4 kB, so that four rows of this width are on four pages, which is what
      // processors prefetch best; less where laying out would take too long.
      copies = std::min({layout.reduced, reaching(1024),
                         std::max(layout.reduced / 32, reaching(64))});
    } else if (!layout.runs() && cycle < 256 && cycle < layout.reduced) {
      copies = std::min(reaching(512), layout.reduced / cycle);
    }
    width = cycle * copies;
  }
};

// A parameter laid out over `width` elements; `missing` where there is none.
class Parameter {
 public:
  Parameter(const float* values, bool present, float missing, Index features,
            Index repeat, Index width)
      : values_(values) {
    if (present && width == features) return;
    laid_out_.resize(static_cast<size_t>(width), missing);
    values_ = laid_out_.data();
    if (!present) return;
    for (auto to = laid_out_.begin(); to != laid_out_.end();) {
      for (Index f = 0; f < features; ++f) {
        to = std::fill_n(to, repeat, values[f]);
      }
    }
  }
  Parameter(const Parameter&) = delete;

  const float& operator[](Index j) const { return values_[j]; }

 private:
  std::vector<float> laid_out_;
  const float* values_;
};

// Adds the moments of `count` more elements per lane to those of `so_far`.
inline void Merge(Index so_far, Index count, Index lanes, const double* mean,
                  const double* m2, double* total_mean, double* total_m2) {
  if (count == 0) return;
  double share = static_cast<double>(count) / (so_far + count);
  double weight = so_far * share;
  for (Index c = 0; c < lanes; ++c) {
    double gap = mean[c] - total_mean[c];
    total_mean[c] += gap * share;
    total_m2[c] += m2[c] + gap * gap * weight;
  }
}

// So many elements of a row, or of an image of lanes, are worth the addition of
// their sums.
constexpr Index kRowSegment = 1024, kLanesSegment = 16384;
constexpr Index kMaxSegments = 32;

// How sums are taken and how the work is divided.
//
// A unit - a row, or an image of lanes - consists of segments. Its statistics
// and sums are those of the segments, added up in order. Segments depend on
// what one unit is like, never on how many there are, so a unit's results do
// not either: they have the same bits alone and in any batch.
//
// Parts are what threads do. Normally a part has some of the units and goes
// over each twice while it is in the cache. Where there are few units, or the
// parameters' sums of the parts would be as large as the data, a part has some
// segments of all units instead: then all parts finish the statistics before
// any goes on. Parts depend on sizes alone, so results depend neither on the
// number of threads nor on which does what.
struct Division {
  Index outer;
  Index segments = 1;
  Index begin[kMaxSegments +
              1];  // Of segments, in `reduced`, and the last's end.
  Index parts = 1;
  bool split = false;

  Division(const Layout& layout, const Period& period) : outer(layout.outer) {
    // Segments begin where loops over the unit would begin anew anyway.
    Index grain = kRowSegment, shortest = kRowSegment;
    if (layout.lanes()) {
      grain = kRows * (period.width / layout.inner);
      shortest = kLanesSegment;
    } else if (!layout.runs() && period.cycle < layout.reduced) {
      grain = period.width;
    }
    Index grains = (layout.reduced + grain - 1) / grain;
    segments = std::clamp<Index>(layout.unit() / shortest, 1,
                                 std::min(grains, kMaxSegments));
    for (Index s = 0; s <= segments; ++s) {
      begin[s] = std::min(layout.reduced, grains * s / segments * grain);
    }

    constexpr Index kPartSize = 16384, kCache = 1 << 20;
    Index size = layout.size();
    Index most = std::clamp<Index>(size / (8 * kPartSize), 8, 32);
    Index parameters = layout.runs() ? layout.features : period.width;
    Index units = layout.lanes() ? layout.outer : layout.outer / kRows;
    parts = std::max<Index>(
        1, std::min({most, size / kPartSize, units, size / (8 * parameters)}));
    bool fits = parts >= 4 && layout.unit() <= kCache;
    if (size < 4 * kPartSize || fits || segments == 1) return;
    split = true;
    parts = std::min({most, size / kPartSize, segments});
  }

  // What a part has: units, segments, and where these are in `reduced`.
  struct Range {
    Index outer_begin, outer_end, first_segment, last_segment, begin, end;
  };

  Range RangeOf(Index part) const {
    Index all = split ? segments : outer;
    Index first = all * part / parts, last = all * (part + 1) / parts;
    if (split) return {0, outer, first, last, begin[first], begin[last]};
    return {first, last, 0, segments, 0, begin[segments]};
  }

  // For a second pass over the data: the cache holds what was read last.
  Range FromTheEnd(Index part) const { return RangeOf(parts - 1 - part); }

  // From the moments of every segment of n means, as [segments, n], to those of
  // all of them, in the first row.
  void Merge(Index n, double* mean, double* m2) const {
    for (Index segment = 1; segment < segments; ++segment) {
      normjax::Merge(begin[segment], begin[segment + 1] - begin[segment], n,
                     mean + segment * n, m2 + segment * n, mean, m2);
    }
  }

  // The same for sums.
  void Add(Index n, double* sums) const {
    for (Index segment = 1; segment < segments; ++segment) {
      for (Index i = 0; i < n; ++i) sums[i] += sums[segment * n + i];
    }
  }
};

}  // namespace normjax

#endif  // NORMJAX_NATIVE_LAYOUT_H_
