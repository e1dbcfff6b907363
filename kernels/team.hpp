// A team of threads inside a parallel block: OpenMP's words that Cython lacks, and waking a team.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(_OPENMP) && defined(__linux__)
#define FASTMLP_PLACES_HELPERS
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <vector>
#endif

namespace fastmlp {

// Linux may wake a helping thread on the core of the thread that begins the block, which then waits
// in a loop, without sleep, and keeps out the one it waits for: a call of 0.4 ms took 7 ms after a
// pause in which the helpers had gone to sleep. So after a pause, helpers are kept off that core
// until they run.

#ifdef FASTMLP_PLACES_HELPERS

struct Helper {
    int id = 0;  // of the thread; 0 where not yet known
    bool placed = false;
    cpu_set_t cores;  // where it might run before it was placed
};

struct Team {
    std::vector<Helper> helpers;  // by their numbers in the block, from 1
    std::chrono::steady_clock::time_point called;
};

// Let helpers run on any core but this thread's.
inline void place(std::vector<Helper>& helpers) {
    const int core = sched_getcpu();
    const int process = getpid();
    for (Helper& helper : helpers) {
        // Threads that were not needed for a while have ended.
        if (!helper.id || helper.placed || syscall(SYS_tgkill, process, helper.id, 0)) continue;
        cpu_set_t& cores = helper.cores;
        if (core < 0 || sched_getaffinity(helper.id, sizeof cores, &cores)) continue;
        if (!CPU_ISSET(core, &cores) || CPU_COUNT(&cores) == 1) continue;
        cpu_set_t others = cores;
        CPU_CLR(core, &others);
        helper.placed = !sched_setaffinity(helper.id, sizeof others, &others);
    }
}

// Get ready for a parallel block of so many threads, in the thread that begins it.
inline Team* call_team(int n_threads) {
    constexpr auto pause = std::chrono::milliseconds(1);  // long beside a few system calls
    static thread_local Team team;
    const auto now = std::chrono::steady_clock::now();
    team.helpers.resize(n_threads);  // those beyond have ended, and others may have their ids
    if (now - team.called > pause && omp_get_proc_bind() == omp_proc_bind_false)
        place(team.helpers);
    team.called = now;
    return &team;
}

// Take part in the block, as each of its threads does first, and return how many they are: perhaps
// fewer than were asked for.
inline int join_team(Team* team) {
    static thread_local const int id = int(syscall(SYS_gettid));
    const int number = omp_get_thread_num();
    Helper& helper = team->helpers[number];
    if (number > 0 && helper.id != id) {
        helper.id = id;
        helper.placed = false;
    } else if (helper.placed) {
        sched_setaffinity(0, sizeof helper.cores, &helper.cores);
        helper.placed = false;
    }
    return omp_get_num_threads();
}

#else

struct Team {};

inline Team* call_team(int) { return nullptr; }

inline int join_team(Team*) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

#endif

// Wait until all of the team are here. One thread has no team of its own, and must not wait for
// that of a program which calls from within a parallel block.
static inline void team_barrier(int n_threads) {
    if (n_threads == 1) return;
#pragma omp barrier
}

}  // namespace fastmlp
