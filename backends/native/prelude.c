/* What every generated file begins with. REAL is float or double. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef REAL real;
typedef int64_t integer;
typedef unsigned char flag;
#define R(x) ((real)(x))
#define INLINE static inline __attribute__((always_inline))
#define SIMD _Pragma("omp simd")

/* ---- exp, tanh, sigmoid: no branches, no tables, so that compilers vectorise loops over them.
   exp(x) = 2^n exp(r), |r| <= log(2)/2, with the Taylor sum of exp(r): its remainder is below the rounding error.
   tanh(x) = m / (m + 2), m = exp(2x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), exact in the small for n = 0. */
#if SINGLE
#define r_sqrt sqrtf
#define r_floor floorf
#define r_fabs fabsf
#define r_log logf
#define r_log1p log1pf
#define r_expm1 expm1f
#define r_sin sinf
#define r_cos cosf
#define r_erf erff
#define r_pow powf
#define r_fmod fmodf
#define r_copysign copysignf
typedef int32_t bits;
typedef uint32_t ubits;
#define SHIFT 0x1.8p23f
#define BIAS 127
#define MANTISSA 23
#define LOG2_HIGH 0x1.62e4p-1f
#define LOG2_LOW 0x1.7f7d1cp-20f
#define LOWEST -104.0f
#define HIGHEST 89.0f
#define FLAT 10.0f
INLINE real rest(real r) {
    real p = R(1.0 / 5040);
    p = p * r + R(1.0 / 720);
    p = p * r + R(1.0 / 120);
    p = p * r + R(1.0 / 24);
    p = p * r + R(1.0 / 6);
    p = p * r + R(0.5);
    return p * (r * r) + r;
}
#else
#define r_sqrt sqrt
#define r_floor floor
#define r_fabs fabs
#define r_log log
#define r_log1p log1p
#define r_expm1 expm1
#define r_sin sin
#define r_cos cos
#define r_erf erf
#define r_pow pow
#define r_fmod fmod
#define r_copysign copysign
typedef int64_t bits;
typedef uint64_t ubits;
#define SHIFT 0x1.8p52
#define BIAS 1023
#define MANTISSA 52
#define LOG2_HIGH 0x1.62e42fefap-1
#define LOG2_LOW 0x1.cf79abc9e3b398p-40
#define LOWEST -746.0
#define HIGHEST 710.0
#define FLAT 20.0
INLINE real rest(real r) {
    real p = R(1.0 / 6227020800);
    p = p * r + R(1.0 / 479001600);
    p = p * r + R(1.0 / 39916800);
    p = p * r + R(1.0 / 3628800);
    p = p * r + R(1.0 / 362880);
    p = p * r + R(1.0 / 40320);
    p = p * r + R(1.0 / 5040);
    p = p * r + R(1.0 / 720);
    p = p * r + R(1.0 / 120);
    p = p * r + R(1.0 / 24);
    p = p * r + R(1.0 / 6);
    p = p * r + R(0.5);
    return p * (r * r) + r;
}
#endif
INLINE bits as_bits(real x) { bits n; __builtin_memcpy(&n, &x, sizeof n); return n; }
INLINE real as_real(bits n) { real x; __builtin_memcpy(&x, &n, sizeof x); return x; }
/* unsigned: bits of a NaN may be any, and overflow has no meaning in signed integers */
INLINE real two_to(ubits n) { return as_real((bits)((n + BIAS) << MANTISSA)); }
INLINE ubits exponent(real z) { return (ubits)as_bits(z) - (ubits)as_bits(SHIFT); }
INLINE real r_exp(real x) {
    real c = x < R(LOWEST) ? R(LOWEST) : x;
    c = c > R(HIGHEST) ? R(HIGHEST) : c;
    real z = c * R(1.4426950408889634074) + SHIFT;
    real n = z - SHIFT;
    real r = c - n * LOG2_HIGH;
    r = r - n * LOG2_LOW;
    ubits k = exponent(z);
    ubits half = ((k + 2048) >> 1) - 1024; /* in two steps: 2^k itself may be out of range */
    return (R(1) + rest(r)) * two_to(half) * two_to(k - half);
}
INLINE real r_tanh(real x) {
    real a = r_fabs(x);
    a = a > FLAT ? FLAT : a;
    real c = a + a;
    real z = c * R(1.4426950408889634074) + SHIFT;
    real n = z - SHIFT;
    real r = c - n * LOG2_HIGH;
    r = r - n * LOG2_LOW;
    real s = two_to(exponent(z));
    real m = s * rest(r) + (s - R(1));
    return r_copysign(m / (m + R(2)), x);
}
INLINE real r_sigmoid(real x) {
    real e = r_exp(-r_fabs(x));
    return (x < R(0) ? e : R(1)) / (R(1) + e);
}
INLINE real r_sign(real x) { return R((x > R(0)) - (x < R(0))); }
INLINE real r_relu(real x) { return R(0) >= x ? R(0) : x; }
INLINE real r_softplus(real x) { return r_log1p(r_exp(-r_fabs(x))) + r_relu(x); }
INLINE real r_mod(real x, real y) {
    real r = r_fmod(x, y);
    return r != R(0) && (r < R(0)) != (y < R(0)) ? r + y : r;
}

