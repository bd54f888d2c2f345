/* Stores for all samples: searches among their rows, and the rows that are found. `asked[0]` is a function of the
   runtime that may answer in the place of C (an index, rows that are made anew), or 0; it gives 0 where it does not. */
typedef integer (*asked_call)(integer number, integer stage, integer count, const void *given, void *to);
INLINE int answers(const integer *asked, long number, long stage, long count, const void *given, void *to) {
    return asked[0] && count > 0 && ((asked_call)(intptr_t)asked[0])(number, stage, count, given, to);
}
/* Rows of `wide` entries at `count` places; zeros at -1. */
static __attribute__((noinline, unused)) void fetch_rows(const integer *asked, long number, long count, long wide,
                                                         const real *table, const integer *place, real *to) {
    if (answers(asked, number, 0, count, place, to)) return;
    for (long k = 0; k < count; k++) {
        if (place[k] < 0) memset(to + k * wide, 0, (size_t)wide * sizeof(real));
        else memcpy(to + k * wide, table + place[k] * wide, (size_t)wide * sizeof(real));
    }
}
/* ---- scores of `some` slots for `queries` queries, [query, SLOTS]. As in `recdsl/ops/lookup.py`. */
#define SLOTS 256
#define QUERIES 64
enum { DOT, COSINE, DISTANCE, MLP, SEPARABLE };
typedef struct {
    long kind, wide, hidden;         /* numbers of a key, and of the layer of `mlp` */
    const real *matrix, *last;       /* of `mlp`: [hidden, wide], [hidden] */
} Score;
INLINE void by_distance(long queries, long some, long wide, const real *query, const real *keys, real *to) {
    for (long q = 0; q < queries; q++)
        for (long s = 0; s < some; s++) {
            const real *x = query + q * wide, *y = keys + s * wide;
            real total = 0;
            _Pragma("omp simd reduction(+ : total)") for (long k = 0; k < wide; k++) {
                const real apart = x[k] - y[k];
                total += apart * apart;
            }
            to[q * SLOTS + s] = -total;
        }
}
INLINE void by_layer(Score score, long queries, long some, const real *query, const real *keys, real *room, real *to) {
    const long hidden = score.hidden;
    product_once(some, hidden, score.wide, keys, score.wide, 1, score.matrix, 1, score.wide, room, hidden, 1, 0);
    for (long q = 0; q < queries; q++)
        for (long s = 0; s < some; s++) {
            const real *x = query + q * hidden, *y = room + s * hidden;
            real total = 0;
            _Pragma("omp simd reduction(+ : total)") for (long k = 0; k < hidden; k++)
                total += r_tanh(x[k] + y[k]) * score.last[k];
            to[q * SLOTS + s] = total;
        }
}
static __attribute__((noinline, unused)) void scored(Score score, long queries, long some, const real *query,
                                                     const real *keys, real *room, real *to) {
    const long wide = score.wide;
    if (score.kind == DISTANCE) {
        by_distance(queries, some, wide, query, keys, to);
        return;
    }
    if (score.kind == MLP) {
        by_layer(score, queries, some, query, keys, room, to);
        return;
    }
    if (score.kind == SEPARABLE) {
        SIMD for (long k = 0; k < some * wide; k++) room[k] = r_tanh(keys[k]);
        keys = room;
    }
    product_once(queries, some, wide, query, wide, 1, keys, 1, wide, to, SLOTS, 1, 0);
    for (long s = 0; score.kind == COSINE && s < some; s++) {
        const real square = dot(wide, keys + s * wide, 1, keys + s * wide, 1);
        const real length = r_sqrt(square < R(1e-16) ? R(1e-16) : square);
        for (long q = 0; q < queries; q++) to[q * SLOTS + s] = to[q * SLOTS + s] / length;
    }
}
/* ---- the best of them. A score that is no number counts as the highest, as in torch; one of -inf as none. */
typedef struct {
    long slots, newest; /* of a queue: the number of its last write */
    const real *age;    /* of each slot, or 0: a queue */
} Ages;
INLINE int older(Ages ages, long one, long two) {
    if (ages.age) return ages.age[one] > ages.age[two] || (ages.age[one] == ages.age[two] && one < two);
    const long a = (ages.newest - one) % ages.slots, b = (ages.newest - two) % ages.slots;
    return (a < 0 ? a + ages.slots : a) > (b < 0 ? b + ages.slots : b);
}
INLINE int ahead(Ages ages, real x, long one, real y, long two) {
    if (x > y || (x != x && y == y)) return 1;
    return (x == y || (x != x && y != y)) && older(ages, one, two);
}
/* `found` of `size` places are held in order; gives how many there are then. */
INLINE long entered(Ages ages, long size, long found, real x, long slot, real *best, integer *to) {
    if (x == -R(INFINITY) || (found == size && !ahead(ages, x, slot, best[size - 1], to[size - 1]))) return found;
    long at = found < size ? found++ : size - 1;
    for (; at > 0 && ahead(ages, x, slot, best[at - 1], to[at - 1]); at--) best[at] = best[at - 1], to[at] = to[at - 1];
    best[at] = x, to[at] = slot;
    return found;
}
/* Slots of the highest scores, best first, of equal ones the older; -1 where there are no more: to [queries, size].
   query: [queries, wide] (of `mlp` [queries, hidden]); keys: [slots, wide]; count: as `lasting.py` counts; room: for
   QUERIES * (SLOTS + size) + SLOTS * (the larger of wide and hidden) numbers. */
static __attribute__((noinline, unused)) void lookup_rows(const integer *asked, long number, long kind, long queries,
                                                          long size, long slots, long wide, const real *query,
                                                          const real *keys, const real *count, const real *age,
                                                          const real *matrix, const real *last, long hidden,
                                                          real *room, integer *to) {
    if (answers(asked, number, 0, queries, query, to)) return;
    const Score score = {kind, wide, hidden, matrix, last};
    const Ages ages = {slots, (long)count[0] - 1, age};
    const long held = (long)count[0] < slots ? (long)count[0] : slots, across = kind == MLP ? hidden : wide;
    real *const scores = room, *const best = scores + QUERIES * SLOTS, *const more = best + QUERIES * size;
    for (long first = 0; first < queries; first += QUERIES) {
        const long some = queries - first < QUERIES ? queries - first : QUERIES;
        long found[QUERIES] = {0};
        for (long start = 0; start < held; start += SLOTS) {
            const long there = held - start < SLOTS ? held - start : SLOTS;
            scored(score, some, there, query + first * across, keys + start * wide, more, scores);
            for (long q = 0; q < some; q++)
                for (long s = 0; s < there; s++) {
                    const real x = scores[q * SLOTS + s];
                    if (found[q] == size && x < best[q * size + size - 1]) continue;
                    found[q] = entered(ages, size, found[q], x, start + s, best + q * size, to + (first + q) * size);
                }
        }
        for (long q = 0; q < some; q++)
            for (long k = found[q]; k < size; k++) to[(first + q) * size + k] = -1;
    }
    answers(asked, number, 1, queries, query, to);
}
