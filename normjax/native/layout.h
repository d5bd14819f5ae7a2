// Which elements share a mean, which share a parameter, and how the work is
// divided among threads.

#ifndef NORMJAX_NATIVE_LAYOUT_H_
#define NORMJAX_NATIVE_LAYOUT_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "loops.h"

namespace normjax {

// Runs of equal parameters that are at least this long have loops of their own,
// which read one number in place of an array. A shorter run is not worth the
// call of a loop.
constexpr Index kShortestRun = 64;

// x is a dense array [outer, reduced, inner]. Means are over `reduced`. Element
// e has parameter (e / repeat) % features.
//
// If inner == 1, x consists of rows, and each row has one mean. Otherwise x
// consists of images [reduced, inner]. A lane is a column of an image. The
// lanes are divided into `groups` groups of adjacent lanes, which share a mean.
struct Layout {
  Index outer, reduced, inner, features, repeat, groups;
  float epsilon;
  bool centered;

  // Elements of a unit, which is a row or an image.
  Index unit() const { return reduced * inner; }
  Index size() const { return outer * unit(); }
  bool lanes() const { return inner > 1; }
  // Elements that share a mean.
  Index count() const { return lanes() ? reduced * (inner / groups) : reduced; }

  // Whether parameters are equal over long runs, or over the whole array.
  bool runs() const {
    return !lanes() && (repeat >= kShortestRun || features == 1);
  }
  Index run() const { return features == 1 ? size() : repeat; }
  // Elements after which the parameters start again.
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

  // If a group's sum of squares overflows float32, its factor is zero. Its
  // deviations may overflow as well, and infinity times zero is NaN. So nothing
  // is subtracted from such a group, and the product is zero.
  Standard StandardOf(float mean, float tail, float m2) const {
    float factor = 1 / std::sqrt(m2 / static_cast<float>(count()) + epsilon);
    bool huge = m2 > std::numeric_limits<float>::max();
    return {huge ? 0 : mean, huge ? 0 : tail, factor};
  }
};

// A sum of squares in double is infinite only if an element is infinite. Such a
// group becomes NaN. A group whose squares overflow only float32 does not.
inline float RoundSquares(double m2) {
  if (std::isinf(m2)) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(m2);
}

// Limits for Period, in elements.
//
// Lanes: 4 kB of float32, because processors prefetch best if the four rows
// that a loop reads are on four pages.
constexpr Index kLanesPeriod = 1024;
// Lanes: long enough for inner loops over several vectors.
constexpr Index kShortestLanesPeriod = 64;
// Lanes: one copy for this many rows, since writing the copies takes time too.
constexpr Index kRowsPerCopy = 32;
// Parameters: cycles of this length are long enough for inner loops. Shorter
// ones are repeated up to about kParametersPeriod, 2 kB of float32.
constexpr Index kLongCycle = 256, kParametersPeriod = 512;

// Short cycles, of parameters or of lanes, are written several times in a row.
// That makes inner loops long.
struct Period {
  Index cycle;  // In elements.
  Index width;  // A multiple of it.

