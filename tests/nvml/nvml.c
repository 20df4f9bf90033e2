/* A stand-in for NVIDIA's management library: it reports the devices that a text file describes.

   Read anew by every nvmlInit from the path in STAND_IN_NVML; a line each:

     card UUID NAME BUS TOTAL FREE UTILISATION TEMPERATURE MAJOR.MINOR SPLIT
     instance UUID NAME TOTAL FREE GPU_INSTANCE COMPUTE_INSTANCE      of the card above
     process PID USED                                                 on the card or instance above
     apart CARD CARD LEVEL                                            topology
     nvlink CARD CARD
     switch CARD                                                      has an NVLink to a switch
     driver VERSION CUDA                                              such as 580.65.06 13000
     error FUNCTION CODE [CARD]                                       what a function answers

   Spaces in names are written as underscores. What is compiled with -DWITHOUT_x=1 lacks the symbol. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
enum { MOST = 64, PROCESSES = 16 };

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct Device {
  char uuid[96], name[96], bus[32];
  unsigned long long total, free;
  int use, temperature, major, minor, split, gpu_instance, compute_instance;
  int number, parts, card, links, has_switch;
  int linked[MOST], apart[MOST];
  struct Device *part[MOST];
  Process process[PROCESSES];
  int processes;
} Device;

static Device devices[MOST * 2];
static Device *cards[MOST];
static int count, made;
static char errors[MOST][96];
static int codes[MOST], on[MOST], failing;
static char driver[80];
static int cuda;

static char *spaces(char *text) {
  for (char *c = text; *c; c++)
    if (*c == '_') *c = ' ';
  return text;
}

static int answer(const char *function, Device *device) {
  for (int i = 0; i < failing; i++)
    if (!strcmp(errors[i], function) && (on[i] < 0 || !device || device->card == on[i])) return codes[i];
  return OK;
}

#define ANSWER(device)                                                                             \
  do {                                                                                             \
    int code = answer(__func__, device);                                                           \
    if (code) return code;                                                                         \
  } while (0)

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  const char *path = getenv("STAND_IN_NVML");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[512], word[32], name[96];
  Device *now = NULL;
  int a, b, level;
  memset(devices, 0, sizeof devices);
  count = made = failing = cuda = 0;
  if (!file) return 9; /* the driver is not loaded */
  while (fgets(line, sizeof line, file)) {
    if (sscanf(line, "%31s", word) != 1) continue;
    if (!strcmp(word, "card")) {
      now = cards[count] = &devices[made++];
      sscanf(line, "%*s %95s %95s %31s %llu %llu %d %d %d.%d %d", now->uuid, now->name, now->bus,
             &now->total, &now->free, &now->use, &now->temperature, &now->major, &now->minor,
             &now->split);
      spaces(now->name);
      now->number = now->card = count;
      for (int i = 0; i < MOST; i++) now->apart[i] = -1;
      count++;
    } else if (!strcmp(word, "instance")) {
      Device *card = cards[count - 1];
      now = card->part[card->parts++] = &devices[made++];
      sscanf(line, "%*s %95s %95s %llu %llu %d %d", now->uuid, now->name, &now->total, &now->free,
             &now->gpu_instance, &now->compute_instance);
      spaces(now->name);
      now->card = card->number;
    } else if (!strcmp(word, "process")) {
      Process *p = &now->process[now->processes++];
      sscanf(line, "%*s %u %llu", &p->pid, &p->used);
    } else if (!strcmp(word, "apart") && sscanf(line, "%*s %d %d %d", &a, &b, &level) == 3) {
      cards[a]->apart[b] = cards[b]->apart[a] = level;
    } else if (!strcmp(word, "nvlink") && sscanf(line, "%*s %d %d", &a, &b) == 2) {
      cards[a]->linked[cards[a]->links++] = b;
      cards[b]->linked[cards[b]->links++] = a;
    } else if (!strcmp(word, "switch") && sscanf(line, "%*s %d", &a) == 1) {
      cards[a]->has_switch = 1;
    } else if (!strcmp(word, "driver")) {
      sscanf(line, "%*s %79s %d", driver, &cuda);
    } else if (!strcmp(word, "error")) {
      on[failing] = -1;
      sscanf(line, "%*s %95s %d %d", name, &codes[failing], &on[failing]);
      strcpy(errors[failing++], name);
    }
  }
  fclose(file);
  return answer(__func__, NULL);
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
  return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : "An Error of the Stand-in";
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  ANSWER(NULL);
  if (!cuda) return UNSUPPORTED;
  snprintf(text, size, "%s", driver);
  return OK;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
  ANSWER(NULL);
  if (!cuda) return UNSUPPORTED;
  *version = cuda;
  return OK;
}

