// Memory for large results, kept from step to step, and a way to write it without
// reading it first.
#pragma once

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <mutex>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define BNUTILS_STREAMS 1
#endif

#ifdef __linux__
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace bnutils {

using at::Tensor;

// [kept memory]
// Large results take their memory from here, and it comes back when they die.
//
// Otherwise it would go back to the system, at the latest from 32 MiB on, and the next
// step would ask for it again. The system clears each page of 4 KiB when it is first
// touched, a page fault, and for an array of 50 MB that takes longer than normalising
// it. So up to `limit` bytes of free memory are kept here; beyond that, what has lain
// idle longest goes back to the system.
class KeptMemory final : public c10::Allocator {
 public:
  explicit KeptMemory(size_t limit) : limit_(limit) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < SMALLEST) return c10::GetDefaultCPUAllocator()->allocate(bytes);
    Block* block = take(bytes);
    if (!block) block = new Block{*this, fresh(bytes), bytes};
    return {block->memory, block, give_back, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  size_t idle_bytes() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return idle_bytes_;
  }

  // A child process begins with a copy of this memory, in a state that no thread of
  // its parent was about to change.
  void before_fork() { mutex_.lock(); }
  void after_fork() { mutex_.unlock(); }

 private:
  struct Block {
    KeptMemory& owner;
    void* memory;
    size_t bytes;
  };

  static constexpr size_t SMALLEST = 1 << 20;  // malloc keeps less than that itself

  const size_t limit_;
  std::mutex mutex_;
  std::deque<Block*> idle_;  // the one that has been idle longest comes first
  size_t idle_bytes_ = 0;

  // An idle block that is large enough, and at most a quarter too large.
  Block* take(size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto fits = [bytes](const Block* block) {
      return block->bytes >= bytes && block->bytes <= bytes + bytes / 4;
    };
    // The last one that came back is the likeliest to be in a cache still.
    const auto found = std::find_if(idle_.rbegin(), idle_.rend(), fits);
    if (found == idle_.rend()) return nullptr;
    Block* block = *found;
    idle_.erase(std::next(found).base());
    idle_bytes_ -= block->bytes;
    return block;
  }

  static void give_back(void* context) {
    Block* block = static_cast<Block*>(context);
    KeptMemory& owner = block->owner;
    const std::lock_guard<std::mutex> guard(owner.mutex_);
    owner.idle_.push_back(block);
    owner.idle_bytes_ += block->bytes;
    while (owner.idle_bytes_ > owner.limit_) {
      Block* oldest = owner.idle_.front();
      owner.idle_.pop_front();
      owner.idle_bytes_ -= oldest->bytes;
      release(oldest->memory);
      delete oldest;
    }
  }

#ifdef __linux__
  // In pages of 2 MiB where there are some: fewer of them to clear, and to look up.
  static void* fresh(size_t bytes) {
    constexpr size_t large_page = 2 << 20;
    void* memory = nullptr;
    const size_t alignment = bytes < large_page ? 64 : large_page;
    TORCH_CHECK(posix_memalign(&memory, alignment, bytes) == 0,
                "out of memory: ", bytes, " bytes for the result of a batch norm");
#ifdef MADV_HUGEPAGE
    if (bytes >= large_page) madvise(memory, bytes / 4096 * 4096, MADV_HUGEPAGE);
#endif
    return memory;
  }
  static void release(void* memory) { std::free(memory); }
#else
  static void* fresh(size_t bytes) { return c10::alloc_cpu(bytes); }
  static void release(void* memory) { c10::free_cpu(memory); }
#endif
};
// [/kept memory]

// How many bytes to keep: 256 MiB, or BNUTILS_KEEP_MIB of the environment.
inline size_t bytes_to_keep() {
  const char* wish = std::getenv("BNUTILS_KEEP_MIB");
  return (wish ? std::strtoull(wish, nullptr, 10) : 256) << 20;
}

// The one of this process. It is never destroyed, since tensors may outlive it.
inline KeptMemory& kept_memory() {
  static KeptMemory* const kept = [] {
    auto* made = new KeptMemory(bytes_to_keep());
#ifdef __linux__
    pthread_atfork([] { kept_memory().before_fork(); },
                   [] { kept_memory().after_fork(); },
                   [] { kept_memory().after_fork(); });
#endif
    return made;
  }();
  return *kept;
}

// A result of the size and type of x, which is contiguous and on the CPU.
inline Tensor new_result(const Tensor& x) {
  return at::detail::empty_generic(x.sizes(), &kept_memory(),
                                   c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   x.scalar_type(), std::nullopt);
}

// [streaming]
// One line of a cache, 64 bytes, on its way to memory.
//
// To store a number, a processor first reads the line around it from memory. Where all
// of a line is new, that journey is for nothing, and a streaming store saves it: the
// line goes to memory as a whole, past the caches.
template <class T>
struct alignas(64) Line {
  static constexpr int64_t WIDTH = 64 / sizeof(T);
  T values[WIDTH];

  // How many numbers from this place on lie before the next line.
  static int64_t values_before(const T* place) {
    return (64 - reinterpret_cast<uintptr_t>(place) % 64) % 64 / sizeof(T);
  }

  // To a place that is a multiple of 64 bytes.
  void stream(T* to) const {
#ifdef BNUTILS_STREAMS
    const auto* from = reinterpret_cast<const __m128i*>(values);
    auto* place = reinterpret_cast<__m128i*>(to);
    for (int k = 0; k < 4; ++k) _mm_stream_si128(place + k, _mm_load_si128(from + k));
#else
    std::copy_n(values, WIDTH, to);
#endif
  }
};
// [/streaming]

// Other threads see what was streamed only after this.
inline void finish_streaming() {
#ifdef BNUTILS_STREAMS
  _mm_sfence();
#endif
}

// Ask for a line that will be needed soon: for the second-level cache, which has room for
// more lines on their way than the first one.
inline void fetch(const void* place) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(place, 0, 2);
#endif
}

// Past the caches pays where a result would leave them before anyone reads it. From 8
// MiB on x, y and their gradients are 32 MiB together, as much as the last-level cache
// of most processors. (Asking the system is no better: in a virtual machine it names
// the cache of the whole processor, of which few cores can use more than their part.)
constexpr int64_t LARGE = 8 << 20;

// In evaluation there are no gradients, so x and y together are the 32 MiB.
constexpr int64_t LARGE_IN_EVALUATION = 2 * LARGE;

}  // namespace bnutils