/* ---- products: C[m, n] (+)= sum over k of A[m, k] B[k, n], any strides */
typedef void (*gemm_call)(const char *, const char *, const int *, const int *, const int *, const real *,
                          const real *, const int *, const real *, const int *, const real *, real *, const int *);
static gemm_call blas;
__attribute__((visibility("default"))) void recdsl_blas(void *call) { blas = (gemm_call)call; }

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
typedef real vec __attribute__((vector_size(WIDTH), aligned(sizeof(real)), may_alias));
#define LANES ((long)(WIDTH / sizeof(real)))
#define AT(p) (*(const vec *)(p))

/* One row: the columns lo..N of y, in blocks of `v` vectors that stay in registers. */
#define ROW_BLOCK(V)                                                              \
    for (; j + (V) * LANES <= N; j += (V) * LANES) {                              \
        vec s[V];                                                                 \
        for (int q = 0; q < (V); q++) s[q] = add ? AT(y + j + q * LANES) : (vec){0}; \
        for (long k = 0; k < K; k++) {                                            \
            const real a = x[k * sx], *row = w + k * ldw + j;                     \
            _Pragma("GCC unroll 8") for (int q = 0; q < (V); q++) s[q] += a * AT(row + q * LANES); \
        }                                                                         \
        for (int q = 0; q < (V); q++) *(vec *)(y + j + q * LANES) = s[q];         \
    }
