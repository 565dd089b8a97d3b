/* What `bench sandbox` compiles: a small table of words, as an ordinary program would have it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 64

struct word {
    struct word *next;
    unsigned long count;
    size_t length;
    char text[];
};

struct table {
    struct word *buckets[BUCKETS];
    size_t words;
    size_t bytes;
};

static unsigned long hash(const char *text, size_t length)
{
    unsigned long value = 5381;
    for (size_t i = 0; i < length; i++)
        value = value * 33 ^ (unsigned char)text[i];
    return value;
}

struct table *table_new(void)
{
    return calloc(1, sizeof(struct table));
}

void table_free(struct table *table)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        struct word *word = table->buckets[i];
        while (word) {
            struct word *next = word->next;
            free(word);
            word = next;
        }
    }
    free(table);
}

int table_add(struct table *table, const char *text, size_t length)
{
    struct word **bucket = &table->buckets[hash(text, length) % BUCKETS];
    for (struct word *word = *bucket; word; word = word->next) {
        if (word->length == length && memcmp(word->text, text, length) == 0) {
            word->count++;
            return 0;
        }
    }
    struct word *word = malloc(sizeof(struct word) + length + 1);
    if (!word)
        return -1;
    word->next = *bucket;
    word->count = 1;
    word->length = length;
    memcpy(word->text, text, length);
    word->text[length] = '\0';
    *bucket = word;
    table->words++;
    table->bytes += length;
    return 0;
}

static int by_count(const void *a, const void *b)
{
    const struct word *left = *(struct word *const *)a, *right = *(struct word *const *)b;
    if (left->count != right->count)
        return left->count < right->count ? 1 : -1;
    return strcmp(left->text, right->text);
}

int table_print(const struct table *table, FILE *out)
{
    struct word **all = malloc(table->words * sizeof(*all) + 1);
    if (!all)
        return -1;
    size_t filled = 0;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct word *word = table->buckets[i]; word; word = word->next)
            all[filled++] = word;
    qsort(all, filled, sizeof(*all), by_count);
    for (size_t i = 0; i < filled; i++)
        fprintf(out, "%8lu %s\n", all[i]->count, all[i]->text);
    free(all);
    return ferror(out) ? -1 : 0;
}

int main(void)
{
    char line[4096];
    struct table *table = table_new();
    if (!table)
        return 1;
    while (fgets(line, sizeof(line), stdin))
        for (char *word = strtok(line, " \t\n"); word; word = strtok(NULL, " \t\n"))
            if (table_add(table, word, strlen(word)))
                return 1;
    int status = table_print(table, stdout);
    table_free(table);
    return status ? 1 : 0;
}
