/* SPDX-License-Identifier: Apache-2.0
 *
 * The scenario file: the state of all fake GPUs, one `struct scenario`, mapped by every process that
 * plays a part (daemons through nvml_fake.c, jobs through power.c, tests through scenario.py, whose
 * layout.py mirrors these structs and reads limits and function names here with a regular expression).
 *
 * Writers hold flock(2) on a freshly opened descriptor (the kernel frees it if they are killed) and
 * keep `seq` odd meanwhile. Readers take no lock: they copy a GPU and copy again if `seq` moved. The
 * power curve is append-only, so `step_count`, copied with the GPU, makes the steps below it stable.
 * A writer reads the time after `seq` is odd and a reader before it looks at `seq`: a reader thus
 * never misses a step that is older than its own idea of now, and energy is exact.
 *
 * Times are CLOCK_BOOTTIME ns (or `virtual_now_ns`). Energy is kept in pJ (1 mW x 1 ns).
 */
#ifndef SCENARIO_H
#define SCENARIO_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SCENARIO_MAGIC 0x4a424e56
#define MAX_GPUS 16
#define MAX_STEPS 65536
#define MAX_RESETS 64
#define MAX_PROCESSES 64
#define MAX_INSTANCES 8
#define MAX_FAULTS 32
#define MAX_CALLS 96
#define EVENT_COUNTERS 11 /* fields 74..81, then 269..271 */
#define MAX_FIGURES 24
#define MAX_XIDS 64
#define GPM_METRICS 64

/* Every function that is counted and can be made to fail. */
#define FUNCTIONS(X) \
    X(nvmlInit_v2) X(nvmlInitWithFlags) X(nvmlShutdown) X(nvmlSystemGetDriverVersion) \
    X(nvmlSystemGetNVMLVersion) X(nvmlDeviceGetCount_v2) X(nvmlDeviceGetHandleByIndex_v2) \
    X(nvmlDeviceGetHandleByUUID) X(nvmlDeviceGetHandleByPciBusId_v2) X(nvmlDeviceGetName) \
    X(nvmlDeviceGetUUID) X(nvmlDeviceGetSerial) X(nvmlDeviceGetBrand) X(nvmlDeviceGetPciInfo_v3) \
    X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetIndex) X(nvmlDeviceGetMemoryInfo) \
    X(nvmlDeviceGetMemoryInfo_v2) X(nvmlDeviceGetTemperature) X(nvmlDeviceGetTemperatureV) \
    X(nvmlDeviceGetClockInfo) X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetEncoderUtilization) \
    X(nvmlDeviceGetDecoderUtilization) X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceGetEnforcedPowerLimit) X(nvmlDeviceGetCurrentClocksEventReasons) \
    X(nvmlDeviceGetCurrentClocksThrottleReasons) X(nvmlDeviceGetArchitecture) \
    X(nvmlDeviceGetCudaComputeCapability) X(nvmlDeviceGetTotalEnergyConsumption) \
    X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetSamples) X(nvmlDeviceGetFieldValues) \
    X(nvmlDeviceGetComputeRunningProcesses_v3) X(nvmlDeviceGetGraphicsRunningProcesses_v3) \
    X(nvmlDeviceGetMPSComputeRunningProcesses_v3) X(nvmlDeviceGetProcessUtilization) \
    X(nvmlDeviceGetConfComputeMemSizeInfo) X(nvmlDeviceGetRunningProcessDetailList) \
    X(nvmlDeviceGetGpuUptime_v1) X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) \
    X(nvmlDeviceGetMigDeviceHandleByIndex) X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetGpuInstanceId) \
    X(nvmlDeviceGetComputeInstanceId) X(nvmlDeviceGetAttributes_v2) X(nvmlGpmQueryDeviceSupport) \
    X(nvmlGpmSampleAlloc) X(nvmlGpmSampleFree) X(nvmlGpmSampleGet) X(nvmlGpmMigSampleGet) \
    X(nvmlGpmMetricsGet) X(nvmlDeviceGetPerformanceState) \
    X(nvmlDeviceGetCurrPcieLinkGeneration) X(nvmlDeviceGetCurrPcieLinkWidth) \
    X(nvmlEventSetCreate) X(nvmlEventSetFree) X(nvmlEventSetWait_v2) X(nvmlDeviceRegisterEvents)

