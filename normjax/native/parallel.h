// Runs the parts of some work on XLA's threads and on the caller's.

#ifndef NORMJAX_NATIVE_PARALLEL_H_
#define NORMJAX_NATIVE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "loops.h"
#include "xla/ffi/api/ffi.h"

namespace normjax {

// How often the caller checks whether all parts are done before it goes to
// sleep. The other threads are in their last part by then, and a thread that
// sleeps wakes up late.
constexpr int kSpins = 2000;

// Calls body(part) for every part in [0, parts) and returns when all are done.
//
// The caller works on parts too, until no part is left to start. So it never
// waits for a task that has not started, and a busy pool cannot deadlock. Tasks
// that start late find no part left. They share ownership of `progress`, which
// may outlive this call.
template <class Body>
void ForEachPart(xla::ffi::ThreadPool& pool, Index parts, const Body& body) {
  if (parts <= 1) {
    if (parts == 1) body(Index{0});
    return;
  }
  struct Progress {
    std::atomic<Index> next{0};
    std::atomic<Index> done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto progress = std::make_shared<Progress>();
  // `body` lives until all parts are done, and is called only before that.
  auto work = [progress, parts, &body] {
    for (;;) {
      Index part = progress->next.fetch_add(1);
      if (part >= parts) return;
      body(part);
      if (progress->done.fetch_add(1) + 1 == parts) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->finished.notify_all();
      }
    }
  };
  Index helpers = std::min<Index>(pool.num_threads(), parts) - 1;
  for (Index i = 0; i < helpers; ++i) pool.Schedule(decltype(work)(work));
  work();
  auto all_done = [&] { return progress->done.load() == parts; };
  for (int i = 0; i < kSpins; ++i) {
    if (all_done()) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->finished.wait(lock, all_done);
}

}  // namespace normjax

#endif  // NORMJAX_NATIVE_PARALLEL_H_