INLINE void row_product(long N, long K, const real *x, long sx, const real *w, long ldw, real *y, int add) {
    long j = 0;
    ROW_BLOCK(8)
    for (; j + 4 * LANES <= N; j += 4 * LANES) { /* two sums each: an addition takes four cycles */
        vec s[4], o[4];
        for (int q = 0; q < 4; q++) s[q] = add ? AT(y + j + q * LANES) : (vec){0}, o[q] = (vec){0};
        long k = 0;
        for (; k + 2 <= K; k += 2) {
            const real a = x[k * sx], b = x[(k + 1) * sx], *row = w + k * ldw + j, *next = row + ldw;
            for (int q = 0; q < 4; q++) s[q] += a * AT(row + q * LANES), o[q] += b * AT(next + q * LANES);
        }
        for (; k < K; k++)
            for (int q = 0; q < 4; q++) s[q] += x[k * sx] * AT(w + k * ldw + j + q * LANES);
        for (int q = 0; q < 4; q++) *(vec *)(y + j + q * LANES) = s[q] + o[q];
    }
    ROW_BLOCK(1)
    for (; j < N; j++) {
        real s = add ? y[j] : R(0);
        for (long k = 0; k < K; k++) s += x[k * sx] * w[k * ldw + j];
        y[j] = s;
    }
}
INLINE real dot(long K, const real *x, long sx, const real *w, long sw) {
    real s = 0;
    if (sx == 1 && sw == 1) {
        _Pragma("omp simd reduction(+ : s)") for (long k = 0; k < K; k++) s += x[k] * w[k];
    } else {
        _Pragma("omp simd reduction(+ : s)") for (long k = 0; k < K; k++) s += x[k * sx] * w[k * sw];
    }
    return s;
}
/* For products whose sizes are no literals: one function for all of them. */
static __attribute__((noinline)) void row_called(long N, long K, const real *x, long sx, const real *w, long ldw,
                                                 real *y, int add) {
    row_product(N, K, x, sx, w, ldw, y, add);
}
/* Without BLAS, or too small for it. */
static __attribute__((noinline)) void loops(long M, long N, long K, const real *A, long am, long ak, const real *B,
                                            long bk, long bn, real *C, long cm, long cn, int add) {
    for (long m = 0; m < M; m++) {
        if (cn == 1 && bn == 1) {
            row_called(N, K, A + m * am, ak, B, bk, C + m * cm, add);
        } else {
            for (long n = 0; n < N; n++) {
                real s = dot(K, A + m * am, ak, B + n * bn, bk);
                C[m * cm + n * cn] = add ? C[m * cm + n * cn] + s : s;
            }
        }
    }
}
static __attribute__((noinline)) void call_blas(long M, long N, long K, const real *A, long am, long ak,
                                                const real *B, long bk, long bn, real *C, long cm, int add) {
    const real one = 1, beta = add ? 1 : 0;
    const int m = (int)N, n = (int)M, k = (int)K, c = (int)cm; /* columns first: the transposed product */
    const int b = (int)(bn == 1 ? bk : bn), a = (int)(ak == 1 ? am : ak);
    blas(bn == 1 ? "N" : "T", ak == 1 ? "N" : "T", &m, &n, &k, &one, B, &b, A, &a, &beta, C, &c);
}
/* Sums of one term, such as the influence of a step's input: BLAS is slow at them. */
INLINE void outer(long M, long N, const real *restrict A, long am, const real *restrict B, long bn, real *restrict C,
                  long cm, long cn, int add) {
    for (long m = 0; m < M; m++) {
        const real a = A[m * am];
        if (bn == 1 && cn == 1 && add) SIMD for (long n = 0; n < N; n++) C[m * cm + n] += a * B[n];
        else if (bn == 1 && cn == 1) SIMD for (long n = 0; n < N; n++) C[m * cm + n] = a * B[n];
        else for (long n = 0; n < N; n++) C[m * cm + n * cn] = (add ? C[m * cm + n * cn] : R(0)) + a * B[n * bn];
    }
}
#define FITS(one, other, size) ((one) == 1 && (other) >= (size) && (other) > 0)
INLINE void product_of(const int literal, long M, long N, long K, const real *A, long am, long ak, const real *B,
                       long bk, long bn, real *C, long cm, long cn, int add) {
    if (M <= 0 || N <= 0) return;
    if (K == 1) {
        outer(M, N, A, am, B, bn, C, cm, cn, add);
    } else if (M == 1 && bn == 1 && cn == 1) {
        if (literal) row_product(N, K, A, ak, B, bk, C, add);
        else row_called(N, K, A, ak, B, bk, C, add);
    } else if (N == 1 && am == 1 && cm == 1) {
        if (literal) row_product(M, K, B, bk, A, ak, C, add);
        else row_called(M, K, B, bk, A, ak, C, add);
    } else if (N == 1 && M * K > 0) {
        for (long m = 0; m < M; m++) {
            real s = dot(K, A + m * am, ak, B, bk);
            C[m * cm] = add ? C[m * cm] + s : s;
        }
    } else if (blas && M * N * K >= 4096 && M < 1L << 30 && N < 1L << 30 && K < 1L << 30 && FITS(cn, cm, N) &&
               (FITS(ak, am, K) || FITS(am, ak, M)) && (FITS(bn, bk, N) || FITS(bk, bn, K))) {
        call_blas(M, N, K, A, am, ak, B, bk, bn, C, cm, add);
    } else if (blas && M * N * K >= 4096 && M < 1L << 30 && N < 1L << 30 && K < 1L << 30 && FITS(cm, cn, M) &&
               (FITS(ak, am, K) || FITS(am, ak, M)) && (FITS(bn, bk, N) || FITS(bk, bn, K))) {
        call_blas(N, M, K, B, bn, bk, A, ak, am, C, cn, add);
    } else {
        loops(M, N, K, A, am, ak, B, bk, bn, C, cm, cn, add);
    }
}
INLINE void product(long M, long N, long K, const real *A, long am, long ak, const real *B, long bk, long bn,
                    real *C, long cm, long cn, int add) {
    product_of(1, M, N, K, A, am, ak, B, bk, bn, C, cm, cn, add);
}
/* A gradient of weights with more rows than columns, summed over many steps: BLAS takes two thirds of the time if its
   columns are the longer side, so the transposed product is made elsewhere. Returns 0 where that is not to be done. */
