#!/bin/sh
# Makes a database unless there is one, and starts PostgreSQL. The variables are those of the official image: POSTGRES_USER,
# POSTGRES_PASSWORD_FILE, POSTGRES_DB and PGDATA.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Under another name until it is whole: the first start may be cut off.
    rm -rf "$PGDATA.new"
    initdb --pgdata "$PGDATA.new" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 \
        --encoding UTF8 --locale C.UTF-8 >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA.new" postgres >/dev/null
    mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c "listen_addresses=*" "$@"
