/* tls.h: the certificate this controller shows to clients over TLS.
 *
 * Theory of operation. Certificate and key are read from two PEM files when the controller starts and again on SIGHUP,
 * so that a renewed certificate is shown without a restart. A handshake gets a copy of its own of what is current,
 * which GnuTLS frees with it: a reload never pulls a key from under a handshake.
 *
 * Invariant. What is kept was tried before: the files could be parsed, and the key is that of the certificate. */
#ifndef FORKD_CONTROLLER_TLS_H
#define FORKD_CONTROLLER_TLS_H

#include "base/err.h"

#include <gnutls/abstract.h>

/* Reads both files; there is one identity a process. */
int tls_open(const char *cert_path, const char *key_path, struct err *err);
/* Reads the files anew; if that fails, the certificate of before stays. Does nothing where none was opened. */
int tls_reload(struct err *err);
void tls_close(void);

/* For MHD_OPTION_HTTPS_CERT_CALLBACK2. */
gnutls_certificate_retrieve_function3 tls_retrieve;
/* Protocol versions and ciphers, as GnuTLS writes them: TLS 1.2 and 1.3. */
extern const char tls_priorities[];

#endif
