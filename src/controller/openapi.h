/* openapi.h: the description of the API, as it is served: OpenAPI 3.1, compact.
 *
 * Its source is openapi.json beside this file. A test walks it against a running controller: a route, status or field
 * that is in one and not in the other fails it. */
#ifndef FORKD_CONTROLLER_OPENAPI_H
#define FORKD_CONTROLLER_OPENAPI_H

#include <stddef.h>

/* Not terminated. */
extern const char openapi_document[];
extern const size_t openapi_len;

#endif
