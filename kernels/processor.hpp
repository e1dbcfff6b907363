// What the processor has and the operating system lets it use.
#pragma once

namespace fastmlp {

#if defined(__x86_64__)
static inline bool has_v3() {  // as -march=x86-64-v3 assumes
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
}
static inline bool has_v4() {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#else
static inline bool has_v3() { return false; }
static inline bool has_v4() { return false; }
#endif

static inline bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

}  // namespace fastmlp