typedef unsigned __int128 u128;

struct step { /* power from t_ns on; energy up to t_ns, split so that it fits for years */
    int64_t t_ns;
    uint64_t power_mw, energy_uj, remainder_pj;
};

struct reset { /* from t_ns on the counter counts from base_uj, the uptime from base_s */
    int64_t t_ns;
    uint64_t base_uj, uptime_base_s;
    uint64_t rate_ppm; /* what the counter counts of the energy, in millionths */
};

struct meter { /* something that grows at `rate` per ns: total + rate * (t - since_ns) */
    uint64_t rate;
    int64_t since_ns;
    uint64_t total;
};

struct figure { /* the value of one more field; field 0: free */
    uint32_t field, is_32_bits;
    uint64_t value;
};

struct process {
    uint32_t pid, kind; /* pid 0: free; kind: bits of 1 compute, 2 graphics, 4 MPS */
    uint64_t memory_bytes;
    uint32_t gpu_instance, compute_instance; /* 0xffffffff: not on MIG */
    uint32_t sm_pct, memory_pct, encoder_pct, decoder_pct;
    uint64_t stale_us; /* how far its utilisation timestamp lags */
};

struct instance {
    char uuid[96], profile[32];
    uint32_t serial; /* 0: free; else new for each instance, so that old handles are dead */
    uint32_t gpu_instance, compute_instance, gpu_slices, compute_slices, sm_count;
    uint64_t memory_mib;
    struct meter sm; /* rate: SM utilisation in percent */
};

struct gpu {
    char uuid[96], name[96], pci_bus_id[32], serial[32];
    uint32_t minor, brand, architecture, cc_major, cc_minor;
    uint32_t temperature_c, graphics_mhz, sm_mhz, memory_mhz, video_mhz;
    uint32_t gpu_pct, memory_pct, encoder_pct, decoder_pct;
    uint32_t power_limit_mw, enforced_limit_mw, module_extra_mw, counts_module;
    uint32_t power_is_average, has_energy_counter;
    uint32_t max_instances, mig_mode, mig_pending;
    uint32_t failing_fills; /* so many filled process lists answer INSUFFICIENT_SIZE */
    uint32_t reset_count, step_count, last_serial;
    uint32_t pstate, pcie_generation, pcie_width; /* 0xffffffff: not supported */
    uint32_t xid_count, xids[MAX_XIDS];           /* all that ever happened, in order */
    uint64_t memory_total_bytes, memory_used_bytes, memory_reserved_bytes, event_reasons;
    int64_t tick_period_ns, tick_jitter_ns, tick_phase_ns, sample_period_ns, process_period_ns;
    uint64_t tick_seed;
    struct meter gpm[GPM_METRICS]; /* by metric id; rate: percent, or MiB/s */
    struct figure figures[MAX_FIGURES];
    struct meter events[EVENT_COUNTERS]; /* rate: 1 while the reason holds; total in ns */
    struct reset resets[MAX_RESETS];
    struct instance instances[MAX_INSTANCES];
    struct process processes[MAX_PROCESSES];
};

struct fault {
    char function[64]; /* a name of FUNCTIONS, "*", or "field.83" for one field value */
    uint32_t id;       /* 0: free */
    int32_t gpu, code; /* gpu -1: all and none; code 0: only hang */
    int32_t remaining; /* -1: until cleared */
    int64_t hang_ms;   /* 0: no hang, -1: until cleared */
};

struct scenario {
    uint32_t magic, bytes, gpu_count, seq;
    uint32_t is_virtual, generation, order_count, order[MAX_GPUS]; /* NVML index -> GPU */
    uint32_t last_fault;
    int64_t virtual_now_ns, wall_offset_ns; /* unix time = now + wall_offset_ns */
    char driver_version[80], nvml_version[80];
    uint64_t calls[MAX_CALLS];
    struct fault faults[MAX_FAULTS];
    struct gpu gpus[MAX_GPUS];
    struct step steps[MAX_GPUS][MAX_STEPS];
};

