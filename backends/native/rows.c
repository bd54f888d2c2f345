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
/* ---- scores of up to SLOTS keys for `queries` queries, [query, block], as in `recdsl/ops/lookup.py`. Keys are turned, so that
   the sum of each is made in the same order: equal keys have equal scores, of which the older comes first. */
#define SLOTS 256
#define QUERIES 64
enum { DOT, COSINE, DISTANCE, MLP, SEPARABLE };
typedef struct {
    long kind, wide, hidden;   /* numbers of a key, and of the layer of `mlp` */
    long block;                /* scores that are made at once: SLOTS, or a few more than there are slots */
    const real *matrix, *last; /* of `mlp`: [hidden, wide], [hidden] */
} Score;
/* keys [some, wide] -> [wide, block], zeros behind them */
INLINE void turned_keys(long some, long wide, long block, const real *keys, real *to) {
    for (long first = 0; first < wide; first += 16)
        for (long s = 0; s < block; s++)
            for (long k = first; k < first + 16 && k < wide; k++) to[k * block + s] = s < some ? keys[s * wide + k] : R(0);
}
INLINE void row_of_products(long N, long K, const real *x, const real *w, long ldw, real *y) {
    const long sx = 1;
    const int add = 0;
    long j = 0;
    ROW_BLOCK(8)
    ROW_BLOCK(1)
}
/* Products of rows [count, wide] and turned keys. */
INLINE void products(long count, long wide, long block, const real *rows, const real *keys, real *to) {
    for (long j = 0; j < block; j += 8 * LANES) {
        const long some = block - j < 8 * LANES ? block - j : 8 * LANES;
        for (long r = 0; r < count; r++)
            row_of_products(some, wide, rows + r * wide, keys + j, block, to + r * block + j);
    }
}
INLINE void by_distance(long queries, long wide, long block, const real *query, const real *keys, real *restrict to) {
    for (long q = 0; q < queries; q++) {
        real *restrict const y = to + q * block;
        SIMD for (long s = 0; s < block; s++) y[s] = R(0);
        for (long k = 0; k < wide; k++) {
            const real x = query[q * wide + k], *row = keys + k * block;
            SIMD for (long s = 0; s < block; s++) y[s] -= (x - row[s]) * (x - row[s]);
        }
    }
}
INLINE void by_layer(Score score, long queries, const real *query, const real *keys, real *layer, real *restrict to) {
    const long block = score.block;
    products(score.hidden, score.wide, block, score.matrix, keys, layer);
    for (long q = 0; q < queries; q++) {
        real *restrict const y = to + q * block;
        SIMD for (long s = 0; s < block; s++) y[s] = R(0);
        for (long k = 0; k < score.hidden; k++) {
            const real x = query[q * score.hidden + k], weight = score.last[k], *row = layer + k * block;
            SIMD for (long s = 0; s < block; s++) y[s] += r_tanh(x + row[s]) * weight;
        }
    }
}
INLINE void by_length(long queries, long wide, long block, const real *keys, real *restrict to) {
    real length[SLOTS] = {0};
    for (long k = 0; k < wide; k++)
        SIMD for (long s = 0; s < block; s++) length[s] += keys[k * block + s] * keys[k * block + s];
    SIMD for (long s = 0; s < block; s++) length[s] = r_sqrt(length[s] < R(1e-16) ? R(1e-16) : length[s]);
    for (long q = 0; q < queries; q++)
        SIMD for (long s = 0; s < block; s++) to[q * block + s] = to[q * block + s] / length[s];
}
static __attribute__((noinline, unused)) void scored(Score score, long queries, long some, const real *query,
                                                     const real *keys, real *room, real *to) {
    const long wide = score.wide, block = score.block;
    turned_keys(some, wide, block, keys, room);
    if (score.kind == SEPARABLE) {
        SIMD for (long k = 0; k < block * wide; k++) room[k] = r_tanh(room[k]);
    }
    if (score.kind == DISTANCE) by_distance(queries, wide, block, query, room, to);
    else if (score.kind == MLP) by_layer(score, queries, query, room, room + block * wide, to);
    else products(queries, wide, block, query, room, to);
    if (score.kind == COSINE) by_length(queries, wide, block, room, to);
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
   QUERIES * (SLOTS + size) + SLOTS * (wide + hidden) numbers. */
static __attribute__((noinline, unused)) void lookup_rows(const integer *asked, long number, long kind, long queries,
                                                          long size, long slots, long wide, const real *query,
                                                          const real *keys, const real *count, const real *age,
                                                          const real *matrix, const real *last, long hidden,
                                                          real *room, integer *to) {
    if (answers(asked, number, 0, queries, query, to)) return;
    const long block = slots < SLOTS ? (slots + 15) / 16 * 16 : SLOTS;
    const Score score = {kind, wide, hidden, block, matrix, last};
    const Ages ages = {slots, (long)count[0] - 1, age};
    const long held = (long)count[0] < slots ? (long)count[0] : slots, across = kind == MLP ? hidden : wide;
    real *const scores = room, *const best = scores + QUERIES * SLOTS, *const more = best + QUERIES * size;
    for (long first = 0; first < queries; first += QUERIES) {
        const long some = queries - first < QUERIES ? queries - first : QUERIES;
        long found[QUERIES] = {0};
        for (long start = 0; start < held; start += block) {
            const long there = held - start < block ? held - start : block;
            scored(score, some, there, query + first * across, keys + start * wide, more, scores);
            for (long q = 0; q < some; q++)
                for (long s = 0; s < there; s++) {
                    const real x = scores[q * block + s];
                    if (found[q] == size && x < best[q * size + size - 1]) continue;
                    found[q] = entered(ages, size, found[q], x, start + s, best + q * size, to + (first + q) * size);
                }
        }
        for (long q = 0; q < some; q++)
            for (long k = found[q]; k < size; k++) to[(first + q) * size + k] = -1;
    }
    answers(asked, number, 1, queries, query, to);
}
