/* Compresses a text, decompresses it again, and says how that went. Linked with the zstd that the demo has built. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zstd.h"

#define BYTES (4u << 20)

int main(void)
{
    static const char *const words[] = { "sand ", "glass ", "lightning ", "tube ", "desert ", "beach ", "quartz\n" };
    size_t const bound = ZSTD_compressBound(BYTES);
    char *text = malloc(BYTES), *packed = malloc(bound), *again = malloc(BYTES);
    if (!text || !packed || !again)
        return 1;

    unsigned state = 1;
    for (size_t filled = 0; filled < BYTES;) {
        state = state * 1103515245u + 12345u;
        const char *word = words[(state >> 16) % (sizeof(words) / sizeof(*words))];
        size_t length = strlen(word);
        if (length > BYTES - filled)
            length = BYTES - filled;
        memcpy(text + filled, word, length);
        filled += length;
    }

    size_t const size = ZSTD_compress(packed, bound, text, BYTES, 9);
    if (ZSTD_isError(size)) {
        fprintf(stderr, "cannot compress: %s\n", ZSTD_getErrorName(size));
        return 1;
    }
    size_t const back = ZSTD_decompress(again, BYTES, packed, size);
    if (ZSTD_isError(back) || back != BYTES || memcmp(text, again, BYTES) != 0) {
        fprintf(stderr, "what was decompressed is not what was compressed\n");
        return 1;
    }
    printf("zstd %s: %u bytes compressed to %zu and back, unchanged\n", ZSTD_versionString(), BYTES, size);
    free(text);
    free(packed);
    free(again);
    return 0;
}
