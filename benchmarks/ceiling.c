/* A columnar LSTM with exact real-time recurrent learning and an update of all weights at each step, written for this
   one model: what generated code is measured against. C columns, D inputs and B samples are literals; columns lie
   innermost, L at a time, so that every array is read in vectors and in order. The prelude of the native backend stands
   in front of it (its exp and tanh).

   W [C/L][4][D + 2][L]: weights of the gates i, f, o, g for D inputs, the column's own output and a bias.
   tc, th [C/L][4][D + 2][B][L]: influence of each weight on cell and output. h, c [C/L][B][L]. w [C]: readout. */
#define L 16
#define G (C / L)
#define LANES_OF(l) SIMD for (long l = 0; l < L; l++)
typedef real lane[L];
typedef struct { lane f, kappa, rho, turn, own, psi[4], before; } factor;

static void gates(const real *restrict x, const lane (*restrict W)[D + 2], lane *restrict h, lane *restrict c,
                  const real *restrict w, factor *restrict out, real *restrict v) {
    for (long b = 0; b < B; b++) {
        lane pre[4];
        factor *const m = out + b;
        for (long q = 0; q < 4; q++) {
            LANES_OF(l) pre[q][l] = W[q][D + 1][l] + W[q][D][l] * h[b][l];
            for (long d = 0; d < D; d++) LANES_OF(l) pre[q][l] += W[q][d][l] * x[b * D + d];
        }
        real total = 0;
        _Pragma("omp simd reduction(+ : total)") for (long l = 0; l < L; l++) {
            const real i = r_sigmoid(pre[0][l]), f = r_sigmoid(pre[1][l]), o = r_sigmoid(pre[2][l]);
            const real g = r_tanh(pre[3][l]), old = c[b][l], new = f * old + i * g, tau = r_tanh(new);
            const real si = i * (1 - i), sf = f * (1 - f), so = o * (1 - o), sg = 1 - g * g;
            m->before[l] = h[b][l];
            m->f[l] = f;
            m->psi[0][l] = g * si, m->psi[1][l] = old * sf, m->psi[2][l] = 0, m->psi[3][l] = i * sg;
            m->kappa[l] = m->psi[0][l] * W[0][D][l] + m->psi[1][l] * W[1][D][l] + m->psi[3][l] * W[3][D][l];
            m->rho[l] = o * (1 - tau * tau);
            m->own[l] = tau * so;
            m->turn[l] = m->own[l] * W[2][D][l];
            c[b][l] = new;
            h[b][l] = o * tau;
            total += w[l] * h[b][l];
        }
        v[b] += total;
    }
}

/* One weight of L columns: its traces of all samples, and the update. */
INLINE void weight(long q, const real *restrict x, long dx, lane *restrict W, lane *restrict tc, lane *restrict th,
                   const factor *restrict m, const real *restrict e, const real *restrict w, real rate, int kind) {
    lane sum;
    LANES_OF(l) sum[l] = 0;
    for (long b = 0; b < B; b++) {
        const real one = kind == 0 ? x[b * dx] : R(1), error = e[b];
        LANES_OF(l) {
            const real drive = kind == 1 ? m[b].before[l] : one, last = th[b][l];
            real cell = m[b].f[l] * tc[b][l] + m[b].kappa[l] * last;
            if (q != 2) cell += m[b].psi[q][l] * drive;
            real out = m[b].rho[l] * cell + m[b].turn[l] * last;
            if (q == 2) out += m[b].own[l] * drive;
            tc[b][l] = cell, th[b][l] = out;
            sum[l] += error * out;
        }
    }
    LANES_OF(l) (*W)[l] -= rate * w[l] * sum[l];
}

__attribute__((visibility("default"))) void recdsl_ceiling(long steps, const real *restrict x, const real *restrict y,
                                                           double rate, lane *restrict W, real *restrict w,
                                                           lane *restrict tc, lane *restrict th, lane *restrict h,
                                                           lane *restrict c) {
    static factor found[G][B];
    const long all = 4 * (D + 2);
    for (long t = 0; t < steps; t++, x += B * D, y += B) {
        real e[B];
        for (long b = 0; b < B; b++) e[b] = 0;
        for (long k = 0; k < G; k++)
            gates(x, (const lane(*)[D + 2])(W + k * all), h + k * B, c + k * B, w + k * L, found[k], e);
        for (long b = 0; b < B; b++) e[b] = 2 * (e[b] - y[b]);
        for (long k = 0; k < G; k++) {
            const factor *const m = found[k];
            real *const mine = w + k * L;
#define GATE(q)                                                                                            \
    for (long d = 0; d < D + 2; d++) {                                                                     \
        const long at = k * all + (q) * (D + 2) + d;                                                       \
        lane *const one = tc + at * B, *const two = th + at * B;                                           \
        if (d < D) weight(q, x + d, D, W + at, one, two, m, e, mine, R(rate), 0);                          \
        else if (d == D) weight(q, x, 0, W + at, one, two, m, e, mine, R(rate), 1);                        \
        else weight(q, x, 0, W + at, one, two, m, e, mine, R(rate), 2);                                    \
    }
            GATE(0) GATE(1) GATE(2) GATE(3)
            lane sum;
            LANES_OF(l) sum[l] = 0;
            for (long b = 0; b < B; b++) LANES_OF(l) sum[l] += e[b] * h[k * B + b][l];
            LANES_OF(l) mine[l] -= R(rate) * sum[l];
        }
    }
}
