/* log.h: one line per event, on stderr.
 *
 * Its form follows who reads it: on a terminal "HH:MM:SS text", with the level in front, coloured (unless NO_COLOR is
 * set), where it is more than information; where stderr is the journal's (systemd.exec(5), JOURNAL_STREAM) the
 * priority systemd understands and a JSON object; else "LEVEL component: text".
 *
 * Lines are written with one write(2) each, so that those of several processes sharing a descriptor do not mix.
 * Nothing allocates; safe from any thread. */
#ifndef FORKD_BASE_LOG_H
#define FORKD_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Sets what is printed (default LOG_INFO) and the component named in every line (kept by pointer), and looks what
 * stderr is. Before there are threads. */
void log_init(enum log_level most, const char *component);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
