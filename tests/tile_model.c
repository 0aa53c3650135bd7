/* A model of AMX for a CPU without it: the handler of SIGILL does what the instruction says, and goes on behind it.

After Intel's manual (Software Developer's Manual, volume 2; "Intel AMX instruction set reference"). Each thread has
its own registers. What an instruction would refuse, as a register that is not configured, is left out and counted. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { CONFIGURED, RELEASED, LOADED, STORED, MULTIPLIED, REFUSED, KINDS };
enum { NONE, P66, PF3, PF2 }; /* the prefixes that tell instructions of one opcode apart */

typedef union {
    uint8_t u8[16][64];
    int8_t s8[16][64];
    uint16_t u16[16][32];
    uint32_t u32[16][16];
    float f32[16][16];
} Tile;

static __thread uint8_t config[64];
static __thread Tile tiles[8];
static long counts[KINDS];
static struct sigaction before;

static const int registers[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void count(int kind) { __sync_fetch_and_add(&counts[kind], 1); }
static int rows_of(int t) { return config[48 + t]; }
static int bytes_of(int t) { return config[16 + 2 * t] | config[17 + 2 * t] << 8; }

static int usable(int t) { return config[0] == 1 && t < 8 && rows_of(t) && bytes_of(t); }

#define REQUIRE(holds)      \
    do {                    \
        if (!(holds)) {     \
            count(REFUSED); \
            return;         \
        }                   \
    } while (0)

static float normal(uint32_t bits) { /* numbers below the smallest normal one count as zero */
    float number;
    bits = bits & 0x7f800000 ? bits : bits & 0x80000000;
    memcpy(&number, &bits, 4);
    return number;
}

static float added(float sum, uint16_t a, uint16_t b) {
    uint32_t bits;
    sum = __builtin_fmaf(normal((uint32_t)a << 16), normal((uint32_t)b << 16), sum);
    memcpy(&bits, &sum, 4);
    return normal(bits);
}

static void multiply(int opcode, int prefix, int c, int a, int b) {
    REQUIRE(usable(c) && usable(a) && usable(b) && c != a && c != b && a != b);
    REQUIRE(bytes_of(a) == 4 * rows_of(b) && rows_of(c) == rows_of(a) && bytes_of(c) == bytes_of(b));
    count(MULTIPLIED);
    const int a_signed = prefix == PF2 || prefix == PF3, b_signed = prefix == PF2 || prefix == P66;
    for (int m = 0; m < rows_of(c); m++)
        for (int k = 0; k < rows_of(b); k++)
            for (int n = 0; n < bytes_of(c) / 4; n++) {
                if (opcode == 0x5c) {
                    for (int t = 0; t < 2; t++)
                        tiles[c].f32[m][n] = added(tiles[c].f32[m][n], tiles[a].u16[m][2 * k + t], tiles[b].u16[k][2 * n + t]);
                    continue;
                }
                for (int t = 0; t < 4; t++) {
                    int x = a_signed ? tiles[a].s8[m][4 * k + t] : tiles[a].u8[m][4 * k + t];
                    int y = b_signed ? tiles[b].s8[k][4 * n + t] : tiles[b].u8[k][4 * n + t];
                    tiles[c].u32[m][n] += (uint32_t)(x * y);
                }
            }
}

static void configure(const uint8_t *from) {
    memcpy(config, from, sizeof config);
    memset(tiles, 0, sizeof tiles);
    REQUIRE(config[0] == 1);
    for (int t = 0; t < 8; t++)
        REQUIRE(rows_of(t) <= 16 && bytes_of(t) <= 64);
    count(CONFIGURED);
}

static void load(int t, const uint8_t *from, uint64_t stride) {
    REQUIRE(usable(t));
    memset(&tiles[t], 0, sizeof(Tile));
    for (int m = 0; m < rows_of(t); m++)
        memcpy(tiles[t].u8[m], from + m * stride, bytes_of(t));
    count(LOADED);
}

static void store(int t, uint8_t *to, uint64_t stride) {
    REQUIRE(usable(t));
    for (int m = 0; m < rows_of(t); m++)
        memcpy(to + m * stride, tiles[t].u8[m], bytes_of(t));
    count(STORED);
}

/* Returns whether it is one of AMX, done. */
static int done(greg_t *state) {
    const uint8_t *code = (const uint8_t *)state[REG_RIP];
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || code[2] & 0x84) /* VEX.128.0F38.W0 */
        return 0;
    const int opcode = code[3], prefix = code[2] & 3, v = ~code[2] >> 3 & 15, mode = code[4] >> 6;
    const int reg = (code[4] >> 3 & 7) | !(code[1] & 0x80) << 3, rm = (code[4] & 7) | !(code[1] & 0x20) << 3;
    const int in_memory = mode != 3, has_index = in_memory && (rm & 7) == 4;
    const uint8_t *next = code + 5;
    uint64_t address = 0, stride = 0;
    if (in_memory) {
        int base = rm, wide = mode == 2;
        if (has_index) {
            int index = (*next >> 3 & 7) | !(code[1] & 0x40) << 3;
            base = (*next & 7) | (rm & 8);
            stride = index == 4 ? 0 : (uint64_t)state[registers[index]] << (*next >> 6);
            next++;
        }
        int none = mode == 0 && (base & 7) == 5;
        int32_t offset = 0;
        if (mode == 1)
            offset = (int8_t)*next++;
        else if (wide || none)
            memcpy(&offset, next, 4), next += 4;
        address = none ? (has_index ? 0 : (uint64_t)next) : (uint64_t)state[registers[base]];
        address += (uint64_t)(int64_t)offset;
    }
    if (opcode == 0x49 && prefix == NONE && in_memory && reg == 0) {
        configure((const uint8_t *)(address + stride));
    } else if (opcode == 0x49 && prefix == NONE && code[4] == 0xc0) {
        memset(config, 0, sizeof config);
        count(RELEASED);
    } else if (opcode == 0x4b && has_index && prefix == PF2) {
        load(reg, (const uint8_t *)address, stride);
    } else if (opcode == 0x4b && has_index && prefix == PF3) {
        store(reg, (uint8_t *)address, stride);
    } else if (!in_memory && (opcode == 0x5e || (opcode == 0x5c && prefix == PF3))) {
        multiply(opcode, prefix, reg, rm, v);
    } else
        return 0;
    state[REG_RIP] = (greg_t)next;
    return 1;
}

static void handle(int signal, siginfo_t *info, void *context) {
    (void)info;
    if (!done(((ucontext_t *)context)->uc_mcontext.gregs))
        sigaction(signal, &before, 0); /* it comes again, and is theirs */
}

void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, &before);
}

void uninstall(void) { sigaction(SIGILL, &before, 0); }

/* Returns how many instructions of a kind were done since the last call. */
long taken(int kind) { return __sync_lock_test_and_set(&counts[kind], 0); }
