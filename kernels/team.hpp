// A team of threads inside a parallel block: OpenMP's words that Cython lacks.
#pragma once

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

// Wait until all of the team are here.
static inline void team_barrier() {
#pragma omp barrier
}

}  // namespace fastmlp
