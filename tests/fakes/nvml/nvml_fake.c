/* SPDX-License-Identifier: Apache-2.0
 *
 * A libnvidia-ml.so.1 without a GPU: answers the NVML calls that Joulebook makes from the scenario
 * file named in FAKE_NVML_SCENARIO (see scenario.h). Symbols and structs are those of nvml.h.
 *
 * Build flags: PROCESS_ENTRY_BYTES, the stride of the process lists (24, or the longer one of early
 * R535 drivers, which is told apart by a missing nvmlDeviceGetRunningProcessDetailList), and
 * WITH_UPTIME (nvmlDeviceGetGpuUptime_v1 exists).
 *
 * A handle is no pointer but a number: generation (16 bits), MIG serial, GPU + 1, MIG slot + 1.
 */
#define _GNU_SOURCE
#include "scenario.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <strings.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, MEMORY = 20, NO_DATA = 21, VERSION_MISMATCH = 25,
};
enum { AMPERE = 7, HOPPER = 9 };
enum { TYPE_UINT = 1, TYPE_ULL = 3 };
enum { COMPUTE = 1, GRAPHICS = 2, MPS = 4 };

typedef struct opaque *nvmlDevice_t;
typedef union { double d; unsigned int ui; unsigned long long ull; } value_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned int version, sensor; int celsius; } temperature_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned long long timestamp; value_t value; } sample_t;
typedef struct { unsigned int uptime; } uptime_t;
typedef struct { unsigned int version, supported; } gpm_support_t;
typedef struct {
    unsigned int id, scope;
    long long timestamp, latency;
    unsigned int type;
    int rc;
    value_t value;
} field_t;
typedef struct {
    unsigned int pid;
    unsigned long long memory;
    unsigned int gpu_instance, compute_instance;
#if PROCESS_ENTRY_BYTES > 24
    unsigned long long extra[(PROCESS_ENTRY_BYTES - 24) / 8]; /* protected memory, and padding */
#endif
} process_t;
typedef struct {
    unsigned int pid;
    unsigned long long timestamp;
    unsigned int sm, memory, encoder, decoder;
} process_util_t;
typedef struct {
    char legacy[16];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_t;
typedef struct {
    unsigned int sm_count, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mib;
} attributes_t;
typedef struct { int64_t t_ns; uint64_t busy[GPM_METRICS]; } gpm_sample_t;
typedef struct {
    nvmlDevice_t device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
} event_t;
typedef struct { unsigned int registered[MAX_GPUS], seen[MAX_GPUS]; } event_set_t;
typedef struct { unsigned int id; int rc; double value; const char *info[3]; } gpm_metric_t;
typedef struct {
    unsigned int version, count;
    gpm_sample_t *first, *second;
    gpm_metric_t metrics[]; /* the caller's array is longer or shorter with the NVML version */
} gpm_get_t;

_Static_assert(sizeof(process_t) == PROCESS_ENTRY_BYTES, "process info");
_Static_assert(sizeof(process_util_t) == 32, "process utilisation");
_Static_assert(sizeof(sample_t) == 16, "sample");
_Static_assert(sizeof(field_t) == 40, "field value");
_Static_assert(sizeof(memory_v2_t) == 40 && sizeof(pci_t) == 68 && sizeof(attributes_t) == 40, "");

enum function {
#define X(name) F_##name,
    FUNCTIONS(X)
#undef X
    FUNCTION_COUNT
};
_Static_assert(FUNCTION_COUNT <= MAX_CALLS, "room for the call counters");
static const char *const FUNCTION_NAMES[] = {
#define X(name) #name,
    FUNCTIONS(X)
#undef X
};

static struct scenario *S;
static struct { /* of this process; guarded by its lock, read without it */
    pthread_mutex_t lock;
    char path[4096];
    ino_t inode;
    unsigned int users;
    atomic_uint generation; /* the driver's when we initialised, 0: never */
} session = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What a function works on: the time and a consistent copy of the GPU at that time. */
struct call {
    int64_t now;
    int card;
    const struct instance *mig; /* into gpu.instances when the handle is a MIG device */
    const struct step *steps;
    struct gpu gpu;
};

/* ---- faults ---------------------------------------------------------------------------------- */

static void sleep_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
    if (ms)
        nanosleep(&ts, NULL);
}