static inline struct scenario *scenario_map(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    void *map = MAP_FAILED;
    if (fstat(fd, &st) == 0 && st.st_size == (off_t)sizeof(struct scenario))
        map = mmap(NULL, sizeof(struct scenario), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED || ((struct scenario *)map)->magic != SCENARIO_MAGIC)
        return NULL;
    return map;
}

static inline int64_t scenario_now(const struct scenario *s)
{
    struct timespec ts;
    if (s->is_virtual)
        return __atomic_load_n(&s->virtual_now_ns, __ATOMIC_ACQUIRE);
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* Returns the lock to hand to scenario_unlock, or -1. */
static inline int scenario_lock(struct scenario *s, const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX) != 0) {
        close(fd);
        return -1;
    }
    __atomic_fetch_or(&s->seq, 1, __ATOMIC_SEQ_CST); /* already odd after a killed writer */
    return fd;
}

static inline void scenario_unlock(struct scenario *s, int lock)
{
    __atomic_fetch_add(&s->seq, 1, __ATOMIC_SEQ_CST);
    close(lock);
}

static inline const struct step *step_at(const struct step *steps, uint32_t count, int64_t t_ns)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (steps[middle].t_ns <= t_ns)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &steps[low - 1] : NULL; /* NULL: before the curve begins */
}

static inline u128 energy_pj(const struct step *steps, uint32_t count, int64_t t_ns)
{
    const struct step *s = step_at(steps, count, t_ns);
    if (!s)
        return 0;
    return (u128)s->energy_uj * 1000000 + s->remainder_pj + (u128)s->power_mw * (t_ns - s->t_ns);
}

static inline uint64_t energy_uj(const struct step *steps, uint32_t count, int64_t t_ns)
{
    return (uint64_t)(energy_pj(steps, count, t_ns) / 1000000);
}

static inline uint64_t meter_at(const struct meter *m, int64_t t_ns)
{
    return m->total + m->rate * (uint64_t)(t_ns - m->since_ns);
}

static inline uint64_t mix64(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline int64_t tick_time(const struct gpu *g, int64_t k)
{
    uint64_t span = 2 * (uint64_t)g->tick_jitter_ns + 1;
    int64_t jitter = (int64_t)(mix64(g->tick_seed + (uint64_t)k) % span) - g->tick_jitter_ns;
    return g->tick_phase_ns + k * g->tick_period_ns + jitter;
}

/* The last tick of the energy counter at or before t_ns (period 0: the counter never lags). */
static inline int64_t last_tick(const struct gpu *g, int64_t t_ns)
{
    if (g->tick_period_ns == 0)
        return t_ns;
    int64_t k = (t_ns - g->tick_phase_ns) / g->tick_period_ns + 1;
    while (tick_time(g, k) > t_ns)
        k--;
    return tick_time(g, k);
}

static inline const struct reset *reset_at(const struct gpu *g, int64_t t_ns)
{
    uint32_t i = g->reset_count;
    while (i > 1 && g->resets[i - 1].t_ns > t_ns)
        i--;
    return &g->resets[i - 1];
}

static inline uint64_t counter_mj(const struct gpu *g, const struct step *steps, int64_t t_ns)
{
    const struct reset *r = reset_at(g, t_ns);
    int64_t tick = last_tick(g, t_ns);
    if (tick < r->t_ns)
        tick = r->t_ns;
    uint64_t since = energy_uj(steps, g->step_count, tick) - energy_uj(steps, g->step_count, r->t_ns);
    if (g->counts_module)
        since += (uint64_t)g->module_extra_mw * (uint64_t)(tick - r->t_ns) / 1000000;
    return (r->base_uj + (uint64_t)((u128)since * r->rate_ppm / 1000000)) / 1000;
}

#endif
