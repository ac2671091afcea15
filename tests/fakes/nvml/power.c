/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_power: what a job does to a fake GPU. Called from job scripts, hence small and quick.
 *
 *   fake_power SCENARIO GPU +250000              add 250 W from now on; prints the instant (ns)
 *   fake_power SCENARIO GPU -250000              take them away again
 *   fake_power SCENARIO GPU +250000 --burn MS [--sm PCT] [--memory BYTES]
 *                                                hold the watts, and a place in the process list,
 *                                                for MS (or until TERM, INT, HUP); prints both ends (ns)
 *   fake_power SCENARIO GPU --mark               prints: instant (ns), energy since start (uJ),
 *                                                counter (mJ)
 *
 * GPU is an NVML index or a UUID.
 */
#define _GNU_SOURCE
#include "scenario.h"
#include <signal.h>
#include <stdlib.h>

static struct scenario *S;
static const char *path;

static _Noreturn void fail(const char *message)
{
    fprintf(stderr, "fake_power: %s\n", message);
    exit(2);
}

static long long number(const char *text)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end)
        fail("not a number");
    return value;
}

static uint32_t find_gpu(const char *text)
{
    for (uint32_t i = 0; i < S->gpu_count; i++)
        if (strcmp(S->gpus[i].uuid, text) == 0)
            return i;
    long long index = number(text);
    if (index < 0 || index >= S->order_count)
        fail("no such GPU");
    return S->order[index];
}

/* Appends a step of `delta_mw` at now; with the lock held. Returns NULL, or what was wrong. */
static const char *append(uint32_t card, long long delta_mw, int64_t *t_ns)
{
    struct gpu *g = &S->gpus[card];
    struct step *steps = S->steps[card];
    const struct step *last = &steps[g->step_count - 1];
    long long power_mw = (long long)last->power_mw + delta_mw;
    *t_ns = scenario_now(S);
    if (g->step_count == MAX_STEPS)
        return "the power curve is full";
    if (last->t_ns > *t_ns)
        return "the power curve is already scheduled beyond now";
    if (power_mw < 0)
        return "power would be negative";
    u128 spent = energy_pj(steps, g->step_count, *t_ns);
    steps[g->step_count] = (struct step){*t_ns, (uint64_t)power_mw, (uint64_t)(spent / 1000000),
                                         (uint64_t)(spent % 1000000)};
    g->step_count++;
    return NULL;
}

/* The card is as busy as its processes make it. */
static void work(struct gpu *g)
{
    uint32_t pct = 0;
    for (int i = 0; i < MAX_PROCESSES; i++)
        pct += g->processes[i].pid ? g->processes[i].sm_pct : 0;
    g->gpu_pct = pct < 100 ? pct : 100;
}

/* Changes power and, where `entry` is given, the process list at the same instant. */
static int64_t change(uint32_t card, long long delta_mw, const struct process *entry, int enters)
{
    int64_t t_ns;
    uint32_t wanted = enters ? 0 : (uint32_t)getpid();
    int lock = scenario_lock(S, path);
    if (lock < 0)
        fail("cannot lock the scenario");
    const char *wrong = append(card, delta_mw, &t_ns);
    for (int i = 0; entry && !wrong; i++) {
        if (i == MAX_PROCESSES) {
            wrong = "the process list is full";
        } else if (S->gpus[card].processes[i].pid == wanted) {
            S->gpus[card].processes[i] = enters ? *entry : (struct process){0};
            break;
        }
    }
    if (entry && !wrong)
        work(&S->gpus[card]);
    scenario_unlock(S, lock);
    if (wrong)
        fail(wrong);
    return t_ns;
}

static void burn(uint32_t card, long long delta_mw, long long ms, const struct process *entry)
{
    sigset_t ends;
    struct timespec span = {ms / 1000, ms % 1000 * 1000000};
    if (S->is_virtual)
        fail("--burn needs real time");
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGHUP);
    sigprocmask(SIG_BLOCK, &ends, NULL); /* a cancelled job must not leave its watts behind */
    printf("%lld\n", (long long)change(card, delta_mw, entry, 1));
    fflush(stdout);
    sigtimedwait(&ends, NULL, &span);
    printf("%lld\n", (long long)change(card, -delta_mw, entry, 0));
}

static void mark(uint32_t card)
{
    int lock = scenario_lock(S, path); /* a reader could do without; this is simpler */
    if (lock < 0)
        fail("cannot lock the scenario");
    const struct gpu *g = &S->gpus[card];
    int64_t now = scenario_now(S);
    printf("%lld %llu %llu\n", (long long)now,
           (unsigned long long)energy_uj(S->steps[card], g->step_count, now),
           (unsigned long long)counter_mj(g, S->steps[card], now));
    scenario_unlock(S, lock);
}

int main(int argc, char **argv)
{
    struct process entry = {.pid = (uint32_t)getpid(), .kind = 1, .gpu_instance = UINT32_MAX,
                            .compute_instance = UINT32_MAX};
    long long burn_ms = -1;
    if (argc < 4)
        fail("usage: fake_power SCENARIO GPU {--mark | MILLIWATTS [--burn MS] ...}");
    path = argv[1];
    S = scenario_map(path);
    if (!S)
        fail("no such scenario");
    uint32_t card = find_gpu(argv[2]);
    if (strcmp(argv[3], "--mark") == 0) {
        mark(card);
        return 0;
    }
    long long delta_mw = number(argv[3]);
    for (int i = 4; i < argc; i += 2) {
        if (i + 1 == argc)
            fail("an option lacks its value");
        if (strcmp(argv[i], "--burn") == 0)
            burn_ms = number(argv[i + 1]);
        else if (strcmp(argv[i], "--sm") == 0)
            entry.sm_pct = (uint32_t)number(argv[i + 1]);
        else if (strcmp(argv[i], "--memory") == 0)
            entry.memory_bytes = (uint64_t)number(argv[i + 1]);
        else
            fail("unknown option");
    }
    if (burn_ms < 0)
        printf("%lld\n", (long long)change(card, delta_mw, NULL, 0));
    else
        burn(card, delta_mw, burn_ms, &entry);
    return 0;
}