static void hang(const struct fault *f, uint32_t id, int64_t ms)
{
    for (int64_t waited = 0; ms < 0 || waited < ms; waited++) {
        if (__atomic_load_n(&f->id, __ATOMIC_ACQUIRE) != id)
            return;
        sleep_ms(1);
    }
}

/* Takes one use of a fault that has a count; false when another caller took the last. */
static bool take_fault(struct fault *f)
{
    int32_t left = __atomic_load_n(&f->remaining, __ATOMIC_RELAXED);
    while (left > 0)
        if (__atomic_compare_exchange_n(&f->remaining, &left, left - 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            return true;
    return left < 0;
}

static int injected(const char *name, int card, bool wildcard)
{
    for (int i = 0; i < MAX_FAULTS; i++) {
        struct fault *f = &S->faults[i];
        uint32_t id = __atomic_load_n(&f->id, __ATOMIC_ACQUIRE);
        if (!id || (f->gpu >= 0 && f->gpu != card))
            continue;
        if (strcmp(f->function, name) != 0 && !(wildcard && strcmp(f->function, "*") == 0))
            continue;
        int code = f->code;
        int64_t hang_ms = f->hang_ms;
        if (!take_fault(f))
            continue;
        if (hang_ms)
            hang(f, id, hang_ms);
        if (code)
            return code;
    }
    return OK;
}

/* ---- session --------------------------------------------------------------------------------- */

/* Counts the call and applies faults; `card` is -1 for a function of the whole system. */
static int enter(enum function f, int card)
{
    if (!S)
        return UNINITIALIZED;
    __atomic_fetch_add(&S->calls[f], 1, __ATOMIC_RELAXED);
    return injected(FUNCTION_NAMES[f], card, true);
}

static int enter_initialised(enum function f, int card)
{
    int rc = enter(f, card);
    if (rc)
        return rc;
    unsigned int generation = atomic_load(&session.generation);
    return generation && generation == S->generation ? OK : UNINITIALIZED;
}
#define SYSTEM(fn) do { int rc_ = enter_initialised(F_##fn, -1); if (rc_) return rc_; } while (0)

static int attach(void)
{
    struct stat st;
    const char *path = getenv("FAKE_NVML_SCENARIO");
    if (!path || strlen(path) >= sizeof session.path || stat(path, &st) != 0)
        return DRIVER_NOT_LOADED;
    if (S && session.inode == st.st_ino && strcmp(session.path, path) == 0)
        return OK;
    struct scenario *map = scenario_map(path); /* the old map stays: a hung thread may be in it */
    if (!map)
        return DRIVER_NOT_LOADED;
    strcpy(session.path, path);
    session.inode = st.st_ino;
    S = map;
    return OK;
}

static int initialise(enum function f)
{
    pthread_mutex_lock(&session.lock);
    int rc = session.users && S ? OK : attach();
    pthread_mutex_unlock(&session.lock);
    if (rc || (rc = enter(f, -1))) /* may hang: not under the lock */
        return rc;
    pthread_mutex_lock(&session.lock);
    if (atomic_load(&session.generation) != S->generation)
        session.users = 0;
    session.users++;
    atomic_store(&session.generation, S->generation);
    pthread_mutex_unlock(&session.lock);
    return OK;
}
int nvmlInit_v2(void) { return initialise(F_nvmlInit_v2); }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return initialise(F_nvmlInitWithFlags); }

int nvmlShutdown(void)
{
    SYSTEM(nvmlShutdown);
    pthread_mutex_lock(&session.lock);
    if (session.users && --session.users == 0)
        atomic_store(&session.generation, 0);
    pthread_mutex_unlock(&session.lock);
    return OK;
}

const char *nvmlErrorString(int code)
{
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}

/* ---- handles and snapshots ------------------------------------------------------------------- */

static nvmlDevice_t make_handle(int card, int slot, uint32_t serial)
{
    return (nvmlDevice_t)((uint64_t)(S->generation & 0xffff) << 48 | (uint64_t)serial << 16 |
                          (uint64_t)(card + 1) << 8 | (uint64_t)(slot + 1));
}

static uint32_t read_begin(void)
{
    uint32_t seq;
    for (int spins = 0; (seq = __atomic_load_n(&S->seq, __ATOMIC_ACQUIRE)) & 1; spins++) {
        if (spins < 2000)
            continue;
        int lock = scenario_lock(S, session.path); /* waits for the writer, or mends a dead one's */
        if (lock >= 0)
            scenario_unlock(S, lock);
    }
    return seq;
}

static bool read_again(uint32_t seq)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&S->seq, __ATOMIC_RELAXED) != seq;
}