static __attribute__((noinline, unused)) int turned(long M, long N, long K, const real *A, long am, long ak,
                                                    const real *B, long bk, long bn, real *C, long cm, long cn,
                                                    int add) {
    if (!blas || cn != 1 || am != 1 || bn != 1 || M <= N || N < 16 || K < 8 * N || M >= 1L << 30 || K >= 1L << 30 ||
        ak < M || bk < N)
        return 0;
    real *other = malloc((size_t)(M * N) * sizeof(real));
    if (!other) return 0;
    call_blas(N, M, K, B, bn, bk, A, ak, am, other, M, 0);
    for (long m = 0; m < M; m++)
        for (long n = 0; n < N; n++) C[m * cm + n] = (add ? C[m * cm + n] : R(0)) + other[n * M + m];
    free(other);
    return 1;
}
/* Outside of loops sizes need not be literals: one function for all calls keeps compiling short. */
static __attribute__((noinline, unused)) void product_once(long M, long N, long K, const real *A, long am, long ak,
                                                           const real *B, long bk, long bn, real *C, long cm, long cn,
                                                           int add) {
    if (turned(M, N, K, A, am, ak, B, bk, bn, C, cm, cn, add)) return;
    product_of(0, M, N, K, A, am, ak, B, bk, bn, C, cm, cn, add);
}
/* ---- threads: torch's own, each with samples of its own (see `team.py`) */
typedef struct { long me, count; } team;
typedef long (*team_call)(void *const *, const long *, const team *);
static struct {
    void (*run)(void (*)(void *), void *, unsigned, unsigned), (*wait)(void);
    int (*most)(void), (*count)(void), (*me)(void);
    double least;
    long samples;
} threads = {.samples = 1};
__attribute__((visibility("default"))) void recdsl_team(void *const *calls, double least, long samples) {
    if (calls) memcpy(&threads, calls, 5 * sizeof *calls);
    else threads.run = 0;
    threads.least = least, threads.samples = samples;
}
typedef struct { team_call call; void *const *p; const long *n; } team_work;
static __attribute__((unused)) void team_part(void *given) {
    const team_work *work = given;
    const team us = {threads.me(), threads.count()};
    work->call(work->p, work->n, &us);
}
/* effort: operations of a step and sample. So few that threads cost more than they save are one thread's. */
static __attribute__((unused)) long all_of(team_call call, void *const *p, const long *n, double effort) {
    const long most = p && threads.run ? threads.most() : 1, shares = n[1] / threads.samples;
    const double worth = effort * (double)n[0] * (double)n[1] / threads.least;
    const long few = most < shares ? most : shares, count = worth < (double)few ? (long)worth : few;
    if (count > 1) {
        team_work work = {call, p, n};
        threads.run(team_part, &work, (unsigned)count, 0);
        return 0;
    }
    const team us = {0, 1};
    return call(p, n, &us);
}
/* Of one large product, each thread has rows or columns. */
static __attribute__((noinline, unused)) void product_parts(long me, long count, long M, long N, long K, const real *A,
                                                            long am, long ak, const real *B, long bk, long bn, real *C,
                                                            long cm, long cn, int add) {
    const int small = (double)M * (double)N * (double)K < 1e5;
    const long size = M > N ? M : N, from = small ? 0 : size * me / count;
    const long to = small ? size * !me : size * (me + 1) / count;
    if (M > N) product_once(to - from, N, K, A + from * am, am, ak, B, bk, bn, C + from * cm, cm, cn, add);
    else product_once(M, to - from, K, A, am, ak, B + from * bn, bk, bn, C + from * cn, cm, cn, add);
}
/* B[k, n] with n innermost, for products of one row. Tile by tile: the rows of a wide matrix meet in the same places of
   the cache, so what is written there a number at a time drives itself out. */
