/* bitmap.c: claims about src/mem/bitmap. */
#include "mem/bitmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WORDS = 300 }; /* no multiple of what is skipped at once */

static struct bitmap_summed summed_new(void)
{
    return (struct bitmap_summed){.word = calloc(WORDS, sizeof(uint64_t)),
                                  .summary = calloc(bitmap_summary_words(WORDS), sizeof(uint64_t)),
                                  .words = WORDS};
}

static void summed_free(struct bitmap_summed *bitmap)
{
    free(bitmap->word);
    free(bitmap->summary);
}

/* Both scans stop at the same words, those that are not zero. */
static void assert_scans(const struct bitmap_summed *bitmap)
{
    size_t plain = 0, summed = 0;
    for (size_t i = 0; i < WORDS; i++) {
        if (!bitmap->word[i])
            continue;
        assert_int_equal(plain = bitmap_next(bitmap->word, WORDS, plain), i);
        assert_int_equal(summed = bitmap_summed_next(bitmap, summed), i);
        plain++;
        summed++;
    }
    assert_int_equal(bitmap_next(bitmap->word, WORDS, plain), WORDS);
    assert_int_equal(bitmap_summed_next(bitmap, summed), WORDS);
}

static void both_scans_find_every_word_wherever_it_is(void **state)
{
    struct bitmap_summed bitmap = summed_new();
    assert_scans(&bitmap);
    for (size_t i = 0; i < WORDS; i++) {
        bitmap_summed_or(&bitmap, i, UINT64_C(1) << i % 64);
        assert_scans(&bitmap);
        bitmap.word[i] = 0; /* the summary stays */
        assert_scans(&bitmap);
    }
    summed_free(&bitmap);
}

static void scans_agree_on_random_bits(void **state)
{
    srandom(1);
    for (unsigned round = 0; round < 200; round++) {
        struct bitmap_summed bitmap = summed_new();
        for (unsigned n = (unsigned)random() % 40; n; n--)
            bitmap_summed_or(&bitmap, (size_t)random() % WORDS, UINT64_C(1) << random() % 64);
        assert_scans(&bitmap);
        summed_free(&bitmap);
    }
}

static void adding_keeps_what_was_there(void **state)
{
    struct bitmap_summed into = summed_new();
    uint64_t more[WORDS] = {[0] = 1, [70] = UINT64_MAX, [WORDS - 1] = 2};
    bitmap_summed_or(&into, 70, 5);
    bitmap_summed_or(&into, 71, 8);
    bitmap_summed_add(&into, more);
    assert_scans(&into);
    assert_int_equal(bitmap_count(into.word, WORDS), 1 + 64 + 1 + 1);
    assert_int_equal(into.word[71], 8);
    summed_free(&into);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_scans_find_every_word_wherever_it_is),
        cmocka_unit_test(scans_agree_on_random_bits),
        cmocka_unit_test(adding_keeps_what_was_there),
    };
    return cmocka_run_group_tests_name("bitmap", tests, NULL, NULL);
}
