/* The online learner: for each update, the entries of a model one after the other, then the optimizer. The tables say
   where everything lies; `entries` and the macros of sizes stand in front of this text.
   Update u of a run reads streams at u * stride, and states from a ring of as many as are needed. */
typedef struct { void **slot; char *base; long stride, ring, shift; } patch;
typedef struct { long entry; void **p; const long *n; const patch *patches; long count; } step;
typedef struct { const char *from; char *to; long bytes, times, stride, ring, shift; } copy;
typedef struct { const real *value; real *w, *g; double weight; long at, every, stride; long flagged; const char *seen; } loss;
typedef struct { real *value, *grad, *one, *two; double count, rate; long size; } parameter;
typedef struct {
    const step *steps[2]; /* without and with resets */
    long step_count[2];
    const copy *copies[2];
    long copy_count[2];
    loss *losses;
    long loss_count, mean, newest;
    parameter *parameters;
    long parameter_count;
    real *clock;
    double time;
    long every, ring, rule;
    double option[8];
    double largest; /* of the gradient's norm; 0: any */
    const double *shares; /* by update, what the rates of parameters are multiplied by */
    const unsigned char *resets, *due;
    double *total, *parts, *norms;
    real *numbers; /* of parameters, for functions that make whole updates */
    const real *square; /* of the gradient's norm, as they leave it */
} learner;

static long place(long u, long ring, long shift) { return ring ? (u + shift) % ring : u; }

static void weigh(const learner *o, long u) {
    for (long k = 0; k < o->loss_count; k++) {
        const loss *l = o->losses + k;
        const char *seen = l->seen ? l->seen + place(u, o->ring, 0) * l->stride : 0;
        real number = 0;
        for (long t = 0; t < T; t++)
            for (long b = 0; b < B; b++) {
                int due = t >= T - o->newest;
                if (l->at == 1) due = due && t == T - 1;
                if (l->at == 2) due = due && (t + 1) % l->every == 0;
                if (seen && t == 0) due = due && (l->flagged ? seen[b] != 0 : ((const real *)seen)[b] != 0);
                l->w[t * B + b] = due;
                number += due;
            }
        number = o->mean && number > 1 ? number : R(1);
        for (long i = 0; i < T * B; i++) {
            l->w[i] = l->w[i] / number;
            l->g[i] = l->w[i] * R(l->weight);
        }
    }
}