static void snapshot(int card, struct gpu *out)
{
    uint32_t seq;
    do {
        seq = read_begin();
        memcpy(out, &S->gpus[card], sizeof *out);
    } while (read_again(seq));
}

static int index_of(int card)
{
    for (uint32_t i = 0; i < S->order_count; i++)
        if (S->order[i] == (uint32_t)card)
            return (int)i;
    return -1;
}

enum accepts { WHOLE, ANY, MIG };

static int open_device(enum function f, nvmlDevice_t device, enum accepts accepts, struct call *c)
{
    uint64_t h = (uint64_t)device;
    int slot = (int)(h & 0xff) - 1;
    c->card = (int)(h >> 8 & 0xff) - 1;
    int rc = enter_initialised(f, c->card);
    if (rc)
        return rc;
    if (h >> 48 != (S->generation & 0xffff) || c->card < 0 || c->card >= (int)S->gpu_count)
        return INVALID_ARGUMENT;
    c->now = scenario_now(S); /* before the snapshot: see scenario.h */
    snapshot(c->card, &c->gpu);
    c->steps = S->steps[c->card];
    c->mig = NULL;
    if (slot >= 0) {
        c->mig = &c->gpu.instances[slot];
        if (c->mig->serial != (uint32_t)(h >> 16))
            return INVALID_ARGUMENT; /* this instance has been destroyed */
    }
    if (accepts == WHOLE && c->mig)
        return NOT_SUPPORTED; /* energy, power, ... exist for the whole card only */
    return accepts == MIG && !c->mig ? INVALID_ARGUMENT : OK;
}
#define DEVICE(fn, accepts) \
    struct call c; \
    do { int rc_ = open_device(F_##fn, device, accepts, &c); if (rc_) return rc_; } while (0)

static int copy_text(char *out, unsigned int length, const char *text)
{
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return OK;
}

static unsigned long long wall_us(int64_t t_ns)
{
    return (unsigned long long)(t_ns + S->wall_offset_ns) / 1000;
}

/* ---- enumeration and identity ---------------------------------------------------------------- */

int nvmlSystemGetDriverVersion(char *out, unsigned int length)
{
    SYSTEM(nvmlSystemGetDriverVersion);
    return copy_text(out, length, S->driver_version);
}

int nvmlSystemGetNVMLVersion(char *out, unsigned int length)
{
    SYSTEM(nvmlSystemGetNVMLVersion);
    return copy_text(out, length, S->nvml_version);
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    SYSTEM(nvmlDeviceGetCount_v2);
    *count = S->order_count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    int card = S && index < S->order_count ? (int)S->order[index] : -1;
    int rc = enter_initialised(F_nvmlDeviceGetHandleByIndex_v2, card);
    if (rc)
        return rc;
    if (card < 0)
        return INVALID_ARGUMENT;
    *device = make_handle(card, -1, 0);
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct gpu g;
    SYSTEM(nvmlDeviceGetHandleByUUID);
    for (uint32_t i = 0; i < S->order_count; i++) {
        int card = (int)S->order[i];
        snapshot(card, &g);
        if (strcmp(g.uuid, uuid) == 0) {
            *device = make_handle(card, -1, 0);
            return OK;
        }
        for (int slot = 0; slot < MAX_INSTANCES; slot++)
            if (g.instances[slot].serial && strcmp(g.instances[slot].uuid, uuid) == 0) {
                *device = make_handle(card, slot, g.instances[slot].serial);
                return OK;
            }
    }
    return NOT_FOUND;
}

static bool parse_bus_id(const char *text, unsigned int out[3])
{
    return sscanf(text, "%x:%x:%x", &out[0], &out[1], &out[2]) == 3;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    unsigned int wanted[3], here[3];
    SYSTEM(nvmlDeviceGetHandleByPciBusId_v2);
    if (!parse_bus_id(bus_id, wanted))
        return INVALID_ARGUMENT;
    for (uint32_t i = 0; i < S->order_count; i++)
        if (parse_bus_id(S->gpus[S->order[i]].pci_bus_id, here) &&
            memcmp(here, wanted, sizeof here) == 0) {
            *device = make_handle((int)S->order[i], -1, 0);
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned int length)
{
    char text[160];
    DEVICE(nvmlDeviceGetName, ANY);
    snprintf(text, sizeof text, "%s%s%s", c.gpu.name, c.mig ? " MIG " : "",
             c.mig ? c.mig->profile : "");
    return copy_text(out, length, text);
}

int nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int length)
{
    DEVICE(nvmlDeviceGetUUID, ANY);
    return copy_text(out, length, c.mig ? c.mig->uuid : c.gpu.uuid);
}

int nvmlDeviceGetSerial(nvmlDevice_t device, char *out, unsigned int length)
{
    DEVICE(nvmlDeviceGetSerial, WHOLE);
    return c.gpu.serial[0] ? copy_text(out, length, c.gpu.serial) : NOT_SUPPORTED;
}

int nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, pci_t *pci)
{
    unsigned int parts[3];
    DEVICE(nvmlDeviceGetPciInfo_v3, WHOLE);
    memset(pci, 0, sizeof *pci);
    if (!parse_bus_id(c.gpu.pci_bus_id, parts))
        return INVALID_ARGUMENT;
    pci->domain = parts[0];
    pci->bus = parts[1];
    pci->device = parts[2];
    snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:%02X.0", parts[0], parts[1], parts[2]);
    snprintf(pci->legacy, sizeof pci->legacy, "%04X:%02X:%02X.0", parts[0] & 0xffff,
             parts[1] & 0xff, parts[2] & 0xff);
    return OK;
}

/* One number of a whole GPU, or NOT_SUPPORTED where `supported` is false. */
#define GETTER(fn, type, supported, expression) \
    int fn(nvmlDevice_t device, type *out) \
    { \
        DEVICE(fn, WHOLE); \
        if (!(supported)) \
            return NOT_SUPPORTED; \
        *out = (type)(expression); \
        return OK; \
    }
GETTER(nvmlDeviceGetBrand, unsigned int, true, c.gpu.brand)
GETTER(nvmlDeviceGetMinorNumber, unsigned int, true, c.gpu.minor)
GETTER(nvmlDeviceGetIndex, unsigned int, true, index_of(c.card))
GETTER(nvmlDeviceGetArchitecture, unsigned int, true, c.gpu.architecture)
GETTER(nvmlDeviceGetPowerManagementLimit, unsigned int, true, c.gpu.power_limit_mw)
GETTER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, true, c.gpu.enforced_limit_mw)
GETTER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, true, c.gpu.event_reasons)
GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, true, c.gpu.event_reasons)
GETTER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, c.gpu.has_energy_counter,
       counter_mj(&c.gpu, c.steps, c.now))

int nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    DEVICE(nvmlDeviceGetCudaComputeCapability, WHOLE);
    *major = (int)c.gpu.cc_major;
    *minor = (int)c.gpu.cc_minor;
    return OK;
}

#if WITH_UPTIME
int nvmlDeviceGetGpuUptime_v1(nvmlDevice_t device, uptime_t *out)
{
    DEVICE(nvmlDeviceGetGpuUptime_v1, ANY);
    const struct reset *r = reset_at(&c.gpu, c.now);
    out->uptime = (unsigned int)(r->uptime_base_s + (uint64_t)(c.now - r->t_ns) / 1000000000);
    return OK;
}
#endif

/* ---- state ----------------------------------------------------------------------------------- */

static unsigned long long memory_total(const struct call *c)
{
    return c->mig ? c->mig->memory_mib << 20 : c->gpu.memory_total_bytes;
}

static unsigned long long memory_used(const struct call *c)
{
    unsigned long long used = 0;
    if (!c->mig)
        return c->gpu.memory_used_bytes;
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (c->gpu.processes[i].pid && c->gpu.processes[i].gpu_instance == c->mig->gpu_instance)
            used += c->gpu.processes[i].memory_bytes;
    return used;
}

int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, memory_t *out)
{
    DEVICE(nvmlDeviceGetMemoryInfo, ANY);
    *out = (memory_t){memory_total(&c), memory_total(&c) - memory_used(&c), memory_used(&c)};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, memory_v2_t *out)
{
    DEVICE(nvmlDeviceGetMemoryInfo_v2, ANY);
    if (out->version != (2u << 24 | sizeof *out))
        return VERSION_MISMATCH;
    unsigned long long reserved = c.mig ? 0 : c.gpu.memory_reserved_bytes;
    *out = (memory_v2_t){out->version, memory_total(&c), reserved,
                         memory_total(&c) - memory_used(&c) - reserved, memory_used(&c)};
    return OK;
}

int nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *celsius)
{
    DEVICE(nvmlDeviceGetTemperature, WHOLE);
    *celsius = c.gpu.temperature_c;
    return sensor == 0 ? OK : INVALID_ARGUMENT;
}

int nvmlDeviceGetTemperatureV(nvmlDevice_t device, temperature_t *out)
{
    DEVICE(nvmlDeviceGetTemperatureV, WHOLE);
    if (out->version != (1u << 24 | sizeof *out))
        return VERSION_MISMATCH;
    out->celsius = (int)c.gpu.temperature_c;
    return out->sensor == 0 ? OK : INVALID_ARGUMENT;
}

int nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *mhz)
{
    DEVICE(nvmlDeviceGetClockInfo, WHOLE);
    const unsigned int clocks[] = {c.gpu.graphics_mhz, c.gpu.sm_mhz, c.gpu.memory_mhz,
                                   c.gpu.video_mhz};
    if (type > 3)
        return INVALID_ARGUMENT;
    *mhz = clocks[type];
    return OK;
}

int nvmlDeviceGetUtilizationRates(nvmlDevice_t device, utilization_t *out)
{
    DEVICE(nvmlDeviceGetUtilizationRates, WHOLE);
    if (c.gpu.mig_mode)
        return NOT_SUPPORTED;
    *out = (utilization_t){c.gpu.gpu_pct, c.gpu.memory_pct};
    return OK;
}

#define CODEC(fn, member) \
    int fn(nvmlDevice_t device, unsigned int *percent, unsigned int *period_us) \
    { \
        DEVICE(fn, WHOLE); \
        if (c.gpu.mig_mode) \
            return NOT_SUPPORTED; \
        *percent = c.gpu.member; \
        *period_us = 167000; \
        return OK; \
    }
CODEC(nvmlDeviceGetEncoderUtilization, encoder_pct)
CODEC(nvmlDeviceGetDecoderUtilization, decoder_pct)

/* ---- power and energy ------------------------------------------------------------------------ */

static unsigned int instant_mw(const struct call *c, int64_t t_ns)
{
    const struct step *s = step_at(c->steps, c->gpu.step_count, t_ns);
    return s ? (unsigned int)s->power_mw : 0;
}

/* Mean of the trailing second, or of the shorter time since the curve began. */
static unsigned int average_mw(const struct call *c)
{
    int64_t from = c->now - 1000000000;
    if (from < c->steps[0].t_ns)
        from = c->steps[0].t_ns;
    if (from >= c->now)
        return instant_mw(c, c->now);
    u128 spent = energy_pj(c->steps, c->gpu.step_count, c->now) -
                 energy_pj(c->steps, c->gpu.step_count, from);
    return (unsigned int)(spent / (u128)(c->now - from));
}

GETTER(nvmlDeviceGetPowerUsage, unsigned int, true,
       c.gpu.power_is_average ? average_mw(&c) : instant_mw(&c, c.now))

