/* A worker of Bazel's protocol that gives back the first argument of each request: what `fulgurite bench worker` asks.
 *
 * in:  varint length, WorkRequest: 1 arguments, 3 request_id, the rest is passed over
 * out: varint length, WorkResponse: 2 output, 3 request_id
 * It ends with its input; what it cannot read ends it with 1.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static unsigned char in[1 << 20], out[1 << 17];

/* Reads a varint from at[0..left]; gives its length, 0 if it is not whole. */
static size_t varint(const unsigned char *at, size_t left, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < left && i < 10; i++) {
        *value |= (uint64_t)(at[i] & 0x7f) << (7 * i);
        if (at[i] < 0x80)
            return i + 1;
    }
    return 0;
}

static size_t put(unsigned char *at, uint64_t value)
{
    size_t i = 0;
    for (; value >= 0x80; value >>= 7)
        at[i++] = (unsigned char)value | 0x80;
    at[i++] = (unsigned char)value;
    return i;
}

static int answer(const unsigned char *at, size_t left)
{
    const unsigned char *text = NULL;
    uint64_t key, value, id = 0, length = 0;
    while (left > 0) {
        size_t used = varint(at, left, &key);
        if (used == 0)
            return 1;
        at += used, left -= used;
        used = varint(at, left, &value);
        if (used == 0)
            return 1;
        at += used, left -= used;
        if (key == (3 << 3))
            id = value;
        if ((key & 7) == 2) {
            if (value > left)
                return 1;
            if (key == (1 << 3 | 2) && text == NULL)
                text = at, length = value;
            at += value, left -= value;
        } else if ((key & 7) != 0) {
            return 1;
        }
    }
    if (length > sizeof out / 2)
        return 1;
    unsigned char *body = out + 16, *end = body;
    if (text != NULL) {
        *end++ = 2 << 3 | 2;
        end += put(end, length);
        memcpy(end, text, length);
        end += length;
    }
    if (id != 0) {
        *end++ = 3 << 3;
        end += put(end, id);
    }
    unsigned char head[10];
    size_t head_length = put(head, (uint64_t)(end - body));
    unsigned char *first = body - head_length;
    memcpy(first, head, head_length);
    while (first < end) {
        ssize_t wrote = write(1, first, (size_t)(end - first));
        if (wrote <= 0)
            return 1;
        first += wrote;
    }
    return 0;
}

int main(void)
{
    size_t have = 0;
    for (;;) {
        uint64_t length;
        size_t used = varint(in, have, &length);
        if (used > 0 && length > sizeof in - 16)
            return 1;
        if (used > 0 && have - used >= length) {
            if (answer(in + used, length) != 0)
                return 1;
            have -= used + length;
            memmove(in, in + used + length, have);
            continue;
        }
        ssize_t got = read(0, in + have, sizeof in - have);
        if (got <= 0)
            return got < 0;
        have += (size_t)got;
    }
}