static void change(const learner *o, parameter *q, double rate, double error) {
    const double *c = o->option;
    real *restrict const x = q->value, *restrict const g = q->grad, *restrict const a = q->one, *restrict const b = q->two;
    const long n = q->size;
    q->count += 1;
    const double count = q->count;
    switch (o->rule) {
    case 0: { /* sgd: momentum, nesterov, weight_decay */
        const real r = R(rate), mu = R(c[0]), decay = R(c[2]);
        const int ahead = c[1] != 0;
        if (!a) SIMD for (long i = 0; i < n; i++) x[i] -= r * (g[i] + decay * x[i]);
        else SIMD for (long i = 0; i < n; i++) {
            const real move = g[i] + decay * x[i];
            a[i] = mu * a[i] + move;
            x[i] -= r * (ahead ? move + mu * a[i] : a[i]);
        }
        break;
    }
    case 1: { /* rmsprop: alpha, eps, momentum, weight_decay */
        const real r = R(rate), alpha = R(c[0]), rest = R(1 - c[0]), eps = R(c[1]), mu = R(c[2]), decay = R(c[3]);
        SIMD for (long i = 0; i < n; i++) {
            const real move = g[i] + decay * x[i];
            a[i] = alpha * a[i] + rest * move * move;
            const real scaled = move / (r_sqrt(a[i]) + eps);
            if (b) b[i] = mu * b[i] + scaled;
            x[i] -= r * (b ? b[i] : scaled);
        }
        break;
    }
    case 2: { /* adam: betas, eps, weight_decay, decoupled */
        const real first = R(1 - c[0]), keep = R(c[1]), second = R(1 - c[1]), eps = R(c[2]);
        const real decay = R(c[4] ? 0 : c[3]), shrink = R(c[4] ? 1 - rate * c[3] : 1);
        const real r = R(rate / (1 - pow(c[0], count))), root = R(sqrt(1 - pow(c[1], count)));
        SIMD for (long i = 0; i < n; i++) {
            const real y = x[i] * shrink, move = g[i] + decay * y;
            a[i] += first * (move - a[i]);
            b[i] = keep * b[i] + second * move * move;
            x[i] = y - r * a[i] / (r_sqrt(b[i]) / root + eps);
        }
        break;
    }
    case 3: { /* td_lambda: normalise, keep, initial */
        const real r = R(rate);
        if (c[0] == 0) {
            SIMD for (long i = 0; i < n; i++) x[i] -= r * g[i];
            break;
        }
        double share = 1 - c[1];
        if (c[2] == 0) share = c[1] < 1 ? (1 - c[1]) / (1 - pow(c[1], count)) : 1 / count;
        const real keep = R(1 - share), new = R(share);
        SIMD for (long i = 0; i < n; i++) {
            a[i] = keep * a[i] + new * g[i] * g[i];
            x[i] -= r * (g[i] / (r_sqrt(a[i]) + R(1e-8)));
        }
        break;
    }
    default: { /* idbd: meta, rate over first rate, loss in halves of squared errors */
        const real meta = R(c[0]), scale = R(c[2]), share = R(rate / c[1]), square = R(error);
        SIMD for (long i = 0; i < n; i++) {
            const real move = -g[i] / scale;
            a[i] += meta * move * b[i];
            const real alpha = r_exp(a[i]) * share;
            const real keep = R(1) - alpha * (square > 0 ? move * move / square : R(0));
            x[i] += alpha * move;
            b[i] = b[i] * (keep > 0 ? keep : R(0)) + alpha * move;
        }
    }
    }
}

/* The norm of the whole gradient, which is scaled down to `largest`. */
static double norm(const learner *o) {
    double total = 0;
    for (long k = 0; k < o->parameter_count; k++) {
        const parameter *q = o->parameters + k;
        for (long i = 0; i < q->size; i++) total += (double)q->grad[i] * q->grad[i];
    }
    total = sqrt(total);
    if (o->largest > 0 && total > o->largest && total < INFINITY) {
        const real share = R(o->largest / total);
        for (long k = 0; k < o->parameter_count; k++) {
            const parameter *q = o->parameters + k;
            for (long i = 0; i < q->size; i++) q->grad[i] *= share;
        }
    }
    return total;
}

/* Of an update that its function makes itself: what depends on the count of updates and on schedules. */
static void number(const learner *o, double rate, double count, real *to) {
    const double *c = o->option;
    to[0] = R(rate);
    if (o->rule == 2) {
        to[0] = R(rate / (1 - pow(c[0], count)));
        to[1] = R(sqrt(1 - pow(c[1], count)));
        to[2] = R(1 - rate * c[3]);
    } else if (o->rule == 3) {
        double share = 1 - c[1];
        if (c[2] == 0) share = c[1] < 1 ? (1 - c[1]) / (1 - pow(c[1], count)) : 1 / count;
        to[1] = R(share), to[2] = R(1 - share);
    } else if (o->rule == 4) {
        to[0] = R(rate / c[1]);
    }
}

/* The memory that an entry needs for itself. */
__attribute__((visibility("default"))) long recdsl_room(long entry, const long *n) { return entries[entry](0, n); }

/* Traces of inputs that are seldom there fade until they are too small for a normal number, and arithmetic with those
   takes ten times as long: here they are zero. The mode of the caller comes back at the end. */
#if defined(__x86_64__)
typedef unsigned int mode;
static mode flush(void) {
    const mode found = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(found | 0x8040);
    return found;
}
static void restore(mode found) { __builtin_ia32_ldmxcsr(found); }
#elif defined(__aarch64__)
typedef uint64_t mode;
static mode flush(void) {
    mode found;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found));
    __asm__ volatile("msr fpcr, %0" ::"r"(found | (mode)1 << 24));
    return found;
}
static void restore(mode found) { __asm__ volatile("msr fpcr, %0" ::"r"(found)); }
#else
typedef int mode;
static mode flush(void) { return 0; }
static void restore(mode found) { (void)found; }
#endif

