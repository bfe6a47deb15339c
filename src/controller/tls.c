/* tls.c: see tls.h. */
#include "controller/tls.h"

#include "base/io.h"
#include "base/own.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>

enum { PEM_MAX = 256 * 1024, CHAIN_MAX = 16 };

const char tls_priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

struct identity {
    gnutls_datum_t cert, key; /* PEM; a certificate may be followed by those that vouch for it */
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER; /* guards `current` */
static struct identity current;
static const char *cert_file, *key_file;

static int pem_read(const char *path, gnutls_datum_t *pem, struct err *err)
{
    char *text = malloc(PEM_MAX);
    if (!text)
        return err_say(err, ENOMEM, "out of memory");
    ssize_t n = io_read_text(AT_FDCWD, path, text, PEM_MAX, err);
    if (n < 0) {
        free(text);
        return (int)n;
    }
    pem->data = (unsigned char *)text;
    pem->size = (unsigned)n;
    return 0;
}

static void identity_free(struct identity *identity)
{
    if (identity->key.data)
        explicit_bzero(identity->key.data, identity->key.size);
    free(identity->key.data);
    free(identity->cert.data);
    *identity = (struct identity){0};
}

/* GnuTLS takes the pair as a server would, and says what is wrong with it. */
static int identity_try(const struct identity *identity, struct err *err)
{
    gnutls_certificate_credentials_t credentials;
    if (gnutls_certificate_allocate_credentials(&credentials) < 0)
        return err_say(err, ENOMEM, "out of memory");
    int rc = gnutls_certificate_set_x509_key_mem(credentials, &identity->cert, &identity->key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(credentials);
    if (rc < 0)
        return err_say(err, EINVAL, "the certificate %s with the key %s: %s", cert_file, key_file, gnutls_strerror(rc));
    return 0;
}

static int identity_load(struct identity *identity, struct err *err)
{
    *identity = (struct identity){0};
    int rc = pem_read(cert_file, &identity->cert, err);
    if (rc < 0)
        return err_wrap(err, "the certificate");
    rc = pem_read(key_file, &identity->key, err);
    if (rc < 0)
        err_wrap(err, "the certificate's key");
    else
        rc = identity_try(identity, err);
    if (rc < 0)
        identity_free(identity);
    return rc;
}

int tls_open(const char *cert_path, const char *key_path, struct err *err)
{
    cert_file = cert_path;
    key_file = key_path;
    return identity_load(&current, err);
}

int tls_reload(struct err *err)
{
    struct identity fresh;
    int rc = cert_file ? identity_load(&fresh, err) : 0;
    if (!cert_file || rc < 0)
        return rc;
    pthread_rwlock_wrlock(&lock);
    struct identity old = current;
    current = fresh;
    pthread_rwlock_unlock(&lock);
    identity_free(&old);
    return 0;
}

void tls_close(void)
{
    identity_free(&current);
    cert_file = key_file = NULL;
}

static int key_copy(gnutls_privkey_t *key)
{
    int rc = gnutls_privkey_init(key);
    if (rc < 0)
        return rc;
    rc = gnutls_privkey_import_x509_raw(*key, &current.key, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (rc < 0)
        gnutls_privkey_deinit(*key);
    return rc;
}

/* The lock is held. The list is freed by GnuTLS, with its own allocator. */
static int identity_copy(gnutls_pcert_st **certs, unsigned *count, gnutls_privkey_t *key)
{
    *count = CHAIN_MAX;
    *certs = gnutls_calloc(CHAIN_MAX, sizeof **certs);
    if (!*certs)
        return GNUTLS_E_MEMORY_ERROR;
    int rc = gnutls_pcert_list_import_x509_raw(*certs, count, &current.cert, GNUTLS_X509_FMT_PEM, 0);
    if (rc >= 0) {
        rc = key_copy(key);
        for (unsigned i = 0; rc < 0 && i < *count; i++)
            gnutls_pcert_deinit(&(*certs)[i]);
    }
    if (rc < 0)
        gnutls_free(*certs);
    return rc;
}

int tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **certs,
                 unsigned *count, gnutls_ocsp_data_st **ocsp, unsigned *ocsp_count, gnutls_privkey_t *key,
                 unsigned *flags)
{
    *ocsp = NULL;
    *ocsp_count = 0;
    *flags = GNUTLS_CERT_RETR_DEINIT_ALL;
    pthread_rwlock_rdlock(&lock);
    int rc = identity_copy(certs, count, key);
    pthread_rwlock_unlock(&lock);
    return rc < 0 ? -1 : 0;
}
