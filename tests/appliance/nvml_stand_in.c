/* A stand-in for NVIDIA's libnvidia-ml.so.1, for machines without a GPU: the functions that gpu_reader calls, with what
   they answer read anew, at each call, from the file that NVML_STAND_IN names. A line is `key value`; a key of a GPU
   begins with its index: `0.temperature 61`. What the file does not name is not supported. Further keys: `gpus`, how many;
   `hang 1`, no call returns while it stands there; `init`, `failed`, `0.lost`: the NVML error to return instead;
   `xids 0:79,0:13`: the Xids so far. Layouts are those of NVIDIA's nvml.h, as pynvml has them. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, TIMEOUT = 10 };

typedef struct { int index; } Device;
typedef struct { uint64_t total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { Device *device; uint64_t type, data; unsigned gpu_instance, compute_instance; } Event;
typedef struct {
  uint32_t field, scope;
  int64_t timestamp, latency;
  int type, result;
  union { unsigned ui; uint64_t ull; double d; } value;
} Field;

static Device devices[8] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static int delivered = 0;

static int text(const char *key, char *out, size_t size) {
  FILE *file = fopen(getenv("NVML_STAND_IN"), "r");
  char line[512];
  int found = 0;
  size_t length = strlen(key);
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, key, length) && line[length] == ' ') {
      line[strcspn(line, "\n")] = 0;
      snprintf(out, size, "%s", line + length + 1);
      found = 1;
    }
  if (file) fclose(file);
  return found;
}

static int number(const char *key, unsigned long long *out) {
  char value[256];
  if (!text(key, value, sizeof value)) return 0;
  *out = strtoull(value, NULL, 10);
  return 1;
}

/* SUCCESS, or what this call is to return instead; it does not return while the driver hangs. */
static int failing(Device *device) {
  unsigned long long value;
  while (number("hang", &value)) usleep(20000);
  if (number("failed", &value)) return (int)value;
  char key[64];
  if (!device) return SUCCESS;
  snprintf(key, sizeof key, "%d.lost", device->index);
  return number(key, &value) ? (int)value : SUCCESS;
}

static int of(Device *device, const char *name, unsigned long long *out) {
  int failed = failing(device);
  char key[64];
  snprintf(key, sizeof key, "%d.%s", device->index, name);
  return failed ? failed : number(key, out) ? SUCCESS : NOT_SUPPORTED;
}

static int small(Device *device, const char *name, unsigned *out) {
  unsigned long long value;
  int failed = of(device, name, &value);
  if (!failed) *out = (unsigned)value;
  return failed;
}

int nvmlInitWithFlags(unsigned flags) {
  unsigned long long value;
  int failed = failing(NULL);
  return failed ? failed : number("init", &value) ? (int)value : SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { return error == 999 ? "Unknown Error" : "an error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
  unsigned long long value = 0;
  int failed = failing(NULL);
  number("gpus", &value);
  *count = (unsigned)value;
  return failed;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  *device = &devices[index];
  return failing(*device);
}
int nvmlDeviceGetMinorNumber(Device *device, unsigned *minor) { return small(device, "minor", minor); }
int nvmlDeviceGetName(Device *device, char *name, unsigned size) {
  char key[64];
  int failed = failing(device);
  snprintf(key, sizeof key, "%d.name", device->index);
  return failed ? failed : text(key, name, size) ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
  unsigned long long total, used;
  int failed = of(device, "memory_total", &total);
  if (!failed) failed = of(device, "memory_used", &used);
  if (!failed) memory->total = total, memory->used = used, memory->free = total - used;
  return failed;
}
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
  rates->memory = 0;
  return small(device, "utilisation", &rates->gpu);
}
int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *out) {
  return sensor == 0 ? small(device, "temperature", out) : 2;
}
int nvmlDeviceGetTemperatureThreshold(Device *device, int threshold, unsigned *out) {
  return threshold == 1 ? small(device, "slowdown", out) : 2;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
  return small(device, "power", milliwatts);
}
int nvmlDeviceGetTotalEccErrors(Device *device, int kind, int counter, unsigned long long *count) {
  if (counter != 0) return 2;
  return of(device, kind == 0 ? "ecc_corrected" : "ecc_uncorrected", count);
}
int nvmlDeviceGetRemappedRows(Device *device, unsigned *a, unsigned *b, unsigned *pending, unsigned *failure) {
  int failed = small(device, "remap_pending", pending);
  *a = *b = *failure = 0;
  if (!failed) small(device, "remap_failed", failure);
  return failed;
}
int nvmlDeviceGetRetiredPagesPendingStatus(Device *device, int *pending) {
  return small(device, "pages_pending", (unsigned *)pending);
}
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
  return of(device, "reasons", reasons);
}
int nvmlDeviceGetFieldValues(Device *device, int count, Field *fields) {
  int failed = failing(device);
  for (int i = 0; !failed && i < count; i++) {
    unsigned long long value = 0;
    fields[i].result = fields[i].field == 230 ? of(device, "recovery", &value) : NOT_SUPPORTED;
    fields[i].value.ui = (unsigned)value;
  }
  return failed;
}

int nvmlDeviceGetSupportedEventTypes(Device *device, unsigned long long *types) {
  *types = 8;
  return failing(device);
}
int nvmlEventSetCreate(void **set) {
  *set = &delivered;
  return failing(NULL);
}
int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, void *set) {
  return types == 8 && set == &delivered ? failing(device) : 2;
}
int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeout) {
  for (unsigned waited = 0; waited <= timeout; waited += 20) {
    char all[256] = "", *at = all;
    int failed = failing(NULL);
    if (failed) return failed;
    text("xids", all, sizeof all);
    for (int i = 0; i < delivered && at; i++) at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL;
    unsigned index, xid;
    if (at && sscanf(at, "%u:%u", &index, &xid) == 2) {
      delivered++;
      *event = (Event){&devices[index], 8, xid, ~0u, ~0u};
      return SUCCESS;
    }
    usleep(20000);
  }
  return TIMEOUT;
}
