/* err.h: the error object every fallible function fills.
 *
 * A function that can fail takes a caller-owned `struct err *` last, returns 0 (or a useful non-negative
 * value) on success and a negative errno on failure. Success leaves the object alone; a failure writes one
 * sentence that names the thing that failed, and callers put context in front of it on the way up.
 * A NULL object is allowed everywhere: the code is still returned, the words are dropped.
 * No allocation is made, so that an error can be reported when there is no memory. */
#ifndef FORKD_BASE_ERR_H
#define FORKD_BASE_ERR_H

enum { ERR_TEXT_MAX = 480 };

struct err {
    int code; /* a positive errno value, 0 while nothing failed */
    char text[ERR_TEXT_MAX];
};

/* A system call failed: the sentence is the formatted text, ": " and the text of errno value `code`.
 * Returns -code (-EIO for a code of 0, so that a failure never looks like success). */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The sentence is the formatted text alone, for what people got wrong. Returns -code. */
int err_say(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts the formatted text and ": " in front of the sentence. Returns -err->code. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
