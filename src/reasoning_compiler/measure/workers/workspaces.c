/* Memory for what a kernel allocates for itself, in place of TVM's while the kernel is verified; see workspaces.py.

       pages of no access | ... fill ... | the buffer | < 64 bytes of fill | pages of no access

   The buffer itself can be filled too, each time that a kernel takes it. A kernel's threads take and free buffers at the
   same time; all else is called by the one thread that starts kernels, while none runs. */

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { CPU = 1, ALIGNMENT = 64 /* TVM's kTempAllocaAlignment */, FENCE_BYTES = 1 << 16 };

typedef void* (*take_t)(int device_type, int device_id, uint64_t num_bytes, int code, int bits);
typedef int (*free_t)(int device_type, int device_id, void* buffer);

struct block {
  struct block* next;
  unsigned char* start; /* of what can be reached */
  size_t inside;        /* bytes that can be reached */
  unsigned char* buffer;
  size_t num_bytes;
  unsigned char fill;
  int is_taken;
};

static void* library;
static take_t* take_slot;
static free_t* free_slot;
static take_t tvm_take;
static free_t tvm_free;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block* blocks;
static unsigned char fill = 0xFF;
static int fills_buffers;
static uint64_t touched_bytes; /* of the first buffer beside which something was written; 0 for none */

static size_t round_up(size_t num_bytes, size_t to) { return (num_bytes + to - 1) / to * to; }

static struct block* map(size_t inside) {
  struct block* block = malloc(sizeof *block);
  if (block == NULL) return NULL;
  size_t whole = inside + 2 * FENCE_BYTES;
  unsigned char* fence = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fence == MAP_FAILED) {
    free(block);
    return NULL;
  }
  block->start = fence + FENCE_BYTES;
  block->inside = inside;
  if (mprotect(block->start, inside, PROT_READ | PROT_WRITE) != 0) {
    munmap(fence, whole);
    free(block);
    return NULL;
  }
  return block;
}

static int is_filled(const unsigned char* from, const unsigned char* to, unsigned char with) {
  return from == to || (*from == with && memcmp(from, from + 1, (size_t)(to - from) - 1) == 0);
}

static void look(const struct block* block) {
  const unsigned char *end = block->buffer + block->num_bytes, *last = block->start + block->inside;
  int is_intact = is_filled(block->start, block->buffer, block->fill) && is_filled(end, last, block->fill);
  if (touched_bytes == 0 && !is_intact) touched_bytes = block->num_bytes;
}

static void* take_fenced(int device_type, int device_id, uint64_t num_bytes, int code, int bits) {
  if (device_type != CPU || num_bytes == 0 || num_bytes > PTRDIFF_MAX / 2)
    return tvm_take(device_type, device_id, num_bytes, code, bits);
  size_t room = round_up((size_t)num_bytes, ALIGNMENT);
  size_t inside = round_up(room, (size_t)sysconf(_SC_PAGESIZE));
  pthread_mutex_lock(&lock);
  struct block* block = blocks;
  while (block != NULL && (block->is_taken || block->inside != inside)) block = block->next;
  if (block == NULL && (block = map(inside)) != NULL) {
    block->next = blocks;
    blocks = block;
  }
  if (block != NULL) {
    block->buffer = block->start + inside - room;
    block->num_bytes = (size_t)num_bytes;
    block->fill = fill;
    block->is_taken = 1;
  }
  pthread_mutex_unlock(&lock);
  /* Where there is no memory left, TVM says so in its own way. */
  if (block == NULL) return tvm_take(device_type, device_id, num_bytes, code, bits);
  if (fills_buffers) {
    memset(block->start, block->fill, inside);
  } else {
    unsigned char* end = block->buffer + block->num_bytes;
    memset(block->start, block->fill, (size_t)(block->buffer - block->start));
    memset(end, block->fill, (size_t)(block->start + inside - end));
  }
  return block->buffer;
}

static int free_fenced(int device_type, int device_id, void* buffer) {
  pthread_mutex_lock(&lock);
  struct block* block = blocks;
  while (block != NULL && !(block->is_taken && block->buffer == buffer)) block = block->next;
  if (block != NULL) {
    look(block);
    block->is_taken = 0;
  }
  pthread_mutex_unlock(&lock);
  if (block == NULL) return tvm_free(device_type, device_id, buffer);
  return 0;
}

/* Returns whether a library that is loaded takes buffers at all; if so, from here until `leave`. */
int enter(const char* path) {
  library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  if (library == NULL) return 0;
  take_slot = (take_t*)dlsym(library, "__TVMBackendAllocWorkspace");
  free_slot = (free_t*)dlsym(library, "__TVMBackendFreeWorkspace");
  if (take_slot == NULL || free_slot == NULL) {
    dlclose(library);
    library = NULL;
    return 0;
  }
  tvm_take = *take_slot;
  tvm_free = *free_slot;
  touched_bytes = 0;
  fill = 0xFF;
  fills_buffers = 0;
  *take_slot = take_fenced;
  *free_slot = free_fenced;
  return 1;
}

/* Gives the library TVM's own functions back, and the memory to the system. */
void leave(void) {
  if (library == NULL) return;
  *take_slot = tvm_take;
  *free_slot = tvm_free;
  dlclose(library);
  library = NULL;
  while (blocks != NULL) {
    struct block* block = blocks;
    blocks = block->next;
    munmap(block->start - FENCE_BYTES, block->inside + 2 * FENCE_BYTES);
    free(block);
  }
}

/* Sets the byte that buffers, and what lies beside them, are filled with from now on; before, only the latter is. */
void fill_with(int byte) {
  fill = (unsigned char)byte;
  fills_buffers = 1;
}

/* Returns the size of a buffer beside which something has been written, 0 where there is none. */
uint64_t touched(void) {
  for (struct block* block = blocks; block != NULL; block = block->next)
    if (block->is_taken) look(block);
  return touched_bytes;
}