  explicit Period(const Layout& layout) : cycle(layout.cycle()) {
    auto copies_for = [&](Index size) { return (size - 1 + cycle) / cycle; };
    Index copies = 1;
    if (layout.lanes()) {
      copies = std::min({layout.reduced, copies_for(kLanesPeriod),
                         std::max(layout.reduced / kRowsPerCopy,
                                  copies_for(kShortestLanesPeriod))});
    } else if (!layout.runs() && cycle < kLongCycle && cycle < layout.reduced) {
      copies = std::min(copies_for(kParametersPeriod), layout.reduced / cycle);
    }
    width = cycle * copies;
  }
};

// A parameter, one value per element of a period of `width` elements. If there
// is no parameter, all values are `missing`.
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

// Merges the moments of `count` elements per lane into the totals, which are
// those of `so_far` elements per lane.
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

// Limits for segments, which change the order of additions, hence the last bits
// of results.
//
// Elements of the shortest segment of a row and of an image: for shorter ones,
// adding up the sums of all segments would take too long.
constexpr Index kRowSegment = 1024, kLanesSegment = 16384;
// Segments of a unit at most. There need not be more of them than parts.
constexpr Index kMaxSegments = 32;

// Limits for parts. The gradients of parameters are added up over the parts, so
// these limits change their last bits.
//
// Elements of the smallest part: a smaller one is not worth waking a thread.
constexpr Index kPartSize = 16384;
// Parts at most, for small arrays and for large ones. More parts than threads
// even out the speeds of the threads. But every part has its own sums for the
// parameters, so that more than kMostSmallParts need to be large.
constexpr Index kMostSmallParts = 8, kMostParts = 32;
constexpr Index kLargePart = 8 * kPartSize;
// Elements of the array per element of the parts' sums for the parameters, at
// least: then these sums take little time.
constexpr Index kElementsPerSum = 8;
// Fewer parts than these leave threads of many processors without work.
constexpr Index kEnoughParts = 4;
// Elements of a unit that is still in the cache when it is read again.
constexpr Index kCachedUnit = 1 << 20;

// How sums are taken and how the work is divided.
//
// A unit (a row or an image) consists of segments. Its statistics and sums are
// those of its segments, added up in order. The segments depend only on the
// shape of one unit, not on the number of units. So a unit has the same bits
// alone and in any batch.
//
// Threads work on parts. Usually a part is a range of units, and the thread
// passes twice over each unit while it is in the cache. If there are few units,
// or the parts' sums for the parameters would be as large as the data, a part
// is a range of segments of all units. Then all parts finish the statistics
// before any part continues. Parts depend on sizes only, so results depend
// neither on the number of threads nor on their order.
struct Division {
  Index outer;
  Index segments = 1;
  // Where segments begin along `reduced`, then where the last one ends.
  Index begin[kMaxSegments + 1];
  Index parts = 1;
  bool split = false;

  Division(const Layout& layout, const Period& period) : outer(layout.outer) {
    // Segments begin where a loop over the unit would start again anyway.
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

    Index size = layout.size();
    Index most = std::clamp(size / kLargePart, kMostSmallParts, kMostParts);
    Index sums = layout.runs() ? layout.features : period.width;
    Index units = layout.lanes() ? layout.outer : layout.outer / kRows;
    parts = std::max<Index>(1, std::min({most, size / kPartSize, units,
                                         size / (kElementsPerSum * sums)}));
    bool by_units = parts >= kEnoughParts && layout.unit() <= kCachedUnit;
    if (by_units || size < kEnoughParts * kPartSize || segments == 1) return;
    split = true;
    parts = std::min({most, size / kPartSize, segments});
  }

  // A part: its units, its segments, and where these are along `reduced`.
  struct Range {
    Index outer_begin, outer_end, first_segment, last_segment, begin, end;
  };

  Range RangeOf(Index part) const {
    Index all = split ? segments : outer;
    Index first = all * part / parts, last = all * (part + 1) / parts;
    if (split) return {0, outer, first, last, begin[first], begin[last]};
    return {first, last, 0, segments, 0, begin[segments]};
  }

  // Parts in reverse order, for a second pass over the data: what was read last
  // is still in the cache.
  Range FromTheEnd(Index part) const { return RangeOf(parts - 1 - part); }

  // Merges moments [segments, n] over the segments, into the first row.
  void Merge(Index n, double* mean, double* m2) const {
    for (Index segment = 1; segment < segments; ++segment) {
      normjax::Merge(begin[segment], begin[segment + 1] - begin[segment], n,
                     mean + segment * n, m2 + segment * n, mean, m2);
    }
  }

  // Adds sums [segments, n] over the segments, into the first row.
  void Add(Index n, double* sums) const {
    for (Index segment = 1; segment < segments; ++segment) {
      for (Index i = 0; i < n; ++i) sums[i] += sums[segment * n + i];
    }
  }
};

}  // namespace normjax

#endif  // NORMJAX_NATIVE_LAYOUT_H_
