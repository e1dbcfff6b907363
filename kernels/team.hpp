// A team of threads inside a parallel block: what Cython has no words for.
#pragma once

#include <atomic>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastmlp {

// Threads that run the block, which may be fewer than were asked for.
static inline int team_size() {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

static inline void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Where the threads of a team meet. They spin for a few microseconds and then sleep: OpenMP's own
// barrier spins for milliseconds, in which another program on the core of the last thread
// keeps it from running (measured beside one busy core: steps 5 to 7 times as long).
class Barrier {
public:
    // Wait until all n_threads are here.
    void wait(int n_threads) {
        if (n_threads == 1) return;
        const int now = generation.load();
        if (arrived.fetch_add(1) + 1 == n_threads) {
            arrived.store(0);
            generation.store(now + 1);
            generation.notify_all();
            return;
        }
        for (int spin = 0; spin < SPINS; ++spin) {
            if (generation.load(std::memory_order_acquire) != now) return;
            pause_briefly();
        }
        generation.wait(now);
    }

private:
    static constexpr int SPINS = 1000;
    std::atomic<int> arrived{0}, generation{0};
};

}  // namespace fastmlp
