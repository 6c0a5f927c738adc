#!/bin/sh
# The user that the dashboards ask as: it can read, and no more. The Postgres image runs this once, when it makes its
# data folder.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$READER_PASSWORD" --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'END'
CREATE USER grafana PASSWORD :'password' CONNECTION LIMIT 10;
GRANT pg_read_all_data TO grafana;
END
