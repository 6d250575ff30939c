#include "commands.h"

#include <string.h>

#include "checkpoint_reader.h"
#include "message.h"
#include "snapshot_optimize.h"
#include "snapshot_version.h"
#include "stored.h"
#include "table_source.h"

/* 'rebuild' looks at the source anew: its columns, its rows, and the triggers. */
static int look_again(faiss_table *t, char **message)
{
    source s = {0};
    column_list l = {0};
    int rc = table_find_source(t, &s, message);
    if (rc == SQLITE_OK)
        rc = table_store(t, &s, config_refill, 1, &l, message);
    t->columns.live = rc == SQLITE_OK ? l.live : t->columns.live;
    column_list_clear(&l);
    source_clear(&s);
    return rc;
}

/* What is stored is of what was learned before: it is stored again. */
static int command_rebuild(faiss_table *t, snapshot *s, char **message)
{
    const checkpoint_place place = table_checkpoint_place(t);
    index_version *v;
    snapshot_forget(s);
    int rc = snapshot_index(s, &v, message);
    if (rc == SQLITE_OK)
        rc = snapshot_optimize(s, 1, message);
    if (rc == SQLITE_OK && table_is_approximate(t) && checkpoint_exists(&place))
        rc = stored_save(s, t->schema, t->name, &t->past, message);
    return rc;
}

static int command_integrity_check(faiss_table *t, snapshot *s, char **message)
{
    const checkpoint_place place = table_checkpoint_place(t);
    int equal;
    int rc = snapshot_check(s, &equal, message);
    if (rc == SQLITE_OK && equal && table_is_approximate(t))
        return checkpoint_verify(&place, snapshot_poll, s, message);
    if (rc != SQLITE_OK || equal)
        return rc;
    *message = sqlite3_mprintf("the index differs from %s.%s", s->source->schema, s->source->table);
    return *message ? SQLITE_CORRUPT_VTAB : SQLITE_NOMEM;
}

static int command_optimize(faiss_table *t, snapshot *s, char **message)
{
    int rc = snapshot_optimize(s, 0, message);
    return rc == SQLITE_OK ? stored_save(s, t->schema, t->name, &t->past, message) : rc;
}

static const struct command {
    const char *name;
    int (*run)(faiss_table *t, snapshot *s, char **message);
} commands[] = {{"rebuild", command_rebuild},
                {"optimize", command_optimize},
                {"integrity-check", command_integrity_check}};
enum { COMMANDS = sizeof commands / sizeof *commands };

int command_run(faiss_table *t, const char *name, char **message)
{
    if (t->damage)
        return set_message(message, sqlite3_mprintf("%s", t->damage));
    const struct command *found = NULL;
    for (int i = 0; i < COMMANDS; i++) {
        if (name && strcmp(name, commands[i].name) == 0)
            found = &commands[i];
    }
    if (!found) {
        return set_message(message, sqlite3_mprintf("unknown command: %Q (expected 'rebuild', "
                                                    "'optimize' or 'integrity-check')",
                                                    name));
    }
    snapshot s = {0};
    int rc = found->run == command_rebuild ? look_again(t, message) : SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = snapshot_open(t->connection, &t->definition, &s, message);
    if (rc == SQLITE_OK)
        rc = found->run(t, &s, message);
    snapshot_close(&s);
    return rc;
}