static __attribute__((noinline, unused)) void pack(long K, long N, const real *B, long bk, long bn, real *to) {
    for (long n0 = 0; n0 < N; n0 += 16) {
        for (long k0 = 0; k0 < K; k0 += 16) {
            const long ks = K - k0 < 16 ? K - k0 : 16, ns = N - n0 < 16 ? N - n0 : 16;
            const real *from = B + k0 * bk + n0 * bn;
            real *into = to + k0 * N + n0;
            if (bk == 1 && ks == 16 && ns == 16) {
                real tile[16][17];
                for (long n = 0; n < 16; n++)
                    SIMD for (long k = 0; k < 16; k++) tile[n][k] = from[k + n * bn];
                for (long k = 0; k < 16; k++)
                    SIMD for (long n = 0; n < 16; n++) into[k * N + n] = tile[n][k];
            } else {
                for (long n = 0; n < ns; n++)
                    for (long k = 0; k < ks; k++) into[k * N + n] = from[k * bk + n * bn];
            }
        }
    }
}
/* ---- strips: how many steps at once, so that what they touch stays in the cache; but products that sum over steps and
   samples are slow if these are few. each: numbers that a step touches, every: and for each sample */
#ifndef STRIP_BYTES
#define STRIP_BYTES (1L << 19)
#define STRIP_STEPS 8
#define STRIP_SUMS 256
#endif
static __attribute__((unused)) long strip(long T, long B, long each, long every) {
    const long bytes = (each + every * B) * (long)sizeof(real) + 1, sums = STRIP_SUMS / (B > 0 ? B : 1);
    const long least = sums > STRIP_STEPS ? sums : STRIP_STEPS, fits = STRIP_BYTES / bytes;
    const long rows = fits > least ? fits : least, count = (T + rows - 1) / rows;
    return count > 1 ? (T + count - 1) / count : T > 0 ? T : 1; /* all about as long */
}
/* ---- stores that grow: the `size` best of the slots whose stamp is at least `since`, best first, of equal scores the
   older first; -1 where there are no more. Best scores so far are held in order, so most slots cost one comparison. */
static __attribute__((noinline, unused)) void search(long slots, long size, const real *scores, long by,
                                                     const real *stamps, long step, real since, integer *to, long wide) {
    real best[size];
    long found = 0;
    for (long s = 0; s < slots; s++) {
        const real x = scores[s * by], stamp = stamps[s * step];
        if (!(stamp >= since) || stamp < R(0) || (found == size && !(x > best[size - 1]))) continue;
        long at = found < size ? found++ : size - 1;
        for (; at > 0 && x > best[at - 1]; at--) best[at] = best[at - 1], to[at * wide] = to[(at - 1) * wide];
        best[at] = x, to[at * wide] = s;
    }
    for (; found < size; found++) to[found * wide] = -1;
}