int nvmlDeviceGetSamples(nvmlDevice_t device, unsigned int type, unsigned long long last_seen,
                         unsigned int *value_type, unsigned int *count, sample_t *out)
{
    enum { BUFFERED = 120 };
    unsigned int n = 0;
    DEVICE(nvmlDeviceGetSamples, WHOLE);
    const unsigned int constant[] = {0, c.gpu.gpu_pct, c.gpu.memory_pct, c.gpu.encoder_pct,
                                     c.gpu.decoder_pct};
    if (type > 4 || (type > 0 && c.gpu.mig_mode))
        return NOT_SUPPORTED;
    *value_type = TYPE_UINT;
    int64_t newest = c.now / c.gpu.sample_period_ns;
    for (int64_t k = newest - BUFFERED + 1; k <= newest; k++) { /* oldest first */
        int64_t t_ns = k * c.gpu.sample_period_ns;
        if (t_ns < c.steps[0].t_ns || wall_us(t_ns) <= last_seen || (out && n == *count))
            continue;
        if (out)
            out[n] = (sample_t){wall_us(t_ns), {.ull = type ? constant[type] : instant_mw(&c, t_ns)}};
        n++;
    }
    *count = n;
    return n ? OK : NOT_FOUND;
}

static int field_value(const struct call *c, field_t *f)
{
    const struct gpu *g = &c->gpu;
    bool module = f->scope == 1;
    if (f->scope > 1)
        return INVALID_ARGUMENT;
    if (module && !(g->module_extra_mw && (f->id == 185 || f->id == 186)))
        return NOT_SUPPORTED;
    if (!module && g->counts_module && (f->id == 185 || f->id == 186))
        return NOT_SUPPORTED;
    f->type = TYPE_ULL;
    if ((f->id == 83 || f->id == 191) && g->has_energy_counter) {
        f->value.ull = counter_mj(g, c->steps, c->now);
    } else if ((f->id == 185 && g->power_is_average) || f->id == 186) {
        f->type = TYPE_UINT;
        f->value.ui = (f->id == 185 ? average_mw(c) : instant_mw(c, c->now)) +
                      (module ? g->module_extra_mw : 0);
    } else if (f->id >= 74 && f->id <= 81) {
        f->value.ull = meter_at(&g->events[f->id - 74], c->now);
    } else if (f->id >= 269 && f->id <= 271) {
        f->value.ull = meter_at(&g->events[f->id - 269 + 8], c->now);
    } else {
        for (int i = 0; i < MAX_FIGURES; i++)
            if (g->figures[i].field && g->figures[i].field == f->id) {
                f->type = g->figures[i].is_32_bits ? TYPE_UINT : TYPE_ULL;
                f->value.ull = g->figures[i].value;
                return OK;
            }
        return NOT_SUPPORTED;
    }
    return OK;
}

int nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, field_t *fields)
{
    char name[32];
    DEVICE(nvmlDeviceGetFieldValues, WHOLE);
    for (int i = 0; i < count; i++) {
        field_t *f = &fields[i];
        snprintf(name, sizeof name, "field.%u", f->id);
        f->timestamp = (long long)wall_us(c.now);
        f->latency = 1;
        f->value.ull = 0;
        f->rc = injected(name, c.card, false);
        if (!f->rc)
            f->rc = field_value(&c, f);
    }
    return OK;
}

/* ---- processes ------------------------------------------------------------------------------- */

static int list_processes(const struct call *c, uint32_t kind, unsigned int *count, process_t *out)
{
    unsigned int n = 0, room = out ? *count : 0;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        const struct process *p = &c->gpu.processes[i];
        if (!p->pid || !(p->kind & kind) || (c->mig && p->gpu_instance != c->mig->gpu_instance))
            continue;
        if (n < room)
            out[n] = (process_t){.pid = p->pid, .memory = p->memory_bytes,
                                 .gpu_instance = p->gpu_instance,
                                 .compute_instance = p->compute_instance};
        n++;
    }
    uint32_t *failing = &S->gpus[c->card].failing_fills;
    if (out && __atomic_load_n(failing, __ATOMIC_RELAXED)) {
        __atomic_fetch_sub(failing, 1, __ATOMIC_RELAXED);
        n = room + 1; /* the list has grown past the buffer since its size was asked */
    }
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : OK;
}
#define PROCESS_LIST(fn, kind) \
    int fn(nvmlDevice_t device, unsigned int *count, process_t *out) \
    { \
        DEVICE(fn, ANY); \
        return list_processes(&c, kind, count, out); \
    }
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS)