int nvmlDeviceGetCount_v2(unsigned *found) {
  ANSWER(NULL);
  *found = (unsigned)count;
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  if ((int)index >= count) return INVALID;
  *device = cards[index];
  ANSWER(*device);
  return OK;
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned size) {
  ANSWER(device);
  snprintf(text, size, "%s", device->uuid);
  return OK;
}

int nvmlDeviceGetName(Device *device, char *text, unsigned size) {
  ANSWER(device);
  snprintf(text, size, "%s", device->name);
  return OK;
}

int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *three) {
  ANSWER(device);
  three[0] = device->total, three[1] = device->free, three[2] = device->total - device->free;
  return OK;
}

int nvmlDeviceGetPciInfo_v3(Device *device, char *info) {
  ANSWER(device);
  memset(info, 0, 16 + 5 * 4 + 32);
  snprintf(info + 16 + 5 * 4, 32, "%s", device->bus);
  return OK;
}

int nvmlDeviceGetUtilizationRates(Device *device, unsigned *two) {
  ANSWER(device);
  two[0] = (unsigned)device->use, two[1] = 0;
  return OK;
}

#ifndef WITHOUT_TEMPERATURE
int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *degrees) {
  (void)sensor;
  ANSWER(device);
  *degrees = (unsigned)device->temperature;
  return OK;
}
#endif

int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
  ANSWER(device);
  *major = device->major, *minor = device->minor;
  return OK;
}

#ifndef WITHOUT_MIG
int nvmlDeviceGetMigMode(Device *device, unsigned *now, unsigned *later) {
  ANSWER(device);
  *now = *later = (unsigned)device->split;
  return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *most) {
  ANSWER(device);
  *most = 7;
  return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **part) {
  ANSWER(device);
  if ((int)index >= device->parts) return NOT_FOUND;
  *part = device->part[index];
  return OK;
}

int nvmlDeviceGetGpuInstanceId(Device *device, unsigned *number) {
  ANSWER(device);
  *number = (unsigned)device->gpu_instance;
  return OK;
}

int nvmlDeviceGetComputeInstanceId(Device *device, unsigned *number) {
  ANSWER(device);
  *number = (unsigned)device->compute_instance;
  return OK;
}
#endif

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *found, Process *list) {
  ANSWER(device);
  if (device->processes && (!list || (int)*found < device->processes)) {
    *found = (unsigned)device->processes;
    return TOO_SMALL;
  }
  *found = (unsigned)device->processes;
  if (list) memcpy(list, device->process, sizeof(Process) * (size_t)device->processes);
  return OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *found, Process *list) {
  (void)list;
  ANSWER(device);
  *found = 0;
  return OK;
}

int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, int *level) {
  ANSWER(one);
  if (one->apart[other->number] < 0) return UNSUPPORTED;
  *level = one->apart[other->number];
  return OK;
}

int nvmlDeviceGetNvLinkState(Device *device, unsigned link, unsigned *active) {
  ANSWER(device);
  if ((int)link >= device->links + device->has_switch) return INVALID;
  *active = 1;
  return OK;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Device *device, unsigned link, int *kind) {
  ANSWER(device);
  *kind = (int)link < device->links ? 0 : 2;
  return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device *device, unsigned link, char *info) {
  ANSWER(device);
  if ((int)link >= device->links) return INVALID;
  return nvmlDeviceGetPciInfo_v3(cards[device->linked[link]], info);
}