/* Updates `first` to `count`, whose functions leave states and parameters where they have found them; how many were
   made, from the first one of all, before one whose loss or gradient is not finite. What that one has changed stays.
   Parameters count the updates before this stretch. */
static long whole(learner *o, long first, long count) {
    int seen = 0;
    const int counts = o->rule == 2 || o->rule == 3;
    for (long k = 0; k < o->loss_count; k++) seen = seen || o->losses[k].seen;
    if (!seen) weigh(o, 0);
    for (long u = first; u < count; u++) {
        const int kind = o->resets[u];
        if (seen) weigh(o, u);
        if (o->clock)
            for (long b = 0; b < B; b++) o->clock[b] = R(o->time + (double)u);
        if (u == first || counts || o->shares[u] != o->shares[u - 1])
            for (long k = 0; k < o->parameter_count; k++) {
                const parameter *q = o->parameters + k;
                number(o, q->rate * o->shares[u], q->count + (double)(u + 1), o->numbers + 3 * k);
            }
        const step *s = o->steps[kind];
        for (const patch *q = s->patches, *last = q + s->count; q < last; q++) *q->slot = q->base + u * q->stride;
        entries[s->entry](s->p, s->n);
        for (const copy *c = o->copies[kind], *end = c + o->copy_count[kind]; c < end; c++)
            memcpy(c->to + u * c->stride, c->from, (size_t)c->bytes);
        real total = 0;
        for (long k = 0; k < o->loss_count; k++) {
            total += R(o->losses[k].weight) * *o->losses[k].value;
            o->parts[u * o->loss_count + k] = *o->losses[k].value;
        }
        o->total[u] = total;
        if (!(fabs((double)total) < INFINITY)) return u;
        if (o->due[u]) {
            o->norms[u] = sqrt((double)*o->square);
            if (!(o->norms[u] < INFINITY)) return u;
        }
    }
    return count;
}

/* `count` updates; the number of those done. One whose loss or gradient is not finite is left undone. */
static long updates(learner *o, long count) {
    for (long u = 0; u < count; u++) {
        const int kind = o->resets[u];
        weigh(o, u);
        if (o->clock)
            for (long t = 0; t < T; t++)
                for (long b = 0; b < B; b++) o->clock[t * B + b] = R(o->time + (double)(u * o->every + t));
        for (const step *s = o->steps[kind], *end = s + o->step_count[kind]; s < end; s++) {
            for (const patch *q = s->patches, *last = q + s->count; q < last; q++)
                *q->slot = q->base + place(u, q->ring, q->shift) * q->stride;
            entries[s->entry](s->p, s->n);
        }
        for (const copy *c = o->copies[kind], *end = c + o->copy_count[kind]; c < end; c++)
            for (long t = 0; t < c->times; t++)
                memcpy(c->to + place(u, c->ring, c->shift) * c->stride + t * c->bytes, c->from, (size_t)c->bytes);
        real total = 0;
        for (long k = 0; k < o->loss_count; k++) {
            total += R(o->losses[k].weight) * *o->losses[k].value;
            o->parts[u * o->loss_count + k] = *o->losses[k].value;
        }
        o->total[u] = total;
        if (!(fabs((double)total) < INFINITY)) return u;
        if (o->largest > 0 || o->due[u]) {
            o->norms[u] = norm(o);
            if (!(o->norms[u] < INFINITY)) return u;
        }
        for (long k = 0; k < o->parameter_count; k++)
            change(o, o->parameters + k, o->parameters[k].rate * o->shares[u], o->rule == 4 ? 2 * (double)total / o->option[2] : 0);
    }
    return count;
}

__attribute__((visibility("default"))) long recdsl_online(learner *o, long first, long count) {
    const mode before = flush();
    const long done = o->numbers ? whole(o, first, count) : updates(o, count);
    restore(before);
    return done;
}