/* Only their presence matters: it tells the stride of the process lists. */
GETTER(nvmlDeviceGetConfComputeMemSizeInfo, unsigned long long, false, 0)
#if PROCESS_ENTRY_BYTES == 24
GETTER(nvmlDeviceGetRunningProcessDetailList, unsigned long long, false, 0)
#endif

int nvmlDeviceGetProcessUtilization(nvmlDevice_t device, process_util_t *out, unsigned int *count,
                                    unsigned long long last_seen)
{
    unsigned int n = 0, room;
    DEVICE(nvmlDeviceGetProcessUtilization, WHOLE);
    if (c.gpu.mig_mode)
        return NOT_SUPPORTED;
    room = out ? *count : 0;
    unsigned long long newest = wall_us(c.now / c.gpu.process_period_ns * c.gpu.process_period_ns);
    for (int i = 0; i < MAX_PROCESSES; i++) {
        const struct process *p = &c.gpu.processes[i];
        unsigned long long t_us = newest - p->stale_us;
        if (!p->pid || t_us <= last_seen ||
            !(p->sm_pct || p->memory_pct || p->encoder_pct || p->decoder_pct))
            continue;
        if (n < room)
            out[n] = (process_util_t){p->pid, t_us, p->sm_pct, p->memory_pct, p->encoder_pct,
                                      p->decoder_pct};
        n++;
    }
    *count = n;
    if (n == 0)
        return NOT_FOUND;
    return n > room ? INSUFFICIENT_SIZE : OK;
}

/* ---- MIG ------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    DEVICE(nvmlDeviceGetMigMode, WHOLE);
    *current = c.gpu.mig_mode;
    *pending = c.gpu.mig_pending;
    return c.gpu.max_instances ? OK : NOT_SUPPORTED;
}

GETTER(nvmlDeviceGetMaxMigDeviceCount, unsigned int, true, c.gpu.max_instances)

int nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *out)
{
    DEVICE(nvmlDeviceGetMigDeviceHandleByIndex, WHOLE);
    if (!c.gpu.mig_mode)
        return NOT_SUPPORTED;
    if (index >= c.gpu.max_instances)
        return INVALID_ARGUMENT;
    if (!c.gpu.instances[index].serial)
        return NOT_FOUND;
    *out = make_handle(c.card, (int)index, c.gpu.instances[index].serial);
    return OK;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *out)
{
    DEVICE(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, MIG);
    *out = make_handle(c.card, -1, 0);
    return OK;
}

#define INSTANCE_GETTER(fn, accepts, expression) \
    int fn(nvmlDevice_t device, unsigned int *out) \
    { \
        DEVICE(fn, accepts); \
        *out = (expression); \
        return OK; \
    }
INSTANCE_GETTER(nvmlDeviceIsMigDeviceHandle, ANY, c.mig != NULL)
INSTANCE_GETTER(nvmlDeviceGetGpuInstanceId, MIG, c.mig->gpu_instance)
INSTANCE_GETTER(nvmlDeviceGetComputeInstanceId, MIG, c.mig->compute_instance)

int nvmlDeviceGetAttributes_v2(nvmlDevice_t device, attributes_t *out)
{
    DEVICE(nvmlDeviceGetAttributes_v2, MIG);
    *out = (attributes_t){.sm_count = c.mig->sm_count, .copy = 1, .gpu_slices = c.mig->gpu_slices,
                          .compute_slices = c.mig->compute_slices,
                          .memory_mib = c.mig->memory_mib};
    return OK;
}

/* ---- GPM ------------------------------------------------------------------------------------- */

int nvmlGpmQueryDeviceSupport(nvmlDevice_t device, gpm_support_t *out)
{
    DEVICE(nvmlGpmQueryDeviceSupport, ANY);
    out->supported = c.gpu.architecture >= HOPPER;
    return out->version == 1 ? OK : VERSION_MISMATCH;
}

