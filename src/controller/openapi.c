/* openapi.c: see openapi.h. */
#include "controller/openapi.h"

const char openapi_document[] = {
#include "controller/openapi.inc"
};
const size_t openapi_len = sizeof openapi_document;