int nvmlGpmSampleAlloc(gpm_sample_t **out)
{
    SYSTEM(nvmlGpmSampleAlloc);
    *out = calloc(1, sizeof **out);
    return *out ? OK : MEMORY;
}

int nvmlGpmSampleFree(gpm_sample_t *sample)
{
    SYSTEM(nvmlGpmSampleFree);
    free(sample);
    return OK;
}

int nvmlGpmSampleGet(nvmlDevice_t device, gpm_sample_t *sample)
{
    DEVICE(nvmlGpmSampleGet, ANY);
    if (c.gpu.architecture < HOPPER)
        return NOT_SUPPORTED;
    if (c.gpu.mig_mode && !c.mig)
        return NOT_SUPPORTED;
    sample->t_ns = c.now;
    for (int id = 0; id < GPM_METRICS; id++)
        sample->busy[id] = meter_at(c.mig ? &c.mig->sm : &c.gpu.gpm[id], c.now);
    return OK;
}

int nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int gpu_instance, gpm_sample_t *sample)
{
    DEVICE(nvmlGpmMigSampleGet, WHOLE);
    if (c.gpu.architecture < HOPPER)
        return NOT_SUPPORTED;
    for (int slot = 0; slot < MAX_INSTANCES; slot++) {
        const struct instance *i = &c.gpu.instances[slot];
        if (i->serial && i->gpu_instance == gpu_instance) {
            sample->t_ns = c.now;
            sample->busy[1] = sample->busy[2] = meter_at(&i->sm, c.now);
            return OK;
        }
    }
    return NOT_FOUND;
}

int nvmlGpmMetricsGet(gpm_get_t *get)
{
    SYSTEM(nvmlGpmMetricsGet);
    if (get->version != 1)
        return VERSION_MISMATCH;
    if (!get->first || !get->second || get->second->t_ns <= get->first->t_ns)
        return INVALID_ARGUMENT;
    int64_t span = get->second->t_ns - get->first->t_ns;
    for (unsigned int i = 0; i < get->count; i++) {
        gpm_metric_t *m = &get->metrics[i];
        bool known = m->id > 0 && m->id < GPM_METRICS && m->id != 4; /* 4 is not known here */
        m->value = known ? (double)(get->second->busy[m->id] - get->first->busy[m->id]) / (double)span
                         : 0.0;
        m->rc = !known ? NOT_SUPPORTED : span < 100000000 ? NO_DATA : OK;
    }
    return OK;
}

/* ---- health ---------------------------------------------------------------------------------- */

GETTER(nvmlDeviceGetPerformanceState, unsigned int, c.gpu.pstate != UINT32_MAX, c.gpu.pstate)
GETTER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, c.gpu.pcie_generation != UINT32_MAX,
       c.gpu.pcie_generation)
GETTER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, c.gpu.pcie_width != UINT32_MAX,
       c.gpu.pcie_width)

enum { XID = 8, TIMEOUT = 10 };

int nvmlEventSetCreate(event_set_t **out)
{
    SYSTEM(nvmlEventSetCreate);
    *out = calloc(1, sizeof **out);
    return *out ? OK : MEMORY;
}

int nvmlEventSetFree(event_set_t *set)
{
    SYSTEM(nvmlEventSetFree);
    free(set);
    return OK;
}

int nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, event_set_t *set)
{
    DEVICE(nvmlDeviceRegisterEvents, WHOLE);
    if (types != XID)
        return NOT_SUPPORTED;
    set->registered[c.card] = 1;
    set->seen[c.card] = c.gpu.xid_count; /* only what happens from now on */
    return OK;
}

int nvmlEventSetWait_v2(event_set_t *set, event_t *out, unsigned int timeout_ms)
{
    SYSTEM(nvmlEventSetWait_v2);
    for (int card = 0; card < (int)S->gpu_count; card++) {
        const struct gpu *g = &S->gpus[card];
        if (!set->registered[card] || set->seen[card] >= g->xid_count)
            continue;
        *out = (event_t){make_handle(card, -1, 0), XID, g->xids[set->seen[card]++ % MAX_XIDS],
                         UINT32_MAX, UINT32_MAX};
        return OK;
    }
    sleep_ms(timeout_ms);
    return TIMEOUT;
}
